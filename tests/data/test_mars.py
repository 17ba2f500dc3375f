"""MARS's layout on hand-made folders with the published names: with info/, and without."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from reid.data import DatasetError, load_dataset
from reid.data.audit import audit
from reid.data.doubles import find_doubles

#: pid, camera, tracklet, frames.
TRAIN = [(1, 1, 1, 2), (1, 2, 1, 1), (3, 1, 1, 2)]
#: Distractors (0) and junk (-1) are among them, as published.
TEST = [(-1, 1, 1, 2), (0, 2, 1, 1), (2, 1, 1, 3), (2, 1, 2, 1), (2, 3, 1, 2), (4, 1, 1, 2), (4, 2, 1, 1)]


def name_of(pid: int, camera: int, tracklet: int, frame: int) -> str:
    person = "00-1" if pid == -1 else f"{pid:04d}"
    return f"{person}C{camera}T{tracklet:04d}F{frame:03d}.jpg"


def write(root: Path, info: bool, queries: tuple[int, ...] = (3, 6)) -> None:
    """Draw every frame in a grey of its own, and write what MARS tells of its tracklets."""
    grey = 0
    for folder, tracklets, part in (("bbox_train", TRAIN, "train"), ("bbox_test", TEST, "test")):
        names: list[str] = []
        rows: list[list[int]] = []
        for pid, camera, tracklet, frames in tracklets:
            first = len(names) + 1
            for frame in range(1, frames + 1):
                name, grey = name_of(pid, camera, tracklet, frame), grey + 1
                path = root / folder / name[:4] / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 16), (grey, grey, grey)).save(path)
                names.append(name)
            rows.append([first, len(names), pid, camera])
        if info:
            (root / "info").mkdir(exist_ok=True)
            (root / "info" / f"{part}_name.txt").write_text("\n".join(names) + "\n")
            table = np.array(rows, np.int32)
            savemat(root / "info" / f"tracks_{part}_info.mat", {f"track_{part}_info": table})
    if info:
        savemat(root / "info" / "query_IDX.mat", {"query_IDX": np.array([queries], np.int32)})


def test_tracklets_and_queries_are_the_published_ones(tmp_path: Path) -> None:
    write(tmp_path, info=True)
    dataset = load_dataset("mars", tmp_path, official=False)
    assert [(crop.pid, crop.camid, crop.tracklet) for crop in dataset.train] == [
        (1, 0, 0), (1, 0, 0), (1, 1, 1), (3, 0, 2), (3, 0, 2),
    ]  # fmt: skip
    assert dataset.train[0].path == tmp_path / "bbox_train" / "0001" / "0001C1T0001F001.jpg"
    queries = [(crop.pid, crop.camid, crop.tracklet) for crop in dataset.query]
    assert queries == [*[(2, 0, 5)] * 3, *[(4, 0, 8)] * 2]
    # All but junk, in their order, the queries too.
    assert [crop.tracklet for crop in dataset.gallery] == [4, 5, 5, 5, 6, 7, 7, 8, 8, 9]
    assert [crop.pid for crop in dataset.gallery] == [0, 2, 2, 2, 2, 2, 2, 4, 4, 4]
    assert dataset.junk == 2
    assert "academic" in dataset.notice
    assert all(crop.path.is_file() for crop in dataset.train + dataset.gallery)
    assert find_doubles(dataset.query, dataset.gallery, cross_camera=False) == []


def test_without_info_the_names_tell_tracklets(tmp_path: Path) -> None:
    write(tmp_path, info=False)
    dataset = load_dataset("mars", tmp_path, official=False)
    # The first tracklet of each person by each camera where another camera saw the person.
    assert [crop.tracklet for crop in dataset.query] == [5, 5, 5, 7, 7, 8, 8, 9]
    assert "not the queries of MARS" in dataset.notice
    with pytest.raises(DatasetError, match=r"expected 8,298 / 1,980 / 11,310 tracklets"):
        load_dataset("mars", tmp_path)


def test_a_check_finds_nothing_wrong_with_queries_in_the_gallery(tmp_path: Path) -> None:
    write(tmp_path, info=True)
    report = audit(load_dataset("mars", tmp_path, official=False))
    found = {finding.kind: finding.cases for finding in report.findings if finding.cases}
    assert set(found) == {"tiny"}, found


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "info" / "query_IDX.mat").unlink(), "query_IDX.mat is not there"),
        (lambda root: (root / "info" / "query_IDX.mat").write_bytes(b"nothing"), "no MATLAB file"),
        (
            lambda root: savemat(root / "info" / "query_IDX.mat", {"query_IDX": np.array([[99]])}),
            "query 99 is no tracklet: expected 1 to 7",
        ),
        (
            lambda root: savemat(root / "info" / "tracks_test_info.mat", {"one": np.eye(3)}),
            "expected a single matrix of 4 columns",
        ),
        (
            lambda root: savemat(
                root / "info" / "tracks_train_info.mat", {"track_train_info": np.array([[1, 2, 9, 1]])}
            ),
            "says person 9, camera 1, and its frame is called 0001C1T0001F001.jpg",
        ),
        (
            lambda root: savemat(
                root / "info" / "tracks_train_info.mat", {"track_train_info": np.array([[1, 99, 1, 1]])}
            ),
            "frames 1 to 99 are not to be had of 5 names",
        ),
    ],
)
def test_files_that_do_not_agree_are_refused(tmp_path: Path, spoil: object, message: str) -> None:
    write(tmp_path, info=True)
    spoil(tmp_path)  # type: ignore[operator]
    with pytest.raises(DatasetError, match=message):
        load_dataset("mars", tmp_path, official=False)


def test_names_that_say_nothing_and_shared_people_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"info/query_IDX\.mat"):
        load_dataset("mars", tmp_path)
    write(tmp_path, info=False)
    odd = tmp_path / "bbox_test" / "0002" / "frame.jpg"
    Image.new("RGB", (8, 16)).save(odd)
    with pytest.raises(DatasetError, match="does not say whose frame it is"):
        load_dataset("mars", tmp_path, official=False)
    odd.rename(tmp_path / "bbox_test" / "0002" / "0001C1T0009F001.jpg")
    with pytest.raises(DatasetError, match="1 people are both in bbox_train and in bbox_test"):
        load_dataset("mars", tmp_path, official=False)
