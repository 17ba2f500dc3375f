"""reid.identify as a user runs it, the threshold that it stores, and who applies that."""

import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from composing import composed
from conftest import Runner
from PIL import Image

from reid.commands.own_people import own_people
from reid.config.checks import ConfigError
from reid.config.schema import EvalConfig
from reid.config.settings import identify_settings, train_settings
from reid.data import DatasetError, load_dataset
from reid.engine.checkpoint import CheckpointError, load_checkpoint
from reid.inference import load_model
from reid.judging.open_set import crop_weights, divide_people, judged_open_set, open_set_values, roles
from reid.judging.stored_open_set import StoredOpenSet, store_open_set, stored_open_set
from reid.judging.stored_threshold import ThresholdError, feature_space
from reid.retrieval import Embeddings, EvaluationError

STORED = StoredOpenSet(
    0.8, (0.7, 0.9), "fpir_1e-2", "best", 4.0, "euclidean", True, "after", False, "float32", "cross_camera",
    "market", "second half of the test", "0" * 16, 50, 50, 100, 90, 0.012, (0.006, 0.02), 0.7, (0.6, 0.8),
    2e-4, ((10, 0.002), (100, 0.012)),
)  # fmt: skip


# ---- who is enrolled


def some_people() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """8 people with four crops each, two of them in the gallery, and five distractors there."""
    pids = np.concatenate([np.repeat(np.arange(1, 9), 4), np.zeros(5, int)])
    camids = np.concatenate([np.tile([0, 1, 0, 1], 8), np.zeros(5, int)])
    gallery = np.concatenate([np.tile([False, False, True, True], 8), np.ones(5, bool)])
    return pids, camids, gallery


def test_a_share_of_the_people_is_enrolled_and_everybody_else_is_a_stranger() -> None:
    pids, camids, gallery = some_people()
    part = roles(pids, camids, gallery, share=0.5, seed=1)
    enrolled = set(pids[part.enrolled].tolist())
    assert len(enrolled) == 4
    assert gallery[part.enrolled].all()
    for pid in range(1, 9):
        mine = part.probes[pids[part.probes] == pid]
        assert len(mine) == (2 if pid in enrolled else 4)
        assert pid not in enrolled or not gallery[mine].any()
    assert not set(pids[part.probes].tolist()) & {0}  # a distractor is no search
    assert part.probe.tolist() == list(range(len(part.probes)))
    assert not np.intersect1d(part.enrolled, part.probes).size
    assert roles(pids, camids, gallery, share=0.5, seed=2).enrolled.tolist() != part.enrolled.tolist()


def test_fewer_crops_are_enrolled_and_several_make_a_probe() -> None:
    pids, camids, gallery = some_people()
    part = roles(pids, camids, gallery, share=0.5, most=1, together=2)
    assert np.unique(pids[part.enrolled], return_counts=True)[1].tolist() == [1] * 4
    for number in np.unique(part.probe):
        rows = part.probes[part.probe == number]
        assert len(rows) <= 2
        assert len({(pids[row], camids[row]) for row in rows.tolist()}) == 1
    assert len(np.unique(part.probe)) < len(part.probe)


def test_of_own_people_those_in_the_gallery_are_enrolled() -> None:
    pids = np.array([1, 2, 1, 3, 0, 0])
    gallery = np.array([True, True, False, False, False, False])
    part = roles(pids, np.zeros(6, int), gallery, share=None, together=3)
    assert part.enrolled.tolist() == [0, 1]
    assert part.probes.tolist() == [2, 3, 4, 5]
    assert len(set(part.probe.tolist())) == 4  # two images of nobody are of two people


