"""`reid.evaluate` with eval.quality and eval.groups, from the command line to the model card."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from composing import composed, settings_of
from PIL import Image

from reid import api
from reid.config.checks import ConfigError
from reid.config.settings import threshold_settings
from reid.data import DatasetError
from reid.engine.card import model_card
from reid.engine.checkpoint import load_checkpoint
from reid.extract import main as extract
from reid.inference import load_model

PEOPLE, CAMERAS = 24, 3


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of people of one colour each; half of the queries are so dark that nothing tells them apart."""
    folder = tmp_path_factory.mktemp("crops")
    lines = ["path,pid,camid,split,clothes"]
    for pid in range(1, PEOPLE + 1):
        colour = np.random.default_rng(pid).integers(40, 216, 3)
        for camid in range(CAMERAS):
            for split in ("query", "gallery"):
                generator = np.random.default_rng([pid, camid, len(split)])
                height = int(generator.integers(40, 120))
                noise = generator.normal(0, 12, (height, height // 2, 3))
                dark = 0.04 if split == "query" and pid % 2 else 1.0
                pixels = np.clip(dark * (colour + noise), 0, 255).astype(np.uint8)
                name = f"{pid:02d}_{camid}_{split}.png"
                Image.fromarray(pixels).save(folder / name)
                lines.append(f"{name},{pid},{camid},{split},{'coat' if pid % 2 else 'shirt'}")
    (folder / "crops.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def home(tmp_path: Path, tables: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("REID_HOME", str(tmp_path))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_scores_by_quality_and_group_reach_table_figure_and_card(
    home: Path, crops: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = home / "model.pt"
    shutil.copy(tiny_checkpoint, model)
    data = [
        "dataset=table",
        f"dataset.file={crops / 'crops.csv'}",
        f"data.store={home / 'store'}",
        "device=cpu",
    ]
    api.threshold([f"checkpoint={model}", *data, "target=eer", "replicates=20", "batches=2"])
    closer = ["eval.quality=true", "eval.groups=[camera_pair,size,brightness,clothes]", "card=true"]
    run = api.evaluate([f"checkpoint={model}", *data, *closer])
    printed = capsys.readouterr().out
    assert "mAP of the queries that stay" in printed
    assert "miss rates at the stored threshold" in printed
    assert "Missed more often than the rest" in printed

    groups = pd.read_csv(run.folder / "groups.csv")
    assert set(groups["grouping"]) == {"camera_pair", "size", "brightness", "clothes"}
    assert set(groups["score"]) == {"mAP", "rank-1", "miss rate"}
    assert set(groups[groups["grouping"] == "camera_pair"]["group"]) == {"1-2", "1-3", "2-3"}
    clothes = groups[(groups["grouping"] == "clothes") & (groups["score"] == "mAP")].set_index("group")
    assert clothes.loc["coat", "value"] < clothes.loc["shirt", "value"]  # the dark ones
    assert clothes.loc["coat", "people"] == PEOPLE / 2
    # Both groups together are all queries.
    together = (clothes["value"] * clothes["queries"]).sum() / clothes["queries"].sum()
    assert together == pytest.approx(run.scores["test/mAP"])
    assert not any(name.startswith("test/groups") for name in run.scores)  # a table, not hundreds of metrics

    quality = pd.read_csv(run.folder / "quality.csv")
    model_rows = quality[quality["score"] == "model of all measures"]
    assert model_rows.iloc[0]["mAP_left"] == pytest.approx(run.scores["test/mAP"])
    assert model_rows.iloc[0]["gain"] > 0.1  # what is dark is known to be hard, by other people
    figures = {path.name for path in (run.folder / "figures").iterdir()}
    assert {"quality.png", "groups_mAP.png", "groups_rank-1.png", "groups_miss_rate.png"} <= figures

    meta = load_checkpoint(model).meta
    card = (home / "model_card.md").read_text()
    assert card == model_card(meta)
    assert "## Errors by camera pair and size" in card
    assert "| cameras 1-2" in card
    assert "coat" not in card  # columns of somebody's table stay here
    assert "## Errors" not in model_card(load_checkpoint(tiny_checkpoint).meta)

    # What the checkpoint has learnt of crops is there for Python and for reid.extract.
    images = sorted(crops.glob("*_query.png"))
    found = load_model(model).quality(images)
    assert list(found.columns) == [
        "norm", "height", "width", "sharpness", "contrast", "brightness", "quality", "flags",
    ]  # fmt: skip
    assert found["height"].tolist() == [Image.open(image).height for image in images]
    dark = np.array([int(image.name[:2]) % 2 == 1 for image in images])
    assert found["quality"][dark].mean() < found["quality"][~dark].mean()
    alone = load_model(model).quality(Image.open(images[0]))
    assert alone["quality"][0] == pytest.approx(found["quality"][0], rel=1e-4)
    assert load_model(tiny_checkpoint).quality(images[:2])["quality"].tolist() == [None, None]
    words = [str(crops), "--checkpoint", str(model), "--device", "cpu", "--quality"]
    assert extract([*words, "-o", str(home / "f.csv")]) == 0
    table = pd.read_csv(home / "f.csv").set_index("path")
    assert list(table.columns)[-1] == "quality"
    names = [image.name for image in images]
    np.testing.assert_allclose(table.loc[names, "quality"], found["quality"], rtol=1e-4)
    for suffix in ("parquet", "npz"):
        assert extract([*words, "-o", str(home / f"f.{suffix}")]) == 0
    np.testing.assert_allclose(pd.read_parquet(home / "f.parquet")["quality"], table["quality"], rtol=1e-4)
    np.testing.assert_allclose(np.load(home / "f.npz")["quality"], table["quality"], rtol=1e-4)
    words[2] = str(tiny_checkpoint)
    assert extract([*words, "-o", str(home / "g.csv")]) == 2
    assert "carries no model of quality" in capsys.readouterr().err


def test_what_the_data_do_not_know_is_refused_before_any_work(
    home: Path, crops: Path, tiny_checkpoint: Path, tiny_data: Path
) -> None:
    table = [
        f"checkpoint={tiny_checkpoint}",
        "dataset=table",
        f"dataset.file={crops / 'crops.csv'}",
        "device=cpu",
    ]
    for words, kind, message in (
        (
            [*table, "eval.groups=[shoes]"],
            DatasetError,
            "no column 'shoes': it has path, pid, camid, split, clothes",
        ),
        ([*table, "eval.groups=[path]"], ConfigError, "72 different values"),
        ([*table, "eval.groups=[size,size]"], ConfigError, "each once"),
        (
            [
                table[0],
                "dataset=synthetic",
                "dataset.preset=tiny",
                f"data.root={tiny_data}",
                "eval.groups=[shoes]",
            ],
            ConfigError,
            "read from no table",
        ),
        (
            [
                table[0],
                "dataset=synthetic",
                "dataset.preset=tiny",
                f"data.root={tiny_data}",
                "eval.quality=true",
            ],
            ConfigError,
            "of 6 people are too few",
        ),
    ):
        with pytest.raises(kind, match=message):
            api.evaluate(words)


def test_training_and_thresholds_take_no_closer_look() -> None:
    with pytest.raises(ConfigError, match="are for a trained model"):
        settings_of("eval.quality=true")
    with pytest.raises(ConfigError, match="are for a trained model"):
        threshold_settings(composed("threshold", "checkpoint=x", "eval.groups=[size]"))
