"""reid.threshold, reid.compare and reid.extract as a user runs them, on one tiny model."""

import json
import os
import re
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from composing import composed, settings_of
from conftest import Runner, with_resnet18
from PIL import Image

from reid import compare, extract
from reid.commands.extract import WRITERS
from reid.commands.threshold import check_not_trained_on, data_name, hardest_by_batch
from reid.commands.trained_file import destination
from reid.config.checks import ConfigError
from reid.config.schema import EvalConfig
from reid.config.settings import threshold_settings
from reid.data import Crop, DatasetError, ReidDataset, load_dataset, silent
from reid.engine.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from reid.engine.describe import build_model, checkpoint_meta
from reid.engine.prepare import open_training_data, read_dataset
from reid.inference import load_model, shape_problem
from reid.judging.stored_threshold import (
    FeatureSpace,
    StoredThreshold,
    ThresholdError,
    feature_space,
    store_threshold,
    stored_threshold,
)
from reid.retrieval import Embeddings
from reid.tracking.journal import Journal

STORED = StoredThreshold(
    0.9, "far_1e-2", "euclidean", True, "after", False, "cross_camera", "market", "test", "0" * 16, 200, 1000,
    90000, 0.0099, (0.008, 0.012), 0.85, (0.8, 0.9),
)  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def trained(home: Path, tiny: list[str]) -> Path:
    """The model.pt of a run on the tiny set before its first step, without a threshold."""
    settings = settings_of(*with_resnet18(tiny))
    dataset, crops, _ = read_dataset(settings, silent)
    data = open_training_data(dataset, settings, silent, crops)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(settings, len(data.pids))
    path = home / "outputs" / "run" / "model.pt"
    path.parent.mkdir(parents=True)
    save_checkpoint(path, Checkpoint(model.state_dict(), checkpoint_meta(settings, data, model), {}))
    return path


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copy(trained, tmp_path / "model.pt"))


@pytest.fixture
def with_threshold(model: Path) -> Path:
    store_threshold(model, model, STORED)
    return model


@pytest.fixture(scope="module")
def crops(tiny_data: Path) -> list[Path]:
    return sorted((tiny_data / "synthetic" / "day_tiny_0" / "query").glob("*.jpg"))


# ---- reid.threshold


@pytest.fixture(scope="module")
def measured(trained: Path, home: Path, tiny: list[str], run_command: Runner) -> tuple[str, Path, Path]:
    """What the real command printed, its folder, and the checkpoint that it wrote."""
    written = home / "measured.pt"
    data = tiny[-1]
    done = run_command(
        "reid.threshold", f"checkpoint={trained}", "target=far_1e-2", f"output={written}", "replicates=50",
        "batches=6", data, "device=cpu", home=home, fresh=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder,) = (path.parent for path in home.glob("outputs/*/threshold.json"))
    return done.stdout, folder, written


def test_the_table_says_what_was_measured(measured: tuple[str, Path, Path]) -> None:
    printed = re.sub(r"\s+", " ", measured[0])
    assert "feature after the neck, L2-normalised, euclidean distance, cross_camera protocol" in printed
    assert re.search(r"test split.*genuine and [\d,]+ impostor pairs of \d+ images of \d+ people", printed)
    assert "FAR 1e-2 (chosen)" in printed
    assert "same person: euclidean distance of at most" in printed
    assert "50 bootstrap replicates" in printed