@pytest.mark.parametrize(
    ("gallery", "lacking"),
    [
        ([False] * 4, "nobody is enrolled"),
        ([True, False, True, False], "nobody is a stranger"),
        ([True, True, True, True], "nobody is a stranger"),
    ],
)
def test_too_few_roles_are_refused(gallery: list[bool], lacking: str) -> None:
    with pytest.raises(EvaluationError, match=lacking):
        roles(np.array([1, 1, 2, 2]), np.zeros(4, int), np.array(gallery), share=None)
    if lacking == "nobody is enrolled":
        with pytest.raises(EvaluationError, match="who is enrolled has another crop"):
            roles(np.array([1, 1, 2, 2]), np.zeros(4, int), np.array([1, 1, 0, 0], bool), share=None)


def test_the_halves_share_nobody_and_both_have_enrolled_people_and_strangers() -> None:
    pids, _, gallery = some_people()
    gallery = gallery & (pids < 5)
    first, second = divide_people(pids, gallery, seed=0)
    assert (first ^ second).all()
    people = [set(pids[half & (pids > 0)].tolist()) for half in (first, second)]
    assert not people[0] & people[1]
    for half in people:
        assert len({pid for pid in half if pid < 5}) == 2
        assert len({pid for pid in half if pid >= 5}) == 2
    assert 1 <= (first & (pids == 0)).sum() <= 4  # each distractor is somebody else


def test_the_weight_of_a_crop_is_the_length_of_its_feature() -> None:
    weights = crop_weights(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    assert weights.tolist() == pytest.approx([5, 1e-6])


# ---- people of the user's own


def drawn(file: Path) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 32), (hash(file.name) % 200, 10, 10)).save(file)
    return file.name


def test_tables_and_folders_name_the_same_people(tmp_path: Path) -> None:
    for name in ("anna/1.png", "anna/2.png", "bert/1.png"):
        drawn(tmp_path / "people" / name)
    for name in ("stranger.png", "anna.png", "carl.png"):
        drawn(tmp_path / name)
    (tmp_path / "probes.csv").write_text("path,pid\nanna.png,anna\ncarl.png,carl\nstranger.png,\n")
    found = own_people(tmp_path / "people", tmp_path / "probes.csv")
    assert not found.cameras
    assert [found.names[crop.pid] for crop in found.gallery] == ["anna", "anna", "bert"]
    assert [found.names.get(crop.pid) for crop in found.query] == ["anna", "carl", None]
    assert {crop.camid for crop in found.query + found.gallery} == {0}


