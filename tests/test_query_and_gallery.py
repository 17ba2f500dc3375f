"""A set with a query and a gallery alone is judged, and refused to those who would train on it."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from composing import settings_of

from reid.config.checks import ConfigError
from reid.config.identity import config_hash
from reid.config.schema import EvalConfig
from reid.data import Crop, DatasetError, load_dataset, silent
from reid.engine.checkpoint import Checkpoint, save_checkpoint
from reid.engine.describe import build_model, checkpoint_meta
from reid.engine.prepare import open_training_data, read_dataset
from reid.jobs.data_commands import check
from reid.judging.domains import read_domain, same_domain

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def judged(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny people to be tested on, in Market's layout, without anybody to train on."""
    root = tmp_path_factory.mktemp("judged")
    for folder in ("query", "bounding_box_test"):
        shutil.copytree(tiny_data / "synthetic" / "day_tiny_0" / folder, root / folder)
    return root


@pytest.fixture(scope="module")
def doubled(judged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same people by folders, every query's own picture among the gallery."""
    root = tmp_path_factory.mktemp("doubled")
    dataset = load_dataset("folder", judged)
    for split, crops in (("query", dataset.query), ("gallery", (*dataset.query, *dataset.gallery))):
        for crop in crops:
            place = root / split / f"{crop.pid:04d}"
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(crop.path, place)
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny: list[str]) -> Path:
    """The model.pt of a run on the tiny set before its first step."""
    settings = settings_of(*tiny)
    dataset, crops, _ = read_dataset(settings, silent)
    data = open_training_data(dataset, settings, silent, crops)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_model(settings, len(data.pids))
    path = tmp_path_factory.mktemp("run") / "model.pt"
    save_checkpoint(path, Checkpoint(network.state_dict(), checkpoint_meta(settings, data, network), {}))
    return path


def table(root: Path, judged: Path) -> Path:
    dataset = load_dataset("folder", judged)
    rows = [
        f"{crop.path},{crop.pid},{crop.camid},{split}"
        for split, crops in (("query", dataset.query), ("gallery", dataset.gallery))
        for crop in crops
    ]
    file = root / "judged.csv"
    file.write_text("\n".join(["path,pid,camid,split", *rows]))
    return file


def test_every_reader_of_own_data_takes_it(judged: Path, doubled: Path, tmp_path: Path) -> None:
    file = table(tmp_path, judged)
    for keys in (
        {"name": "folder", "root": str(judged)},
        {"name": "folders", "root": str(doubled), "cameras": "none"},
        {"name": "table", "file": str(file), "root": str(file.parent)},
    ):
        domain = read_domain(keys, {"name": "market"}, EvalConfig(), silent)
        assert domain.dataset.train == ()
        assert len(domain.dataset.query) == 18


def test_training_on_it_is_refused(judged: Path, own_home: None) -> None:
    settings = settings_of("dataset=folder", f"dataset.root={judged}")
    with pytest.raises(DatasetError, match=r"has nobody to train on.*reid\.evaluate"):
        read_dataset(settings, silent)


@pytest.mark.slow
def test_the_check_says_what_it_is_good_for(judged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check([str(judged)]) == 0
    assert "nobody to train on: fit to be judged on" in capsys.readouterr().out


@pytest.mark.usefixtures("tables")
def test_the_commands_judge_it(run_command: Run, judged: Path, model: Path, tmp_path: Path) -> None:
    typed = (f"checkpoint={model}", "dataset=folder", f"dataset.root={judged}", "device=cpu")
    done = run_command("reid.evaluate", *typed, f"data.store={tmp_path}/store", home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "18" in done.stdout
    assert "their own picture" not in done.stdout + done.stderr


@pytest.mark.usefixtures("tables")
def test_a_query_that_finds_itself_is_warned_of(
    run_command: Run, doubled: Path, model: Path, tmp_path: Path
) -> None:
    typed = (
        f"checkpoint={model}", "dataset=folders", f"dataset.root={doubled}", "dataset.cameras=none",
        f"data.store={tmp_path}/store", "device=cpu",
    )  # fmt: skip
    done = run_command("reid.evaluate", *typed, home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = " ".join((done.stdout + done.stderr).split())
    assert "18 of 18 queries have their own picture, the same bytes, in the gallery" in printed
    assert "100.0" in printed
    done = run_command("reid.threshold", *typed, "target=eer", "replicates=10", "batches=2", home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "18 of 18 queries have their own picture" in " ".join((done.stdout + done.stderr).split())


# ---- what older configs did not say


def test_the_new_keys_at_their_defaults_are_no_difference(own_home: None) -> None:
    settings = settings_of("dataset=table", "dataset.file=crops.csv")
    older = {key: value for key, value in settings.dataset.items() if key not in ("distractor", "null")}
    assert older.keys() == {"name", "file", "root", "test_fraction", "seed"}
    assert same_domain(settings.dataset, older)
    assert not same_domain({**settings.dataset, "distractor": None}, older)
    plain = config_hash(settings)
    settings.dataset = older
    assert config_hash(settings) == plain


@pytest.mark.parametrize(
    ("typed", "key", "value"),
    [
        ("dataset.distractor=null", "distractor", None),
        ("dataset.distractor=999", "distractor", 999),
        ("dataset.distractor=nobody", "distractor", "nobody"),
        ("dataset.null=[]", "null", []),
        ("dataset.null=[NA,None,'']", "null", ["NA", "None", ""]),
        ("dataset.null=[null]", "null", [None]),
    ],
)
def test_the_keys_are_typed_as_others_are(typed: str, key: str, value: object, own_home: None) -> None:
    assert settings_of("dataset=table", "dataset.file=crops.csv", typed).dataset[key] == value


def test_a_wrong_distractor_is_refused(own_home: None) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.distractor=1\.5 is not allowed"):
        settings_of("dataset=folder", "dataset.root=x", "dataset.distractor=1.5")


def test_older_tables_keep_their_pids(tmp_path: Path) -> None:
    """What d063546 made of clean ids: fingerprints are made of pids, and runs are resumed by them."""
    for labels, pids in (
        (["0007", "2", "12"], [7, 2, 12]),
        (["eve", "ann", "7"], [3, 2, 1]),
        (["1234567890", "7", "0000000002"], [2, 3, 1]),
        (["10.0", "9.0"], [10, 9]),
        (["1.5", "2"], [1, 2]),
    ):
        rows = [f"{number}.png,{labels[number // 2]}" for number in range(2 * len(labels))]
        for number in range(2 * len(labels)):
            (tmp_path / f"{number}.png").touch()
        file = tmp_path / "crops.csv"
        file.write_text("\n".join(["path,pid", *rows]))
        dataset = load_dataset("table", tmp_path, file=str(file))
        crops: list[Crop] = sorted(
            dataset.train + dataset.query + dataset.gallery, key=lambda crop: int(crop.path.stem)
        )
        assert [crop.pid for crop in crops][::2] == pids
