"""MSMT17: two releases told apart by their folders, splits by lists, and copies with holes in words."""

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from reid.data import Crop, DatasetError, ReidDataset, load_dataset
from reid.data.datasets.msmt17 import LISTS, VERSIONS

#: What each list names: path below its folder, then the identity; both halves count people from 0.
LINES = {
    "list_train.txt": [
        "0001/0001_000_12_0303noon_0020_1_ex.jpg 1",
        "0000/0000_001_02_0303morning_0016_0.jpg 0",
        "0000/0000_000_01_0303morning_0015_0.jpg 0",
    ],
    "list_val.txt": ["0000/0000_002_15_0303morning_0017_2.jpg 0"],
    "list_query.txt": ["0000/0000_000_03_0114afternoon_0001_0.jpg 0"],
    "list_gallery.txt": [
        "0002/0002_000_01_0113noon_0001_0.jpg 2",
        "0000/0000_001_09_0114afternoon_0002_0.jpg 0",
    ],
}


def lay(home: Path, version: str) -> Path:
    """A tiny MSMT17 of that version in `home`."""
    train, test = VERSIONS[version]
    for name, lines in LINES.items():
        images = home / (train if name in LISTS[:2] else test)
        for line in lines:
            path = images / line.split()[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 16), (10, 20, 30)).save(path)
        (home / name).write_text("".join(f"{line}\n" for line in lines))
    return home


@pytest.fixture
def root(tmp_path: Path) -> Path:
    lay(tmp_path / "MSMT17_V1", "V1")
    return tmp_path


def read(root: Path, **options: Any) -> ReidDataset:
    return load_dataset("msmt17", root, official=False, **options)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_lists_tell_who_is_in_which_split(version: str, tmp_path: Path) -> None:
    """Sorted by name, cameras from 0; 0000 to train on is not 0000 to test on, and no distractor."""
    home = lay(tmp_path / f"MSMT17_{version}", version)
    train, test = (home / folder for folder in VERSIONS[version])
    dataset = read(tmp_path)
    assert dataset.train == (
        Crop(train / "0000/0000_000_01_0303morning_0015_0.jpg", 1, 0),
        Crop(train / "0000/0000_001_02_0303morning_0016_0.jpg", 1, 1),
        Crop(train / "0001/0001_000_12_0303noon_0020_1_ex.jpg", 2, 11),
    )
    assert dataset.query == (Crop(test / "0000/0000_000_03_0114afternoon_0001_0.jpg", 10_001, 2),)
    assert dataset.gallery == (
        Crop(test / "0000/0000_001_09_0114afternoon_0002_0.jpg", 10_001, 8),
        Crop(test / "0002/0002_000_01_0113noon_0001_0.jpg", 10_003, 0),
    )
    assert (dataset.strays, dataset.junk, dataset.root) == (0, 0, home)
    assert all(crop.path.is_file() for crop in dataset.train + dataset.query + dataset.gallery)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("below", [True, False], ids=["parent given", "itself given"])
def test_the_version_is_found_and_stands_in_name_and_notice(
    version: str, below: bool, tmp_path: Path
) -> None:
    home = lay(tmp_path / f"MSMT17_{version}", version)
    dataset = read(tmp_path if below else home)
    assert dataset.name == f"msmt17_{version.lower()}"
    assert dataset.notice.startswith(f"MSMT17 {version}:")
    assert "do not redistribute" in dataset.notice


def test_two_versions_are_not_guessed_between(root: Path) -> None:
    other = lay(root / "MSMT17_V2", "V2")
    with pytest.raises(DatasetError, match=r"more than one MSMT17 \(V1, V2\)") as caught:
        read(root)
    assert f"dataset.root={other}" in str(caught.value)
    assert read(other).name == "msmt17_v2"


def test_val_is_trained_on_with_with_val(root: Path) -> None:
    plain, more = read(root), read(root, with_val=True)
    (extra,) = set(more.train) - set(plain.train)
    assert (extra.path.name, extra.pid, extra.camid) == ("0000_002_15_0303morning_0017_2.jpg", 1, 14)
    assert [crop.path.name for crop in more.train] == sorted(crop.path.name for crop in more.train)
    assert (more.query, more.gallery) == (plain.query, plain.gallery)


def test_what_no_list_names_is_counted_as_strays(root: Path) -> None:
    train, test = root / "MSMT17_V1/train", root / "MSMT17_V1/test"
    (root / "__MACOSX").mkdir()
    (train / "__MACOSX").mkdir()
    (train / ".DS_Store").write_bytes(b"store")
    (train / "0000/._0000_000_01_0303morning_0015_0.jpg").write_bytes(b"resource fork")
    (test / "0002/Thumbs.db").write_bytes(b"db")
    (root / "MSMT17_V1/._list_train.txt").write_bytes(b"resource fork")
    dataset = read(root)
    assert dataset.strays == 4
    assert (len(dataset.train), len(dataset.query), len(dataset.gallery)) == (3, 1, 2)


