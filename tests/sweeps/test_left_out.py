"""`sweep=leave_one_out`: its cells, its reader, and its report on sweeps written by hand."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reid.config.checks import ConfigError
from reid.config.dataset import drawn_people, sources
from reid.config.identity import without_defaults
from reid.data import DatasetError, load_dataset
from reid.engine.card import trained_on
from reid.judging.domains import same_domain
from reid.retrieval import Measured, level
from reid.retrieval.differences import people_variance
from reid.sweeps.cells import expand
from reid.sweeps.outcome import SweptRun
from reid.sweeps.summary import build

KEY = "dataset.left_out"
PARTS = "dataset.parts=[synthetic,synthetic_night,{name:synthetic,preset:tiny}]"


def test_a_cell_for_each_part_and_seed(own_home: None) -> None:
    cells = expand("train", ["sweep=leave_one_out", "dataset=joint", PARTS, "seed=0,1"])
    assert [cell.overrides[0] for cell in cells] == [f"{KEY}={place}" for place in (0, 0, 1, 1, 2, 2)]
    assert len({cell.config_hash for cell in cells}) == 6


def test_without_parts_there_is_nothing_to_leave_out(own_home: None) -> None:
    with pytest.raises(ConfigError, match=r"needs two parts or more.*dataset=joint"):
        expand("train", ["sweep=leave_one_out"])


def table(root: Path, name: str, first: int) -> dict[str, object]:
    """Six people in a table, two of them to train on."""
    lines = ["path,pid,camid,split"]
    for pid in range(first, first + 4):
        for camid in (0, 1):
            split = "train" if pid < first + 2 else ("query" if camid == 0 else "gallery")
            path = root / f"{name}_{pid}_{camid}.jpg"
            path.touch()
            lines.append(f"{path.name},{pid},{camid},{split}")
    (root / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return {"name": "table", "root": str(root), "file": str(root / f"{name}.csv")}


def test_who_is_left_out_is_judged_on_and_not_trained_on(tmp_path: Path) -> None:
    parts = [table(tmp_path, name, 1) for name in ("a", "b", "c")]
    joint = load_dataset("joint", tmp_path, parts=parts, left_out=1)
    assert joint.name == "a+c -> b"
    assert {crop.path.name[0] for crop in joint.train} == {"a", "c"}
    assert {crop.path.name[0] for crop in joint.query + joint.gallery} == {"b"}
    assert len(joint.train) == 8
    assert not joint.val
    assert "trained on a (2 people, 4 images); c (2 people, 4 images); tested on b" in joint.notice
    with pytest.raises(DatasetError, match="0 to 2"):
        load_dataset("joint", tmp_path, parts=parts, left_out=3)
    with pytest.raises(DatasetError, match=r"Leave dataset\.test out"):
        load_dataset("joint", tmp_path, parts=parts, left_out=1, test="a")


def test_who_is_left_out_is_no_data_of_the_model(tmp_path: Path) -> None:
    parts = [table(tmp_path, name, 1) for name in ("a", "b", "c")]
    spec = {"name": "joint", "root": str(tmp_path), "parts": parts, "left_out": 1}
    assert sources(spec) == [parts[0], parts[2]]
    assert same_domain(parts[0], spec)
    assert not same_domain(parts[1], spec)
    assert not same_domain(spec, spec)  # it is judged on the part that was left out
    drawn = {"name": "synthetic", "root": "x", "preset": "tiny"}
    assert drawn_people({"name": "joint", "parts": [drawn, drawn], "left_out": 0}) == 12
    market = {**parts[1], "name": "market"}
    assert trained_on({"dataset": {**spec, "parts": [parts[0], market, parts[2]]}}) == ["table", "table"]
    # A key at its default is not there for a hash.
    assert without_defaults({"dataset": {"name": "joint", "left_out": None}}) == {
        "dataset": {"name": "joint"}
    }


# ---- the report

PIDS = np.arange(30).repeat(3)


def run(folder: Path, place: str, score: float, seed: int, **values: str) -> SweptRun:
    number = len(list(folder.iterdir()))
    hardness = np.linspace(-0.2, 0.2, 30)[PIDS]
    precision = score + hardness + np.random.default_rng(seed).normal(0, 0.01, len(PIDS))
    path = folder / f"{number}.csv"
    rows = {"name": "test", "query": range(len(PIDS)), "pid": PIDS, "average_precision": precision}
    pd.DataFrame(rows).to_csv(path, index=False)
    names = ["day", "night", "street"]
    target = names.pop(int(place))
    keys = {KEY: place, **{key.replace("__", "."): value for key, value in values.items()}}
    return SweptRun(
        keys, str(seed), "FINISHED", {"test/mAP": float(precision.mean()), "test/rank-1": 0.5}, queries=path,
        data=f"data of {target}", data_name=f"{'+'.join(names)} -> {target}",
    )  # fmt: skip


SCORES = {"0": 0.30, "1": 0.50, "2": 0.40}


def test_the_table_has_sources_and_targets_with_intervals(tmp_path: Path) -> None:
    runs = [run(tmp_path, place, score, seed) for place, score in SCORES.items() for seed in (0, 1, 2)]
    made = build(runs, [KEY, "seed"], "test", "study: leave_one_out")
    lines = made.markdown().splitlines()
    assert made.sentence.startswith("Left out and judged on, mAP is 30.")
    assert lines[2] == "| trained on | left out, judged on | mAP on test (%) [95 %] | rank-1 (%) | seeds |"
    assert [line.split(" | ")[0] for line in lines[4:7]] == ["| night+street", "| day+street", "| day+night"]
    assert [line.split(" | ")[1] for line in lines[4:7]] == ["day", "night", "street"]
    cell = lines[4].split(" | ")[2]
    low, high = (float(word) for word in cell.split("[")[1].rstrip("]").split(", "))
    assert low < 30 < high
    assert 5 < high - low < 15  # people differ by 0.2 to each side
    assert "fingerprints differ" not in made.markdown()  # they are meant to
    assert made.best("mAP") == pytest.approx(0.4, abs=0.01)
    assert made.figure() is not None


def test_what_is_swept_beside_it_is_compared_part_by_part(tmp_path: Path) -> None:
    runs = [
        run(tmp_path, place, score + (0.1 if grey != "0" and place != "2" else 0.0), seed, augment__grey=grey)
        for place, score in SCORES.items()
        for grey in ("0", "0.5")
        for seed in (0, 1, 2)
    ]
    made = build(runs, [KEY, "augment.grey", "seed"], "test", "study: leave_one_out")
    text = made.markdown()
    assert "augment.grey=0.5 changes it by +6.7 points on average over 3 parts; in 2 of them" in made.sentence
    row = next(line for line in text.splitlines() if line.startswith("| night+street | day | 0.5"))
    assert "+10.0 [+" in row
    assert next(line for line in text.splitlines() if line.startswith("| night+street | day | 0 |")).endswith(
        "| - |"
    )


def test_parts_of_one_name_are_told_apart_by_their_places(tmp_path: Path) -> None:
    runs = [
        dataclasses.replace(run(tmp_path, place, score, 0), data_name="a+b -> crops")
        for place, score in (("0", 0.3), ("1", 0.5))
    ]
    text = build(runs, [KEY], "test", "study: leave_one_out").markdown()
    assert "| a+b | crops (0) | 30." in text
    assert "| a+b | crops (1) | 50." in text


def test_cells_that_failed_are_named(tmp_path: Path) -> None:
    runs = [run(tmp_path, "0", 0.3, 0)]
    failed = dataclasses.replace(
        runs[0], values={KEY: "1"}, status="FAILED", scores={}, error="no luck", data_name=""
    )
    made = build([*runs, failed], [KEY, "seed"], "test", "study: leave_one_out")
    assert "1 of 2 cells finished" in made.markdown()
    assert "| the other parts | part 1 | - | - | 0 of 1 |" in made.markdown()
    assert np.isnan(build([failed], [KEY], "test", "x").best("mAP"))


def test_the_interval_of_a_mean_by_hand() -> None:
    scores = np.array([0.5, 0.6, 0.7])
    seeds_alone = level(Measured(scores))
    half = 4.302653 * 0.1 / np.sqrt(3)  # Student's quantile for two degrees of freedom
    assert seeds_alone == pytest.approx((0.6 - half, 0.6 + half), abs=1e-6)
    precision = np.stack([np.linspace(0, 1, 30)[PIDS]] * 1)
    people = level(Measured(np.array([0.5]), precision, PIDS))
    spread = np.sqrt(people_variance(precision[0], PIDS))
    assert people == pytest.approx((0.5 - 2.04523 * spread, 0.5 + 2.04523 * spread), abs=1e-4)
    assert np.isnan(level(Measured(np.array([0.5]))).low)
    with pytest.raises(ValueError, match="without a score"):
        level(Measured(np.array([])))
