"""What a model is adapted to: crops without labels, in every form that users have them, and labels left
alone."""

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from reid.data import DatasetError, load_dataset
from reid.data.unlabelled import read_target
from reid.people import DISTRACTOR


def pictures(root: Path, names: Sequence[str]) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 16)).save(root / name)


def table(file: Path, header: str, rows: Sequence[Sequence[object]]) -> dict[str, object]:
    with file.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(header.split(","))
        writer.writerows(rows)
    return {"name": "table", "root": str(file.parent), "file": str(file)}


def test_a_table_needs_paths_alone(tmp_path: Path) -> None:
    pictures(tmp_path, ["b.jpg", "a.jpg"])
    target = read_target(table(tmp_path / "crops.csv", "path", [["b.jpg"], ["a.jpg"]]))
    assert [(crop.path.name, crop.pid, crop.camid) for crop in target.crops] == [
        ("a.jpg", DISTRACTOR, 0), ("b.jpg", DISTRACTOR, 0),
    ]  # fmt: skip
    assert (target.name, target.cameras, target.labelled) == ("crops", False, None)


def test_a_table_may_name_cameras_and_splits(tmp_path: Path) -> None:
    pictures(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    rows = [["a.jpg", "door", "train"], ["b.jpg", "hall", "train"], ["c.jpg", "hall", "query"]]
    target = read_target(table(tmp_path / "crops.csv", "path,camid,split", rows))
    assert [(crop.path.name, crop.camid) for crop in target.crops] == [("a.jpg", 0), ("b.jpg", 1)]
    assert target.cameras


def test_a_parquet_table_without_people(tmp_path: Path) -> None:
    pictures(tmp_path, ["a.jpg", "b.jpg"])
    pd.DataFrame({"path": ["a.jpg", "b.jpg"], "camid": [1, 0]}).to_parquet(tmp_path / "crops.parquet")
    target = read_target(
        {"name": "table", "root": str(tmp_path), "file": str(tmp_path / "crops.parquet"), "seed": 0}
    )
    assert [crop.camid for crop in target.crops] == [1, 0]


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("path,person_id", [["a.jpg", 1]], "Rename 'person_id' to 'pid'"),  # it may be meant as one
        ("file", [["a.jpg"]], "Rename 'file' to 'path'"),
        ("path", [["gone.jpg"]], "there is no .*gone.jpg"),
        ("path,split", [["a.jpg", "query"]], "no image has the split train"),
        ("path", [["a.jpg"], ["a.jpg"]], "Give each image once"),
        ("path", [], "there is no image"),
    ],
)
def test_a_table_that_says_otherwise_is_refused(
    header: str, rows: list[list[object]], message: str, tmp_path: Path
) -> None:
    pictures(tmp_path, ["a.jpg"])
    with pytest.raises(DatasetError, match=message):
        read_target(table(tmp_path / "crops.csv", header, rows))


def test_labels_none_reads_no_pids(tmp_path: Path) -> None:
    pictures(tmp_path, ["a.jpg", "b.jpg"])
    rows = [["a.jpg", "nan"], ["b.jpg", ""]]  # which a labelled table must not hold
    target = read_target(table(tmp_path / "crops.csv", "path,pid", rows), labels="none")
    assert len(target.crops) == 2
    assert target.labelled is None


@pytest.mark.parametrize(
    ("names", "camids"),
    [
        (["1.jpg", "2.png"], [0, 0]),
        (["x_c1.jpg", "x_c3.jpg"], [0, 2]),
        (["cam1/1.jpg", "cam2/1.jpg", "cam2/deep/2.jpg"], [0, 1, 1]),
        (["train/c1/1.jpg", "train/c2/1.jpg"], [0, 1]),
    ],
)
def test_a_folder_of_images_or_of_cameras_has_no_people(
    names: list[str], camids: list[int], tmp_path: Path
) -> None:
    pictures(tmp_path, names)
    target = read_target({"name": "folders", "root": str(tmp_path)})
    assert [crop.camid for crop in target.crops] == camids
    assert target.labelled is None


def test_training_crops_of_folders_of_people_are_taken_without_labels(tmp_path: Path) -> None:
    pictures(tmp_path, [f"{person}/{n}_c{n}.jpg" for person in ("ann", "bob", "eve", "zoe") for n in (1, 2)])
    target = read_target({"name": "folders", "root": str(tmp_path)})
    labelled = target.labelled
    assert labelled is not None
    assert [crop.path for crop in target.crops] == [crop.path for crop in labelled.train]
    assert {crop.pid for crop in target.crops} == {DISTRACTOR}
    everything = read_target({"name": "folders", "root": str(tmp_path)}, labels="none")
    assert len(everything.crops) == 8
    assert everything.labelled is None
    assert everything.cameras


def test_a_training_folder_without_labels_is_judged_by_labelled_ones(tmp_path: Path) -> None:
    pictures(tmp_path, ["train/a_c1.jpg", "train/b_c2.jpg", "query/ann/x_c1.jpg", "gallery/ann/x_c2.jpg"])
    target = read_target({"name": "folders", "root": str(tmp_path)})
    assert [crop.path.name for crop in target.crops] == ["a_c1.jpg", "b_c2.jpg"]
    assert target.labelled is not None
    assert (len(target.labelled.query), len(target.labelled.gallery)) == (1, 1)


def test_data_to_judge_on_alone_are_refused(tiny_data: Path, tmp_path: Path) -> None:
    for folder in ("query", "bounding_box_test"):
        shutil.copytree(tiny_data / "synthetic" / "day_tiny_0" / folder, tmp_path / folder)
    with pytest.raises(DatasetError, match="has no crops to adapt to"):
        read_target({"name": "folder", "root": str(tmp_path)})


def test_any_dataset_is_a_target(tiny_data: Path) -> None:
    spec: dict[str, Any] = {
        "name": "synthetic",
        "root": str(tiny_data / "synthetic" / "day_tiny_0"),
        "preset": "tiny",
    }
    target, whole = read_target(spec), load_dataset(**spec)
    assert target.labelled == whole
    assert [crop.path for crop in target.crops] == [crop.path for crop in whole.train]
    assert {crop.pid for crop in target.crops} == {DISTRACTOR}
