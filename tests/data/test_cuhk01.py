"""CUHK01: cameras from the number of the image, and a split by identity that its seed decides."""

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from reid.data import Crop, DatasetError, ReidDataset, load_dataset

PEOPLE = 10


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten people with four images each."""
    root = tmp_path_factory.mktemp("cuhk01")
    (root / "campus").mkdir()
    for pid in range(1, PEOPLE + 1):
        for image in range(1, 5):
            Image.new("RGB", (8, 16), (10, 20, 30)).save(root / "campus" / f"{pid:04d}{image:03d}.png")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two people only, to spoil."""
    (tmp_path / "campus").mkdir()
    for name in ("0001001", "0001003", "0002001", "0002003"):
        Image.new("RGB", (8, 16)).save(tmp_path / "campus" / f"{name}.png")
    return tmp_path


def read(root: Path, **options: Any) -> ReidDataset:
    return load_dataset("cuhk01", root, **{"official": False, "train_identities": 4, **options})


def pids(crops: tuple) -> set[int]:
    return {crop.pid for crop in crops}


def test_images_1_and_2_are_camera_a_and_3_and_4_camera_b(laid: Path) -> None:
    dataset = read(laid)
    for crop in dataset.train + dataset.query + dataset.gallery:
        pid, image = int(crop.path.stem[:4]), int(crop.path.stem[4:])
        assert crop == Crop(laid / "campus" / crop.path.name, pid, 0 if image < 3 else 1)


@pytest.mark.parametrize("seed", range(4))
def test_people_are_split_whole_and_looked_for_from_camera_a_in_camera_b(laid: Path, seed: int) -> None:
    dataset = read(laid, split_seed=seed)
    assert (len(dataset.train), len(dataset.query), len(dataset.gallery)) == (16, 12, 12)
    assert pids(dataset.query) == pids(dataset.gallery) == set(range(1, 11)) - pids(dataset.train)
    assert {crop.camid for crop in dataset.query} == {0}
    assert {crop.camid for crop in dataset.gallery} == {1}
    for crops in (dataset.train, dataset.query, dataset.gallery):
        names = [crop.path.name for crop in crops]
        assert names == sorted(names)


def test_the_seed_decides(laid: Path) -> None:
    assert read(laid, split_seed=3) == read(laid, split_seed=3)
    assert len({tuple(sorted(pids(read(laid, split_seed=seed).train))) for seed in range(8)}) > 4
    # Fixed: a score of the past must be one on the same people.
    assert pids(read(laid).train) == {3, 5, 7, 8}


def test_strays_are_counted(root: Path) -> None:
    (root / "campus/._0001001.png").write_bytes(b"resource fork")
    (root / "campus/Thumbs.db").write_bytes(b"db")
    (root / "campus/0003001.png").mkdir()
    assert read(root, train_identities=1).strays == 3


@pytest.mark.parametrize("name", ["person.png", "0003005.png", "0003000.png", "003001.png", "0003001_1.png"])
def test_a_name_without_identity_and_camera_is_refused(root: Path, name: str) -> None:
    path = root / "campus" / name
    Image.new("RGB", (8, 16)).save(path)
    with pytest.raises(DatasetError, match=re.escape(str(path))) as caught:
        read(root)
    assert "0001001.png" in str(caught.value)


@pytest.mark.parametrize("identities", [0, 2, 485])
def test_somebody_must_be_trained_on_and_somebody_left(root: Path, identities: int) -> None:
    with pytest.raises(DatasetError, match=rf"train_identities={identities}: .* 2 people.* 1 to 1\."):
        read(root, train_identities=identities)


def test_a_negative_seed_is_refused(root: Path) -> None:
    with pytest.raises(DatasetError, match=r"dataset\.split_seed=-1: expected 0 or more"):
        read(root, split_seed=-1)


def test_the_official_number_of_crops_is_taken(tmp_path: Path) -> None:
    """Empty files: what is read is their names."""
    (tmp_path / "campus").mkdir()
    for pid in range(1, 972):
        for image in range(1, 5):
            (tmp_path / "campus" / f"{pid:04d}{image:03d}.png").touch()
    dataset = load_dataset("cuhk01", tmp_path)
    assert (len(dataset.train), len(dataset.query), len(dataset.gallery)) == (1_940, 972, 972)
    dataset = load_dataset("cuhk01", tmp_path, train_identities=871)
    assert (len(dataset.train), len(dataset.query), len(dataset.gallery)) == (3_484, 200, 200)


@pytest.mark.parametrize(("identities", "counts"), [(4, "16 / 1,934 / 1,934"), (7, "28 / 1,928 / 1,928")])
def test_other_counts_are_refused_with_both(laid: Path, identities: int, counts: str) -> None:
    """971 people, four images each."""
    with pytest.raises(DatasetError, match=f"not CUHK01: expected {counts}") as caught:
        read(laid, official=True, train_identities=identities)
    assert "dataset.official=false" in str(caught.value)


def test_no_data_at_all_shows_the_layout(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        load_dataset("cuhk01", tmp_path)
    message = str(caught.value)
    assert f"looked for {tmp_path}/campus." in message
    for fragment in (
        f"{tmp_path}/campus/0001001.png",
        "Li et al., ACCV 2012",
        "dataset.root=",
        "make quickstart",
    ):
        assert fragment in message


def test_a_folder_without_crops_is_refused(tmp_path: Path) -> None:
    (tmp_path / "campus").mkdir()
    with pytest.raises(DatasetError, match=r"no crops in .*campus"):
        load_dataset("cuhk01", tmp_path)
