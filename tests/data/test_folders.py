"""One folder a person: folders in it, cameras in names and folders, and what systems leave behind."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from reid.data import DatasetError, ReidDataset, load_dataset
from reid.data.image_folders import images_below


def draw(root: Path, *names: str) -> None:
    for shade, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 4), (shade % 256, shade // 256, 30)).save(root / name)


def cameras(dataset: ReidDataset) -> dict[str, int | None]:
    """The camera of each image by its path; None where all are unknown."""
    crops = dataset.train + dataset.val + dataset.query + dataset.gallery
    return {
        crop.path.relative_to(dataset.root).as_posix(): crop.camid if dataset.cameras else None
        for crop in crops
    }


@pytest.mark.parametrize(
    ("folders", "known"),
    [
        (("cam1", "cam2"), (0, 1)),
        (("c2", "c4"), (1, 3)),
        (("camera_1", "Camera-3"), (0, 2)),
        (("1", "2"), (0, 1)),
        (("0", "1"), (0, 1)),
        (("cam1/monday", "cam2/tuesday"), (0, 1)),
        (("left", "right"), (None, None)),
        (("cam1", "right"), (None, None)),
    ],
)
def test_a_persons_folders_are_taken_and_serve_as_cameras(
    folders: tuple[str, str], known: tuple[int | None, int | None], tmp_path: Path
) -> None:
    names = [f"p{person}/{folder}/{n}.png" for person in (1, 2) for folder in folders for n in range(2)]
    draw(tmp_path, *names)
    of = dict(zip(folders, known, strict=True))
    expected = {name: of[name.partition("/")[2].rpartition("/")[0]] for name in names}
    assert cameras(load_dataset("folders", tmp_path)) == expected


def test_no_image_of_a_person_vanishes(tmp_path: Path) -> None:
    """Half of them lie in the person's own folder, half in one for the second camera."""
    names = [f"p{person}/{place}{n}.png" for person in range(6) for place in ("", "cam2/") for n in range(3)]
    draw(tmp_path, *names)
    dataset = load_dataset("folders", tmp_path)
    assert len(cameras(dataset)) == 36
    assert (dataset.strays, dataset.cameras) == (0, False)
    assert "18 of 36 images lie in a camera's folder" in dataset.notice


def test_names_and_folders_tell_cameras_together(tmp_path: Path) -> None:
    draw(tmp_path, *(f"p{n}/{name}" for n in (1, 2) for name in ("a_c1.png", "cam2/b.png", "cam3/d_c3.png")))
    assert set(cameras(load_dataset("folders", tmp_path)).values()) == {0, 1, 2}
    draw(tmp_path, "p1/cam3/e_c2.png")
    with pytest.raises(DatasetError, match=r"e_c2\.png: its name says camera 2, its folder camera 3"):
        load_dataset("folders", tmp_path)


def test_any_folder_is_a_camera_where_the_config_says_so(tmp_path: Path) -> None:
    draw(tmp_path, *(f"p{person}/{camera}/x.png" for person in (1, 2) for camera in ("yard", "gate")))
    assert cameras(load_dataset("folders", tmp_path, cameras="folder"))["p1/yard/x.png"] == 1
    draw(tmp_path, "p1/y.png")
    with pytest.raises(DatasetError, match=r"p1/y\.png lies in no camera's folder"):
        load_dataset("folders", tmp_path, cameras="folder")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("0001C1T0001F001.jpg", "0001C2T0001F001.jpg"),
        ("0001_C1_F0001_X1.jpg", "0001_C2_F0001_X1.jpg"),
        ("x_c1.png", "x_C2.png"),
    ],
)
def test_a_capital_c_is_a_camera(first: str, second: str, tmp_path: Path) -> None:
    draw(tmp_path / "people", *(f"p{person}/{name}" for person in (1, 2) for name in (first, second)))
    found = cameras(load_dataset("folders", tmp_path / "people"))
    assert (found[f"p1/{first}"], found[f"p1/{second}"]) == (0, 1)