def test_figures_numbers_and_the_checkpoint_agree(measured: tuple[str, Path, Path], trained: Path) -> None:
    _, folder, written = measured
    for name in ("hardest_pairs", "pair_distances", "roc"):
        with Image.open(folder / "figures" / f"{name}.png") as picture:
            assert picture.size[0] > 900
    record = json.loads((folder / "threshold.json").read_text())
    stored = stored_threshold(load_checkpoint(written).meta)
    assert stored is not None
    assert json.loads(json.dumps(asdict(stored))) == record["threshold"]
    assert stored.target == "far_1e-2"
    assert stored.far <= 0.01
    assert stored.tar_interval[0] <= stored.tar <= stored.tar_interval[1]
    point = record["points"]["far_1e-2"]
    assert (point["threshold"], point["far"], point["tar"]) == (stored.value, stored.far, stored.tar)
    status = json.loads((folder / "status.json").read_text())
    assert status["status"] == "FINISHED"
    assert status["scores"]["test/threshold"] == stored.value
    # Nothing else in the file has changed, nor the file that was read.
    before, after = load_checkpoint(trained), load_checkpoint(written)
    assert {**before.meta, "threshold": after.meta["threshold"]} == after.meta
    assert all(torch.equal(before.model[name], tensor) for name, tensor in after.model.items())
    assert stored_threshold(before.meta) is None


