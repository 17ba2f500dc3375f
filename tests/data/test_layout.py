"""Reading Market's layout: names, strays, junk, distractors, and every message that a user may meet."""

import os
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from reid.data import Crop, DatasetError, dataset_names, load_dataset
from reid.data.layout import FOLDERS, read_market_layout

TRAIN, QUERY, GALLERY = FOLDERS


def draw(path: Path) -> Path:
    """A tiny image: what is read here is its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 4), (10, 20, 30)).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two people to train on, one to look for, a distractor and a junk crop."""
    for name in ("0007_c2s1_000300_01.jpg", "0002_c1s1_000451_03.jpg", "0002_c3s1_000100_01.jpg"):
        draw(tmp_path / TRAIN / name)
    draw(tmp_path / QUERY / "0005_c1s1_000001_00.jpg")
    for name in ("0005_c6s2_000001_01.jpg", "0000_c2s1_000009_02.jpg", "-1_c1s1_000004_05.jpg"):
        draw(tmp_path / GALLERY / name)
    return tmp_path


def test_crops_are_sorted_by_name_with_cameras_from_0(root: Path) -> None:
    dataset = load_dataset("folder", root)
    assert dataset.train == (
        Crop(root / TRAIN / "0002_c1s1_000451_03.jpg", 2, 0),
        Crop(root / TRAIN / "0002_c3s1_000100_01.jpg", 2, 2),
        Crop(root / TRAIN / "0007_c2s1_000300_01.jpg", 7, 1),
    )
    assert [(crop.pid, crop.camid) for crop in dataset.query] == [(5, 0)]


def test_junk_is_dropped_and_counted_and_distractors_stay(root: Path) -> None:
    dataset = load_dataset("folder", root)
    assert dataset.junk == 1
    assert [(crop.pid, crop.camid) for crop in dataset.gallery] == [(0, 1), (5, 5)]


def test_strays_are_skipped_and_counted(root: Path) -> None:
    (root / TRAIN / "._0002_c1s1_000451_03.jpg").write_bytes(b"resource fork")
    (root / TRAIN / "Thumbs.db").write_bytes(b"db")
    (root / QUERY / ".DS_Store").write_bytes(b"store")
    (root / GALLERY / "readme.txt").write_text("who took these")
    (root / GALLERY / "0009_c1.jpg").mkdir()
    before = load_dataset("folder", root)
    assert before.strays == 5
    assert (len(before.train), len(before.query), len(before.gallery)) == (3, 1, 2)


def test_a_link_to_nowhere_is_a_crop_so_that_the_store_names_it(root: Path) -> None:
    (root / TRAIN / "0008_c1_1.jpg").symlink_to(root / "not-mounted.jpg")
    dataset = load_dataset("folder", root)
    assert dataset.train[-1].pid == 8
    assert dataset.strays == 0


@pytest.mark.parametrize(
    ("name", "pid", "camid"),
    [
        ("0002_c1s1_000451_03.jpg", 2, 0),
        ("0001_c2_f0046182.jpg", 1, 1),
        ("0001_c1_1.png", 1, 0),
        ("0011_c15_1.JPG", 11, 14),
        ("12345_c2.JPEG", 12345, 1),
        ("0003_c4_x.PnG", 3, 3),
    ],
)
def test_names_of_the_known_sets(root: Path, name: str, pid: int, camid: int) -> None:
    path = draw(root / TRAIN / name)
    assert Crop(path, pid, camid) in load_dataset("folder", root).train


@pytest.mark.parametrize("name", ["person.jpg", "0002.jpg", "0002_s1.jpg", "c1_0002.jpg", "0002_c.png"])
def test_a_name_without_pid_or_camera_is_refused(root: Path, name: str) -> None:
    path = draw(root / TRAIN / name)
    with pytest.raises(DatasetError, match=re.escape(str(path))) as caught:
        load_dataset("folder", root)
    assert "0002_c1s1_000451_03.jpg" in str(caught.value)


def test_camera_0_is_refused(root: Path) -> None:
    draw(root / TRAIN / "0002_c0s1_1.jpg")
    with pytest.raises(DatasetError, match="cameras count from 1"):
        load_dataset("folder", root)


@pytest.mark.parametrize("name", ["market", "duke", "folder"])
def test_missing_folders_are_named_with_the_layout_and_the_way_without_data(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / QUERY).mkdir()
    with pytest.raises(DatasetError) as caught:
        load_dataset(name, tmp_path)
    message = str(caught.value)
    looked_for, rest = message.split("\n", 1)
    assert str(tmp_path / TRAIN) in looked_for
    assert str(tmp_path / GALLERY) in looked_for
    assert str(tmp_path / QUERY) not in looked_for
    assert all(str(tmp_path / folder) in rest for folder in FOLDERS)
    assert "data.root=" in rest
    assert "make quickstart" in rest


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux alone")
@pytest.mark.parametrize("folder", FOLDERS)
def test_a_name_that_is_not_utf_8_is_refused_by_its_bytes(root: Path, folder: str) -> None:
    crop = sorted((root / folder).glob("*.jpg"))[-1]
    os.rename(crop, os.fsencode(crop.with_suffix("")) + b"Jos\xe9.jpg")
    with pytest.raises(DatasetError, match=r"Jos\\xe9.jpg': this name is not UTF-8.*Rename it"):
        load_dataset("folder", root)


def test_duke_says_that_it_was_withdrawn(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"withdrawn.*2019") as caught:
        load_dataset("duke", tmp_path / "nowhere")
    assert "0001_c2_f0046182.jpg" in str(caught.value)
    assert "withdrawn" in load_dataset("duke", root, official=False).notice


def test_market_says_where_to_ask(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="Zheng et al"):
        load_dataset("market", tmp_path)


@pytest.mark.parametrize(
    ("name", "counts"), [("market", "12,936 / 3,368 / 15,913"), ("duke", "16,522 / 2,228 / 17,661")]
)
def test_another_count_under_an_official_name_is_refused_with_both(
    root: Path, name: str, counts: str
) -> None:
    with pytest.raises(DatasetError) as caught:
        load_dataset(name, root)
    assert counts in str(caught.value)
    assert "found 3 / 1 / 2" in str(caught.value)
    assert f"dataset=folder dataset.root={root}" in str(caught.value)
    dataset = load_dataset(name, root, official=False)
    assert (dataset.name, len(dataset.train)) == (name, 3)


def test_a_folder_without_crops_is_refused(root: Path) -> None:
    for path in (root / QUERY).iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match=re.escape(str(root / QUERY))):
        load_dataset("folder", root)


def test_people_both_trained_on_and_looked_for_are_refused(root: Path) -> None:
    draw(root / QUERY / "0007_c1_1.jpg")
    with pytest.raises(DatasetError, match=r"1 identities are both.*7"):
        load_dataset("folder", root)


def test_a_pattern_of_its_own(tmp_path: Path) -> None:
    for folder, pid in zip(FOLDERS, (1, 2, 2), strict=True):
        draw(tmp_path / folder / f"cam3-person{pid}.png")
    pattern = re.compile(r"^cam(?=\d+-person(\d+))(\d+)")
    dataset = read_market_layout("mine", tmp_path, pattern=pattern)
    assert [(crop.pid, crop.camid) for crop in dataset.train] == [(1, 2)]


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(DatasetError, match="Did you mean 'market'"):
        load_dataset("markt", "data")
    assert {"market", "duke", "folder"} <= set(dataset_names())
