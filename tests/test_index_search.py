"""`reid.index` and `reid.search` from the command line, on a tiny model and the tiny set."""

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from composing import settings_of
from drawn_index import drawn, facts, rows
from PIL import Image

from reid import index, search
from reid.commands import search as who
from reid.commands.gallery_source import parse_time, show_time
from reid.data import load_dataset, silent
from reid.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from reid.engine.describe import build_model, checkpoint_meta
from reid.engine.model_hash import model_hash
from reid.engine.prepare import open_training_data, read_dataset
from reid.gallery import Index
from reid.inference import TrainedModel, load_model
from reid.retrieval import Embeddings, evaluate

pytestmark = pytest.mark.slow

#: A threshold as `reid.threshold` writes it.
THRESHOLD = {
    "value": 0.3, "target": "eer", "metric": "euclidean", "feature_norm": True, "neck_feature": "after",
    "flip": False, "protocol": "cross_camera", "dataset": "drawn", "split": "test", "data_fingerprint": "0",
    "identities": 9, "genuine_pairs": 99, "impostor_pairs": 999, "far": 0.1, "far_interval": [0.05, 0.2],
    "tar": 0.9, "tar_interval": [0.8, 0.95],
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tiny_data: Path, tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.pt with a threshold, other.pt of other weights and without one."""
    folder = tmp_path_factory.mktemp("models")
    settings = settings_of(*tiny)
    dataset, crops, _ = read_dataset(settings, silent)
    data = open_training_data(dataset, settings, silent, crops)
    for seed, name in enumerate(("a", "other")):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = build_model(settings, len(data.pids))
        meta = {**checkpoint_meta(settings, data, network), "threshold": None if seed else THRESHOLD}
        save_checkpoint(folder / f"{name}.pt", Checkpoint(network.state_dict(), meta, {}))
    return folder


@pytest.fixture(scope="module")
def model(models: Path) -> TrainedModel:
    return load_model(models / "a.pt", "cpu")


@pytest.fixture(scope="module")
def market(tiny_data: Path) -> Path:
    """The tiny set, a folder in Market's layout."""
    return tiny_data / "synthetic" / "day_tiny_0"


@pytest.fixture
def crops(market: Path, tmp_path: Path) -> Path:
    """Twelve of its crops, to be spoiled."""
    (tmp_path / "crops" / "deep").mkdir(parents=True)
    for path in people(market / "bounding_box_test")[:12]:
        shutil.copy(path, tmp_path / "crops" / "deep")
    return tmp_path / "crops"


def people(folder: Path) -> list[Path]:
    """The crops of people, without distractors and junk."""
    return sorted(path for path in folder.glob("*.jpg") if not path.name.startswith(("0000", "-1")))


def built(market: Path, models: Path, folder: Path) -> Path:
    assert index.main([str(market), "-o", str(folder), "--checkpoint", str(models / "a.pt")]) == 0
    return folder


@pytest.fixture(scope="module")
def gallery(market: Path, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index of the gallery of the tiny set; not to be changed."""
    return built(market, models, tmp_path_factory.mktemp("index") / "g")


def said(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    """What a search printed, or an index where no gallery is given."""
    door = search if "--gallery" in words else index
    assert door.main([str(word) for word in words]) == code
    found = capsys.readouterr()
    return found.out + found.err


def answered(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    assert search.main([*map(str, words), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_an_index_ranks_as_an_evaluation_does(market: Path, gallery: Path, model: TrainedModel) -> None:
    dataset = load_dataset("folder", market)
    opened = Index.open(gallery)
    assert [Path(path) for path in opened.paths()] == [crop.path for crop in dataset.gallery]
    assert opened.column("pid") == [crop.pid for crop in dataset.gallery]
    assert opened.column("camid") == [crop.camid for crop in dataset.gallery]
    sets = [
        Embeddings(model.embed([c.path for c in some]), *(torch.tensor([c[n] for c in some]) for n in (1, 2)))
        for some in (dataset.query, dataset.gallery)
    ]
    assert np.allclose(opened.features(range(len(opened))), sets[1].features, rtol=0, atol=1e-6)
    hits = opened.search(sets[0].features.numpy(), len(opened))
    distances = torch.empty(len(dataset.query), len(opened), dtype=torch.float64)
    distances.scatter_(1, torch.from_numpy(hits.rows), torch.from_numpy(hits.distances))
    by_index = evaluate(sets[0], sets[1], distance=distances.float())
    plain = evaluate(sets[0], sets[1])
    assert by_index.mAP == pytest.approx(plain.mAP, abs=1e-4)
    assert torch.allclose(by_index.cmc, plain.cmc, atol=1e-3)
    assert opened.facts.model == model_hash(load_checkpoint(Path(model.name)).model)


def test_adding_again_embeds_what_is_new_or_changed(
    crops: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "g"
    first = said(capsys, crops, "--checkpoint", models / "a.pt", "-o", folder)
    assert "12 images" in first
    assert "exact search" in first
    files = sorted((crops / "deep").iterdir())
    before = Index.open(folder)
    shutil.copy(files[1], files[0])
    os.utime(files[2], ns=(0, -(10**18)))  # touched, in 1938, and the same
    shutil.copy(files[3], crops / "deep" / "new name.jpg")
    files[4].unlink()
    found = said(capsys, folder / ".." / "crops", "-o", folder)  # the checkpoint is the index's own
    assert "2 embedded" in found
    assert "1 of them had changed" in found
    assert "10 were there" in found
    assert "the files of 1 images have gone" in found
    after = Index.open(folder)
    assert len(after) == 13
    assert sorted(after.paths()) == sorted({*map(str, files), str(crops / "deep" / "new name.jpg")})
    changed = after.features([after.paths().index(str(files[0]))])
    assert np.allclose(changed, before.features([1]), atol=1e-6)
    assert "1 files have gone" in said(capsys, "--check", "-o", folder, code=1)
    files[2].write_bytes(b"spoilt")
    found = said(capsys, "--check", "-o", folder, code=1)
    assert f"{files[2]}: changed" in found
    assert f"{files[4]}: gone" in found
    assert "1 images removed, 12 stay" in said(capsys, "--remove-gone", "-o", folder)
    assert "1 images removed, 11 stay" in said(capsys, "--remove-path", files[2], "-o", folder)
    assert "nothing was removed" in said(capsys, "--remove-path", files[2], "-o", folder, code=2)
    assert "nothing has gone or changed" in said(capsys, "--check", "-o", folder)


def test_another_model_is_refused_and_says_what_to_do(
    gallery: Path, market: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = sorted((market / "query").glob("*.jpg"))[0]
    for words in (
        [query, "--gallery", gallery, "--checkpoint", models / "other.pt"],
        [market, "--checkpoint", models / "other.pt", "-o", gallery],
    ):
        found = said(capsys, *words, code=2)
        assert "another model made them" in found
        assert str(models / "a.pt") in found


def test_a_checkpoint_that_was_moved_is_named_once(
    crops: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gallery, query = tmp_path / "g", sorted((crops / "deep").iterdir())[0]
    shutil.copy(models / "a.pt", tmp_path / "old.pt")
    said(capsys, crops, "--checkpoint", tmp_path / "old.pt", "-o", gallery)
    (tmp_path / "old.pt").rename(tmp_path / "new.pt")
    found = said(capsys, query, "--gallery", gallery, code=2)
    assert "if it lies elsewhere now, name it with --checkpoint" in found
    said(capsys, crops, "--checkpoint", tmp_path / "new.pt", "-o", gallery)
    assert answered(capsys, query, "--gallery", gallery)["checkpoint"] == str(tmp_path / "new.pt")


def test_images_that_cannot_be_read_are_named_or_left_out(
    crops: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (crops / "zero.jpg").touch()
    words = [crops, "--checkpoint", models / "a.pt"]
    found = said(capsys, *words, "-o", tmp_path / "g", code=2)
    assert f"{crops / 'zero.jpg'}: empty file" in found
    assert "--on-bad-image skip" in found
    assert "1 left out" in said(capsys, *words, "--on-bad-image", "skip", "-o", tmp_path / "g")
    assert len(Index.open(tmp_path / "g")) == 12
    found = said(capsys, crops / "zero.jpg", "--gallery", tmp_path / "g", code=2)
    assert "empty file" in found


def test_a_table_says_people_cameras_and_times(
    crops: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(path.name for path in (crops / "deep").iterdir())
    lines = [
        "path,pid,camid,time",
        f"{names[0]},Anna,0,2026-05-01T08:00",
        f"{names[1]},007,1,2026-05-01 09:00:00+00:00",
        f"{names[2]},,,",
        f"{names[3]},-1,0,5",
        f"{names[4]},Bert,2,1777626000.5",
    ]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(lines))
    words = [table, "--root", crops / "deep", "--checkpoint", models / "a.pt", "-o", tmp_path / "g"]
    assert "1 images of pid -1, junk, are left out" in said(capsys, *words)
    opened = Index.open(tmp_path / "g")
    assert [opened.row(n).name for n in range(4)] == ["Anna", None, None, "Bert"]
    assert [opened.row(n).pid for n in range(4)] == [8, 7, None, 9]
    assert [opened.row(n).camid for n in range(4)] == [0, 1, None, 2]
    assert opened.row(1).time == parse_time("2026-05-01T09:00")
    assert "1777626000.5" in str(opened.row(3).time)
    # The same again, one of them with what was not known before.
    table.write_text("\n".join([*lines[:3], f"{names[2]},Anna,3,"]))
    assert "1 of these described anew" in said(capsys, *words)
    again = Index.open(tmp_path / "g")
    assert len(again) == 4
    number = again.paths().index(str(crops / "deep" / names[2]))
    assert again.row(number)[1:5] == (8, 3, None, "Anna")
    found = answered(
        capsys, crops / "deep" / names[5], "--gallery", tmp_path / "g", "--since", "2026-05-01",
        "--until", "2026-05-01T08:30", "--camid", 0,
    )  # fmt: skip
    assert [hit["name"] for hit in found["queries"][0]["hits"]] == ["Anna"]
    table.write_text(f"path,pid\n{names[6]},9\n")
    assert "that is the number of 'Bert'" in said(capsys, *words, code=2)
    text = said(capsys, "--remove-person", "Anna", "-o", tmp_path / "g")
    assert "2 images removed, 2 stay" in text
    assert "exact search" in text
    for line, words_of in {
        f"{names[0]},1,first,": "camid 'first' is not allowed",
        f"{names[0]},1,0,noon": "neither a number nor a date",
        f"{names[0]},-7,0,": "pid -7 is not allowed",
        ",1,0,": "the path is empty",
        "nowhere.jpg,1,0,": "there is no",
    }.items():
        table.write_text(f"path,pid,camid,time\n{line}\n")
        assert words_of in said(capsys, *words, code=2)


def test_times_are_shown_as_they_were_meant() -> None:
    assert show_time(parse_time("2026-05-01T08:00:00+02:00")) == "2026-05-01 06:00:00"
    assert [show_time(parse_time(word)) for word in ("7", "7.25", "1e12")] == ["7", "7.25", "1000000000000"]
    assert show_time(None) == ""


def test_a_person_is_found_or_nobody_is(
    gallery: Path, market: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = people(market / "bounding_box_test")[0]
    query = shutil.copy(own, tmp_path / "who.jpg")
    found = answered(capsys, query, "--gallery", gallery, "--top", 3)
    (answer,) = found["queries"]
    first = answer["hits"][0]
    assert (first["path"], first["same"], answer["nobody"]) == (str(own), True, False)
    assert first["distance"] == pytest.approx(0, abs=1e-6)
    assert found["threshold"]["value"] == 0.3
    assert "who is not in the gallery is compared with 32 images" in found["note"]
    # An image of the index does not find itself.
    (answer,) = answered(capsys, own, "--gallery", gallery, "--top", 3)["queries"]
    assert str(own) not in [hit["path"] for hit in answer["hits"]]
    # Nobody: noise, which lies beyond the threshold.
    noise = np.random.default_rng(0).integers(0, 255, (64, 32, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    (answer,) = answered(capsys, tmp_path / "noise.png", "--gallery", gallery)["queries"]
    assert answer["nobody"] is (answer["hits"][0]["distance"] > 0.3)
    picture = tmp_path / "hits.png"
    text = said(capsys, query, "--gallery", gallery, "--rerank", "--expand", 2, "-o", picture)
    assert "lie within the threshold" in text
    assert "re-ranked" in text
    assert "without query expansion, which" in text
    text = said(capsys, query, "--gallery", gallery, "--camid", 0)
    assert f"{Index.open(gallery).column('camid').count(0)} of them of camid 0" in text
    assert Image.open(picture).size[0] > 900
    Image.new("RGB", (300, 100)).save(tmp_path / "wide.png")
    assert "wider than high" in said(capsys, tmp_path / "wide.png", "--gallery", gallery)


def test_several_images_of_a_person_are_one_query(
    gallery: Path, market: Path, model: TrainedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = sorted((market / "query").glob("*.jpg"))[:3]
    opened = Index.open(gallery)
    distances = torch.cdist(
        model.embed(queries).double(), torch.from_numpy(opened.features(range(len(opened)))).double()
    )
    best = distances.amin(0).argsort(stable=True)[:5].tolist()
    found = answered(capsys, *queries, "--gallery", gallery, "--combine", "best", "--top", 5)
    assert [hit["path"] for hit in found["queries"][0]["hits"]] == [opened.paths()[row] for row in best]
    mean = torch.nn.functional.normalize(model.embed(queries).mean(0, keepdim=True))
    found = answered(capsys, *queries, "--gallery", gallery, "--top", 1)
    assert "without means of several images" in found["note"]
    nearest = int(opened.search(mean.numpy(), 1).rows[0, 0])
    assert found["queries"][0]["hits"][0]["path"] == opened.paths()[nearest]


def test_many_queries_go_to_a_table(
    gallery: Path, market: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = [tmp_path / "hits.csv", tmp_path / "hits.parquet", tmp_path / "many.png"]
    words = [word for output in outputs for word in ("-o", output)]
    text = said(capsys, market / "query", *words, "--gallery", gallery, "--top", "4")
    assert "queries found somebody" in text
    count = len(list((market / "query").glob("*.jpg")))
    frame = pd.read_parquet(outputs[1])
    assert len(frame) == 4 * count
    assert frame["place"].tolist() == [1, 2, 3, 4] * count
    with outputs[0].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == frame["path"].tolist()
    assert np.allclose([float(row["distance"]) for row in rows], frame["distance"])
    assert outputs[2].exists()
    table = tmp_path / "queries.csv"
    table.write_text(f"path,pid\n{rows[0]['query']},1\njunk.jpg,-1\n")
    all_of_it = answered(capsys, table, "--gallery", gallery, "--top", 4)
    (answer,) = all_of_it["queries"]
    assert "1 images of pid -1, junk, are left out" in all_of_it["warnings"]
    assert [hit["path"] for hit in answer["hits"]] == frame["path"][:4].tolist()
    assert "comes alone" in said(capsys, table, rows[0]["query"], "--gallery", gallery, code=2)


def test_files_that_have_gone_are_marked(
    crops: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, crops, "--checkpoint", models / "a.pt", "-o", tmp_path / "g")
    files = sorted((crops / "deep").iterdir())
    shutil.move(files[0], tmp_path / "query.jpg")
    text = said(capsys, tmp_path / "query.jpg", "--gallery", tmp_path / "g", "-o", tmp_path / "hits.png")
    assert "(gone)" in text
    assert "the files of 1 of 12 images have gone" in text
    (tmp_path / "moved").mkdir()
    for name in ("crops", "g"):
        shutil.move(tmp_path / name, tmp_path / "moved" / name)
    text = said(capsys, tmp_path / "query.jpg", "--gallery", tmp_path / "moved" / "g")
    assert "the files of 1 of 12 images have gone" in text


def test_a_model_without_a_threshold_never_says_nobody(
    crops: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, crops, "--checkpoint", models / "other.pt", "-o", tmp_path / "g")
    query = sorted((crops / "deep").iterdir())[0]
    found = answered(capsys, query, "--gallery", tmp_path / "g")
    assert found["queries"][0]["nobody"] is None
    assert "python -m reid.threshold" in found["note"]
    text = said(capsys, query, "-o", tmp_path / "hits.png", "--gallery", tmp_path / "g", "--camid", "5")
    assert "no image of the gallery to compare with" in text


def test_who_is_nearest_decides_whatever_re_ranking_lists(tmp_path: Path) -> None:
    made = Index.create(tmp_path / "g", facts())
    made.add(drawn(200), rows(200))
    queries = torch.from_numpy(drawn(40, 9)).split(1)
    names = [[tmp_path / f"{number}.jpg"] for number in range(len(queries))]
    found = who.search(made, queries, names, who.Options(1, rerank=True))
    nearest = made.search(torch.cat(queries).numpy(), 1).distances[:, 0]
    moved = 0
    for number, answer in enumerate(who.answers(made, names, *found, float(np.median(nearest)))):
        assert answer.nearest is not None
        assert answer.nearest.distance == nearest[number]
        assert answer.nobody is bool(nearest[number] > np.median(nearest))
        moved += answer.nearest.place == 0
        assert f"{nearest[number]:.3f}" in str(who.conclusion(answer))
    assert moved  # or this has tested nothing