def test_the_threshold_is_that_of_all_pairs_of_the_test_people(
    measured: tuple[str, Path, Path], trained: Path, tiny_data: Path
) -> None:
    """Counted again through the Python interface, pair by pair."""
    dataset = load_dataset("synthetic", tiny_data / "synthetic" / "day_tiny_0", preset="tiny")
    images = dataset.query + dataset.gallery
    features = load_model(trained, "cpu").embed([crop.path for crop in images]).double()
    distance = torch.cdist(features, features).numpy()
    genuine, impostor = [], []
    for i, a in enumerate(images):
        for j, b in enumerate(images[:i]):
            if a.pid != b.pid:
                impostor.append(distance[i, j])
            elif a.pid > 0 and a.camid != b.camid:
                genuine.append(distance[i, j])
    record = json.loads((measured[1] / "threshold.json").read_text())
    assert (record["genuine_pairs"], record["impostor_pairs"]) == (len(genuine), len(impostor))
    point = record["points"]["far_1e-2"]
    assert np.mean(np.array(impostor) <= point["threshold"]) == pytest.approx(point["far"], abs=1e-3)
    assert np.mean(np.array(genuine) <= point["threshold"]) == pytest.approx(point["tar"], abs=1e-2)
    assert np.mean(np.array(impostor) <= point["threshold"] + 3e-4) > 0.0098  # as large as the rate allows


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("target=far_1e-5", r"target=far_1e-5 is not allowed: expected one of far_1e-3"),
        ("output=model.bin", r"output=model.bin is not allowed: .* ends in \.pt"),
        ("output=/nowhere/model.pt", r"in a folder that is there"),
        ("replicates=0", r"replicates=0 is not allowed: expected a number 1 or more"),
    ],
)
def test_wrong_keys_are_refused(typed: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        threshold_settings(composed("threshold", "checkpoint=x.pt", typed))


def test_people_that_were_trained_on_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    def data(*pids: int) -> ReidDataset:
        seen = tuple(Crop(Path(f"{pid}.jpg"), pid, 0) for pid in pids)
        return ReidDataset("own", Path("/data"), (), seen, seen)

    spec = {"name": "folder", "root": "/data"}
    meta = {"dataset": spec, "pids": [3, 4]}
    check_not_trained_on(data(0, 1, 2), spec, meta)
    with pytest.raises(ConfigError, match=r"2 of the 3 people of own .*trained on \(for example 3\)"):
        check_not_trained_on(data(0, 2, 3, 4), spec, meta)
    # Other data number their people as they like; the same reader elsewhere may hold the same people.
    check_not_trained_on(data(3), {"name": "market", "root": "/data"}, meta)
    assert not caplog.records
    check_not_trained_on(data(3), {"name": "folder", "root": "/moved"}, meta)
    assert "the rates promise too much" in caplog.text


def test_data_are_called_by_what_tells_them_apart() -> None:
    assert data_name({"name": "table", "root": "/own", "file": "/own/crops.csv"}) == "table crops.csv"
    assert data_name({"name": "folder", "root": "/own/shop"}) == "folder shop"
    assert data_name({"name": "market", "root": "/data/market1501"}) == "market"


def test_people_of_a_joint_training_are_known_by_their_images(tmp_path: Path) -> None:
    def part(name: str) -> dict[str, Any]:
        lines = [f"{name}_{n}.png,{n // 2},train" for n in range(2, 8)]
        for line in lines:
            Image.new("RGB", (2, 4)).save(tmp_path / line.split(",")[0])
        (tmp_path / f"{name}.csv").write_text("\n".join(["path,pid,split", *lines]) + "\n")
        return {"name": "table", "root": str(tmp_path), "file": str(tmp_path / f"{name}.csv")}

    parts = [part("one"), part("two")]
    joint = {"name": "joint", "root": str(tmp_path), "parts": parts}
    second = load_dataset(**parts[1])
    held_out = replace(second, train=(), query=second.train[:2], gallery=second.train[2:4])
    shifted = [4 + pid for pid in (1, 2)]  # the first part has pids to 3
    with pytest.raises(ConfigError, match=r"2 of the 2 people of two were trained on, as part of a joint"):
        check_not_trained_on(held_out, parts[1], {"dataset": joint, "pids": [1, 2, 3, *shifted]})
    # Under the same numbers, but of the first part: other people.
    check_not_trained_on(held_out, parts[1], {"dataset": joint, "pids": [1, 2, 3]})


def test_a_run_under_way_keeps_its_checkpoint(tmp_path: Path) -> None:
    last, elsewhere = tmp_path / "last.pt", tmp_path / "elsewhere"

    def place(output: str | None = None) -> Path:
        return destination(str(last), output, last, elsewhere)

    assert place() == last
    journal = Journal(tmp_path)
    journal.acquire()
    journal.append({"op": "tags", "values": {}})
    with pytest.raises(CheckpointError, match="under way, whose next epoch replaces it"):
        place()
    assert place("other.pt") == Path("other.pt")
    assert destination("f" * 32, None, last, elsewhere) == elsewhere / "last.pt"
    journal.release()
    assert place() == last


def test_hardest_pairs_come_from_batches_of_known_people() -> None:
    generator = torch.Generator().manual_seed(0)
    pids = torch.tensor([0] * 10 + [1] * 4 + [2] * 5 + [3] * 6)
    images = Embeddings(torch.randn(25, 4, generator=generator), pids, torch.zeros_like(pids)).normalised()
    settings = threshold_settings(composed("threshold", "checkpoint=x.pt", "batches=7"))
    positive, negative = hardest_by_batch(images, "euclidean", settings)
    assert positive.shape == negative.shape == (7, 3 * 4)  # three people, fewer than batch.identities
    assert positive.isfinite().all()
    again = hardest_by_batch(images, "euclidean", settings)
    assert torch.equal(again[0], positive)


def test_a_person_of_one_image_has_no_hardest_positive() -> None:
    pids = torch.tensor([1, 2, 3, 3, 3, 3])
    images = Embeddings(torch.eye(6), pids, torch.zeros_like(pids))
    settings = threshold_settings(composed("threshold", "checkpoint=x.pt", "batches=5"))
    positive, negative = hardest_by_batch(images, "euclidean", settings)
    assert positive.shape == (5, 3 * 4)
    assert positive.isnan().sum(1).tolist() == [8] * 5
    np.testing.assert_allclose(positive[positive.isfinite()], 2**0.5, rtol=1e-6)  # no distance of 0
    assert negative.isfinite().all()


# ---- the threshold in the checkpoint


@pytest.mark.slow
def test_a_threshold_survives_the_file_and_keeps_the_state_of_the_training(model: Path) -> None:
    whole = load_checkpoint(model)
    save_checkpoint(model, replace(whole, training={"optimizer": {"step": torch.tensor(3)}}))
    store_threshold(model, model, STORED)
    again = load_checkpoint(model)
    assert stored_threshold(again.meta) == STORED
    assert again.training["optimizer"]["step"] == 3
    assert list(model.parent.iterdir()) == [model]


def test_a_threshold_of_another_version_is_refused(model: Path) -> None:
    with pytest.raises(CheckpointError, match=r"not one of this version .*measure it again"):
        stored_threshold({"threshold": {"value": 1.0}})


@pytest.mark.parametrize(
    ("settings", "fits"),
    [
        (EvalConfig(), True),
        (EvalConfig(protocol="ignore_camera"), True),
        (EvalConfig(metric="cosine"), False),
        (EvalConfig(feature_norm=False), False),
        (EvalConfig(neck_feature="before"), False),
        (EvalConfig(flip=True), False),
    ],
)
def test_a_threshold_is_refused_in_another_space(settings: EvalConfig, fits: bool) -> None:
    space = feature_space(settings)
    if fits:
        STORED.check(space)
        return
    with pytest.raises(
        ThresholdError, match=r"holds for the euclidean distance, L2-normalised feature after"
    ):
        STORED.check(space)


def test_a_threshold_belongs_to_the_precision_that_its_features_were_computed_in() -> None:
    """One measured in bf16 says nothing of features in float32, and the other way round."""
    in_bf16 = replace(STORED, precision="bf16")
    in_bf16.check(feature_space(EvalConfig(), "bf16"))
    for stored, precision in ((in_bf16, "float32"), (STORED, "bf16"), (STORED, "tf32")):
        with pytest.raises(ThresholdError) as refused:
            stored.check(feature_space(EvalConfig(), precision))
        assert f"the neck, computed in {stored.precision}, not for" in str(refused.value)
        assert f"the neck, computed in {precision}. Leave" in str(refused.value)
        assert f"precision={precision}" in str(refused.value)


def test_a_threshold_that_is_older_than_the_precision_was_measured_in_float32() -> None:
    values = asdict(STORED)
    del values["precision"]
    assert stored_threshold({"threshold": values}) == STORED


def test_the_cosine_normalises_anyway() -> None:
    assert feature_space(EvalConfig(metric="cosine", feature_norm=False)) == FeatureSpace(
        "cosine", True, "after"
    )


# ---- reid.compare

Capture = pytest.CaptureFixture[str]


def compared(capsys: Capture, *arguments: str | Path) -> dict[str, Any]:
    assert compare.main([*map(str, arguments), "--json", "--device", "cpu"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_a_threshold_measured_in_bf16_is_not_applied_to_features_in_float32(
    trained: Path, crops: list[Path], run_command: Runner, tiny: list[str], tmp_path: Path, capsys: Capture
) -> None:
    written = tmp_path / "bf16.pt"
    done = run_command(
        "reid.threshold", f"checkpoint={trained}", "target=eer", f"output={written}", "replicates=5",
        "batches=2", tiny[-1], "device=cpu", "precision=bf16", home=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = compared(capsys, *crops[:2], "--checkpoint", written)
    assert answer["threshold"] is None
    assert answer["precision"] == "float32"
    assert "computed in bf16, not for" in answer["note"]


def test_the_real_command_tells_and_draws(
    with_threshold: Path, crops: list[Path], run_command: Runner, tmp_path: Path
) -> None:
    # Markup to rich, formulas to matplotlib.
    names = ("a$b[x].jpg", r"$\frac{$.jpg", "$x_1^{2$.jpg")
    images = [str(shutil.copy(crop, tmp_path / name)) for crop, name in zip(crops, names, strict=False)]
    (tmp_path / "[").mkdir()
    words = [*images, "--checkpoint", str(with_threshold), "-o", "[/y].png"]
    done = run_command("reid.compare", *words, home=tmp_path, fresh=True)
    assert done.returncode == 0, done.stderr
    assert all(f"{number}: {name}" in done.stdout for number, name in enumerate(names, 1))
    assert "picture: [/y].png" in done.stdout
    assert "euclidean distance, L2-normalised feature after the neck" in done.stdout
    assert len(re.findall(r"\d and \d: (?:same|another) person \(\d\.\d{3}\)", done.stdout)) == 3
    assert "0.99 % of pairs of two people are called the same (95 %: 0.8 to 1.2)" in done.stdout
    assert "15.0 % of pairs of one person are missed (95 %: 10.0 to 20.0)" in done.stdout
    with Image.open(tmp_path / "[" / "y].png") as picture:
        assert picture.size[0] > 900


def test_distances_and_verdicts(with_threshold: Path, crops: list[Path], capsys: Capture) -> None:
    answer = compared(capsys, crops[0], crops[1], crops[0], "--checkpoint", with_threshold)
    distances = np.array(answer["distances"])
    assert np.array_equal(distances, distances.T)
    assert distances.diagonal().tolist() == [0, 0, 0]
    features = load_model(with_threshold, "cpu").embed(crops[:2]).double()
    assert distances[0, 1] == pytest.approx(float((features[0] - features[1]).norm()))
    assert answer["pairs"][0] == {
        "first": str(crops[0]), "second": str(crops[0]), "distance": distances[0, 2], "same": True,
    }  # fmt: skip
    assert [pair["same"] for pair in answer["pairs"]] == [pair["distance"] <= 0.9 for pair in answer["pairs"]]
    assert answer["expected"] == {"far": STORED.far, "frr": 1 - STORED.tar}


def test_without_a_threshold_there_are_distances_and_the_way_to_get_one(
    model: Path, crops: list[Path], capsys: Capture
) -> None:
    answer = compared(capsys, *crops[:2], "--checkpoint", model)
    assert answer["pairs"][0]["same"] is None
    assert (answer["threshold"], answer["expected"]) == (None, None)
    assert f"python -m reid.threshold checkpoint={model}" in answer["note"]


@pytest.mark.parametrize(
    "other", [["--metric", "cosine"], ["--no-feature-norm"], ["--neck-feature", "before"]]
)
def test_the_threshold_is_not_applied_in_another_space(
    other: list[str], with_threshold: Path, crops: list[Path], capsys: Capture
) -> None:
    answer = compared(capsys, *crops[:2], "--checkpoint", with_threshold, *other)
    assert answer["pairs"][0]["same"] is None
    assert "the stored threshold 0.9000 holds for the euclidean distance" in answer["note"]


def test_what_cannot_be_compared_is_refused_in_words(
    model: Path, crops: list[Path], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.jpg").write_bytes(crops[0].read_bytes()[:300])
    typed = [str(crops[0]), str(tmp_path / "broken.jpg"), str(tmp_path / "none.jpg")]
    assert compare.main([*typed, "--checkpoint", str(model)]) == 2
    errors = capsys.readouterr().err
    assert "2 images cannot be read" in errors
    assert "broken.jpg" in errors
    assert "none.jpg: No such file" in errors
    monkeypatch.setenv("REID_HOME", str(tmp_path / "empty"))
    assert compare.main([str(crop) for crop in crops[:2]]) == 2
    assert "no --checkpoint is given" in capsys.readouterr().err
    assert compare.main([*map(str, crops[:2]), "--checkpoint", str(tmp_path / "no.pt")]) == 2
    for wrong in ([str(crops[0])], [*map(str, crops[:2]), "-o", "pairs.gif"]):
        with pytest.raises(SystemExit) as exit_:
            compare.main(wrong)
        assert exit_.value.code == 2


def test_the_newest_model_is_taken_where_none_is_named(
    trained: Path, home: Path, crops: list[Path], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REID_HOME", str(home))
    assert compared(capsys, *crops[:2])["checkpoint"] == str(trained)


@pytest.mark.parametrize(
    ("size", "problem"),
    [
        ((64, 128), None),
        ((50, 150), None),
        ((90, 128), None),
        ((640, 480), "wider than high"),
        ((128, 128), "nearly square"),
        ((30, 200), "of another shape"),
        ((10, 20), "too small"),
    ],
)
def test_images_that_are_no_crops_of_a_person_are_warned_of(
    size: tuple[int, int], problem: str | None, tmp_path: Path
) -> None:
    Image.new("RGB", size).save(tmp_path / "a.png")
    found = shape_problem(tmp_path / "a.png", 256, 128)
    assert (found is None) == (problem is None)
    assert problem is None or problem in str(found)


def test_a_warning_goes_with_the_answer(
    model: Path, tmp_path: Path, crops: list[Path], capsys: Capture
) -> None:
    Image.new("RGB", (300, 200)).save(tmp_path / "scene.png")
    answer = compared(capsys, crops[0], tmp_path / "scene.png", "--checkpoint", model)
    assert len(answer["warnings"]) == 1
    assert "scene.png is 300 x 200 pixels" in answer["warnings"][0]


# ---- reid.extract


def read(file: Path) -> tuple[list[str], np.ndarray]:
    if file.suffix == ".npz":
        stored = np.load(file)
        return stored["path"].tolist(), stored["features"]
    if file.suffix == ".csv":
        table = pd.read_csv(file, dtype={"path": str})
        return table["path"].tolist(), table.filter(regex=r"^f\d+$").to_numpy(np.float32)
    table = pd.read_parquet(file)
    return table["path"].tolist(), np.stack(list(table["feature"]))


@pytest.fixture
def folder(crops: list[Path], tmp_path: Path) -> Path:
    """Three crops at two depths, and what is no image."""
    deep = tmp_path / "crops" / "gate"
    deep.mkdir(parents=True)
    for crop, place in zip(crops, (deep.parent, deep, deep), strict=False):
        shutil.copy(crop, place)
    (deep / "notes.txt").write_text("no image")
    (deep / "._hidden.jpg").write_bytes(b"no image")
    return deep.parent


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux alone")
def test_a_name_that_no_table_can_hold_is_refused(folder: Path) -> None:
    os.rename(next(folder.glob("*.jpg")), os.fsencode(folder) + b"/Jos\xe9.jpg")
    with pytest.raises(DatasetError, match=r"Jos\\xe9.jpg': this name is not UTF-8"):
        extract.find_images(folder)


@pytest.mark.parametrize("suffix", [".parquet", ".npz", ".csv"])
def test_features_are_written_in_every_format(
    suffix: str, model: Path, folder: Path, crops: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / f"features{suffix}"
    assert extract.main([str(folder), "-o", str(output), "--checkpoint", str(model), "--batch", "2"]) == 0
    paths, features = read(output)
    assert sorted(paths) == sorted([crops[0].name, f"gate/{crops[1].name}", f"gate/{crops[2].name}"])
    assert features.dtype == np.float32
    expected = load_model(model, "cpu").embed([folder / path for path in paths]).numpy()
    np.testing.assert_allclose(features, expected, atol=1e-6)
    assert not list(tmp_path.glob(".*"))


def test_linked_folders_are_followed_and_what_is_left_out_is_counted_by_its_ending(
    model: Path, folder: Path, crops: list[Path], tmp_path: Path, capsys: Capture
) -> None:
    far = tmp_path / "far"
    far.mkdir()
    shutil.copy(crops[3], far)
    (folder / "linked").symlink_to(far)
    (far / "loop").symlink_to(folder)
    (far / "photo.HEIC").write_bytes(b"")
    output = tmp_path / "features.npz"
    assert extract.main([str(folder), "-o", str(output), "--checkpoint", str(model)]) == 0
    printed = capsys.readouterr().out.strip()
    assert printed.endswith(". 4 left out: 1 .heic, 1 .txt, 1 hidden, 1 links that lead back")
    assert read(output)[0][-1] == f"linked/{crops[3].name}"
    for image in (folder / "gate").glob("[!.]*.jpg"):
        image.unlink()
    with pytest.raises(DatasetError, match=r"no image below .*2 left out: 1 \.txt, 1 hidden"):
        extract.find_images(folder / "gate")


def test_unreadable_images_are_all_named_or_left_out(
    model: Path, folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    for name in ("bad1.jpg", "bad2.png"):
        (folder / name).write_bytes(b"not an image")
    output = tmp_path / "features.npz"
    typed = [str(folder), "-o", str(output), "--checkpoint", str(model)]
    assert extract.main(typed) == 2
    errors = capsys.readouterr().err
    assert "2 images cannot be read" in errors
    assert "bad1.jpg: no image of a kind that PIL knows" in errors
    assert "bad2.png" in errors
    assert not output.exists()
    assert extract.main([*typed, "--on-bad-image", "skip"]) == 0
    assert "2 images left out" in capsys.readouterr().out
    assert len(read(output)[0]) == 3


def test_a_failed_write_leaves_the_old_file(
    model: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    output = tmp_path / "features.npz"
    output.write_text("before")

    def full(file: Path, *_: object) -> None:
        file.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(WRITERS, ".npz", full)
    assert extract.main([str(folder), "-o", str(output), "--checkpoint", str(model)]) == 1
    assert "No space left" in capsys.readouterr().err
    assert output.read_text() == "before"
    assert not list(tmp_path.glob(".*"))


def test_wrong_words_to_extract(tmp_path: Path, model: Path, capsys: Capture) -> None:
    for output in ("features.txt", "/nowhere/features.csv"):
        with pytest.raises(SystemExit) as exit_:
            extract.main([str(tmp_path), "-o", output])
        assert exit_.value.code == 2
    (tmp_path / "empty").mkdir()
    for folder, message in ((tmp_path / "empty", "no image below"), (tmp_path / "none", "is no folder")):
        typed = [str(folder), "-o", str(tmp_path / "f.csv"), "--checkpoint", str(model)]
        assert extract.main(typed) == 2
        assert message in capsys.readouterr().err


#: What reid/commands/README.md shows; `model.pt` and `crops` stand for the user's own.
TEN_LINES = """
from pathlib import Path

import pandas as pd

from reid.inference import load_model

model = load_model("model.pt")
images = sorted(Path("crops").rglob("[!.]*.jpg"))
features = model.embed(images)
table = pd.DataFrame({"path": [str(image.relative_to("crops")) for image in images]})
table["feature"] = list(features.numpy())
table.to_parquet("mine.parquet")
"""


def test_ten_lines_of_python_do_the_same_as_the_real_command(
    model: Path, folder: Path, tmp_path: Path, run_command: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run_command(
        "reid.extract",
        "crops",
        "-o",
        "features.parquet",
        "--checkpoint",
        "model.pt",
        home=tmp_path,
        fresh=True,
    )
    assert done.returncode == 0, done.stderr
    assert (
        "3 features of 512 numbers (euclidean distance, L2-normalised feature after the neck)" in done.stdout
    )
    monkeypatch.chdir(tmp_path)
    exec(TEN_LINES, {})
    paths, features = read(tmp_path / "features.parquet")
    our_paths, our_features = read(tmp_path / "mine.parquet")
    assert paths == our_paths
    # The command runs with one thread, this process with its own number: sums in another order.
    np.testing.assert_allclose(features, our_features, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_features_are_those_that_the_evaluation_judges(trained: Path, crops: list[Path]) -> None:
    model = load_model(trained, "cpu")
    features = model.embed(crops, batch=7)
    assert features.shape == (len(crops), 512)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(len(crops)))
    torch.testing.assert_close(model.embed(crops), features)
    assert model.embed([]).shape == (0, 512)
    raw = load_model(trained, "cpu", feature_norm=False).embed(crops)
    torch.testing.assert_close(torch.nn.functional.normalize(raw), features)
    with pytest.raises(ValueError, match="metric is 'manhattan'"):
        load_model(trained, "cpu", metric="manhattan")