@pytest.mark.parametrize("form", ["{pid}C{cam}T0001F001.jpg", "{pid}_C{cam}_F0001_X1.jpg"])
def test_the_published_layout_takes_them_too(form: str, tmp_path: Path) -> None:
    for split, pid, cam in (
        ("bounding_box_train", "0001", 3), ("query", "0007", 1), ("bounding_box_test", "0007", 6),
        ("bounding_box_test", "0000", 2), ("bounding_box_test", "00-1", 2),
    ):  # fmt: skip
        draw(tmp_path / split, form.format(pid=pid, cam=cam))
    dataset = load_dataset("folder", tmp_path)
    crops = [(crop.pid, crop.camid) for crop in dataset.train + dataset.query + dataset.gallery]
    assert (crops, dataset.junk) == ([(1, 2), (7, 0), (0, 1), (7, 5)], 1)


def test_images_in_folders_of_the_published_layout_are_counted_in_the_notice(tmp_path: Path) -> None:
    draw(tmp_path, "bounding_box_train/1_c1.png", "bounding_box_train/more/2_c1.png")
    draw(tmp_path, "query/7_c1.png", "bounding_box_test/7_c2.png", "bounding_box_test/@eaDir/7_c2.png")
    dataset = load_dataset("folder", tmp_path)
    assert "1 images lie in folders below" in dataset.notice
    assert (len(dataset.train), dataset.strays) == (1, 2)


@pytest.mark.parametrize("name", ["12c9ab34.jpg", "0002c.png", "0002Car1.png"])
def test_a_hash_is_no_name_of_the_published_layout(name: str, tmp_path: Path) -> None:
    for split in ("bounding_box_train", "query", "bounding_box_test"):
        draw(tmp_path / split, name)
    with pytest.raises(DatasetError, match="does not say whose crop"):
        load_dataset("folder", tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cam1/ann/x.png", "cam2/ann/x.png"], "cam1 bears the name of a camera"),
        (["training/ann/x.png", "testing/bob/x.png"], "bears the name of a part of a set"),
        (["images/ann/x.png", "images/bob/x.png"], "images bears the name of a part of a set"),
        (["ann/x.png", "bob/notes/readme.txt"], "bob holds no image"),
    ],
)
def test_folders_that_are_no_persons_are_refused(names: Sequence[str], message: str, tmp_path: Path) -> None:
    for name in names:
        if name.endswith(".png"):
            draw(tmp_path, name)
        else:
            (tmp_path / name).parent.mkdir(parents=True)
            (tmp_path / name).touch()
    with pytest.raises(DatasetError, match=message):
        load_dataset("folders", tmp_path)


def test_what_systems_leave_is_skipped_and_counted(tmp_path: Path) -> None:
    for person in ("ann", "bob"):
        draw(
            tmp_path,
            f"{person}/1.png",
            f"{person}/2.png",
            f"{person}/@eaDir/1.png",
            f"{person}/.thumbs/1.png",
        )
    draw(tmp_path, "__MACOSX/ann/1.png", "@eaDir/ann/1.png", ".git/x.png", "lost+found/x.png")
    (tmp_path / "ann" / "notes.txt").touch()
    dataset = load_dataset("folders", tmp_path)
    assert dataset.names == {1: "ann", 2: "bob"}
    assert (len(cameras(dataset)), dataset.strays) == (4, 9)


def test_a_name_that_says_nothing_is_refused_and_cleaned_like_those_of_tables(tmp_path: Path) -> None:
    draw(tmp_path, *(f"{person}/{n}.png" for person in ("nan", " ann ", "bob") for n in range(2)))
    with pytest.raises(DatasetError, match=r"/nan: the pid is nan"):
        load_dataset("folders", tmp_path)
    dataset = load_dataset("folders", tmp_path, null=["nan"])
    assert dataset.names == {1: "ann", 2: "bob"}
    assert sum(crop.pid == 0 for crop in dataset.gallery) == 2


def test_linked_folders_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    draw(tmp_path, "far/x.png", "far/deep/y.png", "here/a.png", "here/b.HEIC.png")
    here = tmp_path / "here"
    (here / "far").symlink_to(tmp_path / "far")
    (here / "far" / "deep" / "loop").symlink_to(here)
    (here / "self").symlink_to(here / "self")
    for name in ("1.heic", "2.TXT", "3.txt", "Makefile", ".hidden.png"):
        (here / name).touch()
    found = images_below(here)
    names = [path.relative_to(here).as_posix() for path in found.images]
    assert names == ["a.png", "b.HEIC.png", "far/deep/y.png", "far/x.png"]
    assert found.left_out == {
        ".txt": 2, ".heic": 1, "without ending": 2, "hidden": 1, "links that lead back": 1,
    }  # fmt: skip
    assert found.describe().startswith("7 left out: 2 ")
