"""Several datasets at once: people and cameras kept apart, tested on one of them."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from reid.data import Crop, DatasetError, load_dataset
from reid.data.layout import FOLDERS


def market_like(root: Path, *names: tuple[str, ...]) -> dict[str, Any]:
    for folder, some in zip(FOLDERS, names, strict=True):
        for name in some:
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (2, 4)).save(root / folder / name)
    return {"name": "folder", "root": str(root)}


@pytest.fixture
def parts(tmp_path: Path) -> list[dict[str, Any]]:
    """A set in Market's layout and a table, both with a person 2 and a camera 0."""
    train, gallery = ("0002_c1_1.png", "0003_c4_1.png"), ("0000_c2_1.png", "0005_c3_1.png")
    one = market_like(tmp_path / "one", train, ("0005_c1_1.png",), gallery)
    lines = "path,pid,camid,split\na.png,2,0,train\nb.png,6,1,query\nc.png,6,0,gallery\nd.png,0,0,gallery\n"
    (tmp_path / "crops.csv").write_text(lines)
    for name in "abcd":
        Image.new("RGB", (2, 4)).save(tmp_path / f"{name}.png")
    return [one, {"name": "table", "root": str(tmp_path), "file": str(tmp_path / "crops.csv")}]


def test_people_and_cameras_are_kept_apart_by_hand(parts: list[dict[str, Any]], tmp_path: Path) -> None:
    joint = load_dataset("joint", tmp_path, parts=parts)
    one = tmp_path / "one"
    assert joint.name == "folder+crops"
    # The first part has pids to 5 and cameras to 3, so the second counts on from 6 and 4.
    assert joint.train == (
        Crop(one / FOLDERS[0] / "0002_c1_1.png", 2, 0),
        Crop(one / FOLDERS[0] / "0003_c4_1.png", 3, 3),
        Crop(tmp_path / "a.png", 2 + 6, 0 + 4),
    )
    assert [(crop.pid, crop.camid) for crop in joint.query + joint.gallery] == [(5, 0), (0, 1), (5, 2)]
    assert "folder (2 people, 2 images); crops (1 people, 1 images); tested on folder" in joint.notice


def test_the_part_to_test_on_is_chosen_by_name(parts: list[dict[str, Any]], tmp_path: Path) -> None:
    joint = load_dataset("joint", tmp_path, parts=parts, test="crops")
    assert [(crop.pid, crop.camid) for crop in joint.query + joint.gallery] == [(12, 5), (12, 4), (0, 4)]
    assert joint.train == load_dataset("joint", tmp_path, parts=parts).train
    with pytest.raises(DatasetError, match=r"dataset\.test=duke is no part: expected one of folder, crops"):
        load_dataset("joint", tmp_path, parts=parts, test="duke")


def test_cameras_are_those_of_the_part_that_is_tested_on(parts: list[dict[str, Any]], tmp_path: Path) -> None:
    lines = "path,pid,split\na.png,2,train\nb.png,6,query\nc.png,6,gallery\n"
    (tmp_path / "crops.csv").write_text(lines)
    assert load_dataset("joint", tmp_path, parts=parts).cameras
    assert not load_dataset("joint", tmp_path, parts=parts, test="crops").cameras


def test_what_is_wrong_names_the_part(parts: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "crops.csv").unlink()
    with pytest.raises(DatasetError, match=r"dataset\.parts\[1\], table: there is no table"):
        load_dataset("joint", tmp_path, parts=parts)


def test_a_part_given_twice_or_alone_is_refused(parts: list[dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="trained on twice, by folder and by folder"):
        load_dataset("joint", tmp_path, parts=[parts[0], parts[0]])
    with pytest.raises(DatasetError, match=r"holds 1 parts"):
        load_dataset("joint", tmp_path, parts=parts[:1])


def test_a_part_that_trains_on_the_tested_images_is_refused(
    parts: list[dict[str, Any]], tmp_path: Path
) -> None:
    lines = f"path,pid,camid,split\na.png,2,0,train\none/{FOLDERS[1]}/0005_c1_1.png,9,0,train\n"
    (tmp_path / "crops.csv").write_text(lines)
    with pytest.raises(DatasetError, match=r"crops trains on 1 images that folder is tested on .*0005_c1_1"):
        load_dataset("joint", tmp_path, parts=parts)