def test_windows_line_ends_and_empty_lines_are_read(root: Path) -> None:
    path = root / "MSMT17_V1/list_gallery.txt"
    expected = read(root)
    path.write_bytes(b"\r\n" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read(root) == expected


@pytest.mark.parametrize("absent", LISTS)
def test_an_absent_list_is_named(root: Path, absent: str) -> None:
    (root / "MSMT17_V1" / absent).unlink()
    with pytest.raises(DatasetError, match=rf"not complete: {absent} is absent from .*MSMT17_V1") as caught:
        read(root)
    assert "Wei et al." in str(caught.value)


def test_an_absent_half_is_named(root: Path) -> None:
    (root / "MSMT17_V1/test").rename(root / "elsewhere")
    with pytest.raises(DatasetError, match=r"MSMT17 V1 is not complete: test is absent"):
        read(root)


def test_no_data_at_all_shows_both_layouts(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        load_dataset("msmt17", tmp_path)
    message = str(caught.value)
    assert message.startswith(f"dataset 'msmt17' is not there: looked for {tmp_path}, {tmp_path}/MSMT17_V1, ")
    for fragment in (
        f"{tmp_path}/MSMT17_V1/train/0000/0000_000_01_0303morning_0015_0.jpg",
        f"{tmp_path}/MSMT17_V2/mask_test_v2/",
        "list_train.txt, list_val.txt, list_query.txt, list_gallery.txt",
        "on request and under an agreement",
        "dataset.root=",
        "make quickstart",
    ):
        assert fragment in message


def test_listed_images_that_are_not_there_are_named(root: Path) -> None:
    (root / "MSMT17_V1/train/0000/0000_001_02_0303morning_0016_0.jpg").unlink()
    with pytest.raises(
        DatasetError, match=r"train lacks 1 of .*: 0000/0000_001_02_0303morning_0016_0\.jpg\. Unpack"
    ):
        read(root)


def test_of_many_absent_images_a_few_are_named(root: Path) -> None:
    path = root / "MSMT17_V1/list_gallery.txt"
    path.write_text("".join(f"0005/0005_{n:03d}_01_0113noon_0001_0.jpg 5\n" for n in range(1200)))
    with pytest.raises(DatasetError, match=r"test lacks 1,200 of .*0005_004_01\S+ and 1,195 more\."):
        read(root)


@pytest.mark.parametrize(
    "line",
    [
        "0000/0000_000_01_0303morning_0015_0.jpg",
        "0000/0000_000_01_0303morning_0015_0.jpg zero",
        "0000/portrait.jpg 0",
        "0000_000_01_0303morning_0015_0.jpg 0",
        "../0000/0000_000_01_0303morning_0015_0.jpg 0",
        "0000/0000_000_00_0303morning_0015_0.jpg 0",
        "0000/0000_000_16_0303morning_0015_0.jpg 0",
        "0000/0000_000_01_0303morning_0015_0.jpg 10000",
    ],
)
def test_a_line_that_does_not_tell_whose_crop_it_is_is_refused(root: Path, line: str) -> None:
    path = root / "MSMT17_V1/list_train.txt"
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(DatasetError, match=re.escape(f"{path}, line 4: {line!r}")) as caught:
        read(root)
    assert "0000/0000_000_01_0303morning_0015_0.jpg 0'" in str(caught.value)


def test_a_list_of_another_encoding_is_refused_in_words(root: Path) -> None:
    path = root / "MSMT17_V1/list_train.txt"
    path.write_bytes(path.read_text().encode("utf-16"))
    with pytest.raises(DatasetError, match=r"list_train\.txt, line 1"):
        read(root)


def test_an_empty_list_is_refused(root: Path) -> None:
    (root / "MSMT17_V1/list_query.txt").write_text("")
    with pytest.raises(DatasetError, match=r"no crops are named in .*list_query\.txt"):
        read(root)


@pytest.mark.parametrize(
    ("with_val", "counts", "found"),
    [(False, "30,248 / 11,659 / 82,161", "3 / 1 / 2"), (True, "32,621 / 11,659 / 82,161", "4 / 1 / 2")],
)
def test_other_counts_are_refused_with_both(root: Path, with_val: bool, counts: str, found: str) -> None:
    with pytest.raises(DatasetError) as caught:
        load_dataset("msmt17", root, with_val=with_val)
    message = str(caught.value)
    assert f"not MSMT17 V1: expected {counts} images (train / query / gallery), found {found}" in message
    assert "dataset.official=false" in message
    assert "dataset=folder" not in message