def test_cameras_count_where_all_rows_name_one(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        drawn(tmp_path / name)
    (tmp_path / "people.csv").write_text("path,pid,camid\na.png,1,2\n")
    (tmp_path / "probes.csv").write_text("path,pid,camid\nb.png,1,4\nc.png,0,4\n")
    found = own_people(tmp_path / "people.csv", tmp_path / "probes.csv")
    assert found.cameras
    assert [crop[1:] for crop in (*found.gallery, *found.query)] == [(1, 2), (1, 4), (0, 4)]


def test_own_people_that_cannot_be_are_refused(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        drawn(tmp_path / name)
    people, probes = tmp_path / "people.csv", tmp_path / "probes.csv"
    people.write_text("path,pid\na.png,\n")
    probes.write_text("path,pid\nb.png,1\n")
    with pytest.raises(DatasetError, match="1 of 1 enrolled crops name no person"):
        own_people(people, probes)
    people.write_text("path,pid\nb.png,1\n")
    with pytest.raises(DatasetError, match="1 images are both enrolled and looked for"):
        own_people(people, probes)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DatasetError, match="no image below"):
        own_people(tmp_path / "nothing", probes)


# ---- what is stored


def test_the_rate_to_expect_grows_with_the_gallery() -> None:
    assert STORED.expected_fpir(100) == (0.012, 0.012)
    low, high = STORED.expected_fpir(32)
    assert low == high
    assert 0.002 < low < 0.012
    assert STORED.expected_fpir(1) == pytest.approx((2e-4, 2e-4))
    assert STORED.expected_fpir(1000) == pytest.approx((0.012, 1 - (1 - 2e-4) ** 1000))
    assert "Expect 1.2 % of the searches" in STORED.expectation(100)
    assert "Expect 1.2 to 18.1 % of the searches" in STORED.expectation(1000)


def test_it_is_refused_where_it_was_not_measured() -> None:
    space = feature_space(EvalConfig())
    STORED.check(space, 200, "best")
    with pytest.raises(
        ThresholdError, match=r"up to 100 enrolled people, and here are 201: .* 1.2 to 3.94 %"
    ):
        STORED.check(space, 201, "best")
    with pytest.raises(ThresholdError, match=r"holds for the euclidean .* not for the cosine"):
        STORED.check(feature_space(EvalConfig(metric="cosine")), 100, "best")
    with pytest.raises(ThresholdError, match="fused by fusion=best, not by mean"):
        STORED.check(space, 100, "mean")
    replace(STORED, crops=1.0).check(space, 100, "mean")  # one crop is fused with none


def test_it_survives_the_file(tiny_checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.pt"
    meta = store_open_set(tiny_checkpoint, target, STORED)
    assert stored_open_set(meta) == stored_open_set(load_checkpoint(target).meta) == STORED
    assert stored_open_set({}) is None
    with pytest.raises(CheckpointError, match="not one of this version"):
        stored_open_set({"open_set": {"value": 1.0}})


@pytest.mark.parametrize(
    ("key", "value"), [("sizes", []), ("sizes", [[0, 0.1]]), ("fpir", 1.2), ("value_interval", [0.1])]
)
def test_a_stored_value_that_cannot_be_is_refused(
    key: str, value: object, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    target = tmp_path / "model.pt"
    store_open_set(tiny_checkpoint, target, STORED)
    content = torch.load(target, weights_only=True)
    meta = json.loads(content["meta"])
    meta["open_set"][key] = value
    torch.save({**content, "meta": json.dumps(meta)}, target)
    with pytest.raises(CheckpointError, match=f"open_set.{key}"):
        load_checkpoint(target)


# ---- the command


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["target=fpir_1"], r"target=fpir_1 is not allowed: expected one of fpir_1e-2"),
        (["enrolled=a.csv"], r"probes is not given: .* belong together"),
        (["enrolled=/nowhere.csv", "probes=/nowhere"], r"enrolled=/nowhere.csv: expected a table"),
        (["enrolled=a", "probes=b", "calibration=val"], r"calibration=val does not go with enrolled"),
        (["sizes=[0,3]"], r"0 is no number of people"),
        (["output=a.bin"], r"ends in \.pt"),
        (["share=1"], r"share=1.0 is not allowed: expected a number above 0 and below 1"),
        (["enrolled_crops=0"], r"enrolled_crops=0 is not allowed: expected a number 1 or more"),
    ],
)
def test_wrong_keys_are_refused(typed: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        identify_settings(composed("identify", "checkpoint=x.pt", *typed))


def test_training_knows_no_open_set() -> None:
    with pytest.raises(ConfigError, match=r"eval.open_set is for a trained model"):
        train_settings(composed("train", "eval.open_set=true"))


@pytest.fixture(scope="module")
def tables(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """All 18 drawn people: twelve are enrolled with two crops each, the others are strangers."""
    data = load_dataset("synthetic", tiny_data / "synthetic" / "day_tiny_0", preset="tiny")
    crops = sorted(data.train + data.query + data.gallery, key=lambda crop: (crop.pid, crop.camid))
    people = sorted({crop.pid for crop in crops if crop.pid > 0})
    folder = tmp_path_factory.mktemp("tables")
    of_person = {pid: [crop for crop in crops if crop.pid == pid] for pid in people}
    enrolled = [mine[place] for mine in list(of_person.values())[:12] for place in (0, len(mine) // 2)]
    probes = [crop for crop in crops if crop not in enrolled and crop.pid > 0]
    for name, rows in (("enrolled", enrolled), ("probes", probes)):
        pd.DataFrame(rows, columns=["path", "pid", "camid"]).to_csv(folder / f"{name}.csv", index=False)
    return folder / "enrolled.csv", folder / "probes.csv"


@pytest.fixture(scope="module")
def identified(
    tiny_checkpoint: Path, tables: tuple[Path, Path], tiny: list[str], run_command: Runner,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Path, Path]:  # fmt: skip
    """What the real command printed, its folder, and the checkpoint that it wrote."""
    home = tmp_path_factory.mktemp("home")
    written = home / "identified.pt"
    done = run_command(
        "reid.identify", f"checkpoint={tiny_checkpoint}", f"enrolled={tables[0]}", f"probes={tables[1]}",
        "target=fpir_1e-1", f"output={written}", "replicates=40", "sizes=[2,4,6]", "draws=3", tiny[-1],
        "device=cpu", "eval.protocol=cross_camera", home=home,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder,) = (path.parent for path in home.glob("outputs/*/identify.json"))
    return done.stdout, folder, written


def test_the_command_fixes_first_and_tests_then(identified: tuple[str, Path, Path]) -> None:
    printed, folder, written = identified
    log = (folder / "identify.log").read_text()
    steps = ("first half of the own", "fixed: threshold", "second half", "tested:")
    places = [log.index(step) for step in steps]
    assert places == sorted(places)
    fixed = json.loads((folder / "fixed.json").read_text())["fixed"]
    record = json.loads((folder / "identify.json").read_text())
    stored = stored_open_set(load_checkpoint(written).meta)
    assert stored is not None
    assert stored.value == fixed["best"]["threshold"] == record["tested"]["best"]["threshold"]
    assert json.loads(json.dumps(asdict(stored))) == record["open_set"]
    assert set(record["tested"]) == {"best", "mean", "quality"}
    assert stored.enrolled == 6
    assert [size for size, _ in stored.sizes] == [2, 4, 6]
    assert stored.fpir_interval[0] <= stored.fpir <= stored.fpir_interval[1]
    assert record["tested"]["best"]["sizes"][-1]["fpir"] == stored.fpir
    status = json.loads((folder / "status.json").read_text())
    assert status["scores"]["open_set/threshold"] == stored.value
    assert status["scores"]["open_set/FPIR"] == stored.fpir
    for name in ("identification", "gallery_sizes"):
        with Image.open(folder / "figures" / f"{name}.png") as picture:
            assert picture.size[0] == 1080
    text = re.sub(r"\s+", " ", printed)
    assert "nobody: no euclidean distance of at most" in text
    assert "Galleries of other sizes" in text
    assert "Who, or nobody" in written.with_name("identified_card.md").read_text()


def test_the_rates_are_those_of_a_loop_over_the_test_people(
    identified: tuple[str, Path, Path], tables: tuple[Path, Path]
) -> None:
    _, folder, written = identified
    stored = stored_open_set(load_checkpoint(written).meta)
    assert stored is not None
    data = own_people(*tables)
    crops = data.query + data.gallery
    pids = np.array([crop.pid for crop in crops])
    _, half = divide_people(pids, np.arange(len(crops)) >= len(data.query), 0)
    features = load_model(written, "cpu").embed([crop.path for crop in crops]).double()
    distance = torch.cdist(features, features).numpy()
    enrolled = [row for row in range(len(data.query), len(crops)) if half[row]]
    false, strangers, right, mated = 0, 0, 0, 0
    for row in range(len(data.query)):
        if not half[row]:
            continue
        mine = crops[row]
        usable = [e for e in enrolled if (crops[e].pid, crops[e].camid) != (mine.pid, mine.camid)]
        nearest = min(usable, key=lambda e: distance[row, e])
        within = distance[row, nearest] <= stored.value + 1e-7
        if mine.pid not in {crops[e].pid for e in enrolled}:
            strangers, false = strangers + 1, false + within
        elif any(crops[e].pid == mine.pid for e in usable):
            mated, right = mated + 1, right + (within and crops[nearest].pid == mine.pid)
    record = json.loads((folder / "identify.json").read_text())["tested"]["best"]
    assert (record["stranger_searches"], record["mated_searches"]) == (strangers, mated)
    assert stored.fpir == pytest.approx(false / strangers)
    assert stored.dir == pytest.approx(right / mated)


def test_too_few_strangers_end_the_command_in_words(
    tiny_checkpoint: Path, tiny: list[str], run_command: Runner, tmp_path: Path
) -> None:
    done = run_command(
        "reid.identify", f"checkpoint={tiny_checkpoint}", "target=fpir_1e-3", f"output={tmp_path / 'a.pt'}",
        tiny[-1], "device=cpu", home=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert "embedding" not in done.stdout
    assert "an FPIR of 0.001 needs at least 1,000 searches of strangers" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "a.pt").exists()


# ---- eval.open_set


def judged_people(people: int = 40) -> tuple[Embeddings, Embeddings]:
    generator = torch.Generator().manual_seed(0)
    pids = torch.arange(1, people + 1).repeat_interleave(4)
    centres = torch.randn(people, 8, generator=generator)
    features = centres.repeat_interleave(4, 0) + 0.3 * torch.randn(4 * people, 8, generator=generator)
    camids = torch.arange(4).repeat(people)
    every = Embeddings(features, pids, camids).normalised()
    return every.select(camids < 2), every.select(camids >= 2)


def test_a_judged_query_and_gallery_give_open_set_scores() -> None:
    scores = judged_open_set(*judged_people(), EvalConfig())
    values = open_set_values(scores)
    assert set(values) == {"DIR-at-FPIR-1e-1"}  # 80 searches of strangers
    assert 0 < values["DIR-at-FPIR-1e-1"] <= 1
    assert scores.sure.enrolled == scores.sure.strangers == 20
    assert open_set_values(judged_open_set(*judged_people(), EvalConfig())) == values


def test_it_is_off_by_default(tiny_checkpoint: Path) -> None:
    assert not EvalConfig().open_set
    assert "open_set" in load_checkpoint(tiny_checkpoint).meta["eval"]


def test_evaluate_tracks_and_draws_it(
    tiny_checkpoint: Path, tables: tuple[Path, Path], tiny: list[str], run_command: Runner, tmp_path: Path
) -> None:
    model = Path(shutil.copy(tiny_checkpoint, tmp_path / "model.pt"))
    rows = []
    for split, file in (("gallery", tables[0]), ("query", tables[1])):
        rows.append(pd.read_csv(file).assign(split=split))
    pd.concat(rows).to_csv(tmp_path / "crops.csv", index=False)
    typed = [
        f"checkpoint={model}", "dataset=table", f"dataset.file={tmp_path / 'crops.csv'}", tiny[-1],
        "device=cpu",
    ]  # fmt: skip
    for home in ("plain", "open"):
        (tmp_path / home).mkdir()
    plain = run_command("reid.evaluate", *typed, home=tmp_path / "plain")
    done = run_command("reid.evaluate", *typed, "eval.open_set=true", "card=true", home=tmp_path / "open")
    assert (plain.returncode, done.returncode) == (0, 0), plain.stderr + done.stderr
    (before,) = (tmp_path / "plain").glob("outputs/*/status.json")
    (after,) = (tmp_path / "open").glob("outputs/*/status.json")
    without, scores = (json.loads(file.read_text())["scores"] for file in (before, after))
    new = {name: value for name, value in scores.items() if name not in without}
    assert {name: scores[name] for name in without} == without
    assert set(new) == {"test/open_set/DIR-at-FPIR-1e-1"}
    assert (after.parent / "figures" / "identification.png").exists()
    assert "DIR" in done.stdout
    saved = json.loads((after.parent / "scores.json").read_text())
    (one,) = saved["open_set"].values()
    low, high = one["intervals"]["dir_at"]["1e-01"]
    assert low <= new["test/open_set/DIR-at-FPIR-1e-1"] <= high
    assert "DIR-at-FPIR-1e-1" in model.with_name("model_card.md").read_text()
