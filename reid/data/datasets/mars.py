"""MARS (Zheng et al., ECCV 2016): 1,261 people followed by 6 cameras, in tracklets."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reid.data.crops import Crop, DatasetError, Progress, ReidDataset, silent
from reid.data.image_folders import images_in, is_system_folder
from reid.data.layout import missing_message
from reid.people import DISTRACTOR, JUNK, is_person

FOLDERS = ("bbox_train", "bbox_test")
#: Tracklets to train on, of the query, and of the gallery, which holds those of the query too.
OFFICIAL = (8_298, 1_980, 11_310)
WHERE = "MARS is given for academic research by its authors (Zheng et al., ECCV 2016): ask there."
NOTICE = "MARS: people filmed on a campus, for academic research only; do not redistribute the images."
#: Person, camera, tracklet, frame: 0001C1T0001F001.jpg; junk is called 00-1C1T0001F001.jpg.
NAME = re.compile(r"0*(-?\d+)C(\d+)T(\d+)F\d+\.\w+")
_INFO = ("train_name.txt", "test_name.txt", "tracks_train_info.mat", "tracks_test_info.mat", "query_IDX.mat")


@dataclass(frozen=True)
class _Tracklet:
    """The frames of one tracklet, and whom and which camera (from 1) they are said to show."""

    frames: tuple[Path, ...]
    pid: int
    camera: int


def load(root: Path, official: bool = True, progress: Progress = silent) -> ReidDataset:
    """Read `root/{bbox_train,bbox_test}/<person>/0001C1T0001F001.jpg` and, where it is there, `root/info`.

    With `info` (`{train,test}_name.txt`, `tracks_{train,test}_info.mat`, `query_IDX.mat`) tracklets and
    queries are the published ones. Without it tracklets are told by the names of their frames, and the first
    tracklet of each person by each camera is a query where two cameras saw the person, which is no published
    split.

    As published, the gallery holds all tracklets of the test people, those of the query too (a query's own is
    junk to it, as is all that its camera saw of the person), and those of distractors, pid 0. Junk, pid -1,
    is counted and left out. `official=False` allows another number of tracklets.

    Raises:
        DatasetError: a folder or a file of `info` is missing, they do not agree, or the counts are not the
            official ones.
    """
    missing = [root / folder for folder in FOLDERS if not (root / folder).is_dir()]
    if missing:
        layout = [f"{root / folder}/0001/0001C1T0001F001.jpg" for folder in FOLDERS]
        layout += [f"{root}/info/{file}" for file in _INFO]
        reading = "person, camera, tracklet, frame"
        raise DatasetError(missing_message("mars", missing, layout, WHERE, reading))
    notice, strays = NOTICE, 0
    if (root / "info").is_dir():
        train, test, chosen = _of_info(root)
    else:
        (train, strays), (test, more) = (_of_names(root / folder) for folder in FOLDERS)
        strays += more
        chosen = _first_tracklets(test)
        notice += (
            f"\n{root / 'info'} is not there: tracklets are told by names, and the first one of each "
            "person by "
            "each camera is a query. These are not the queries of MARS, so scores are not scores on MARS."
        )
    numbers = range(len(train), len(train) + len(test))
    crops = [_crops(tracklet, number) for number, tracklet in zip(numbers, test, strict=True)]
    in_query = set(chosen)
    dataset = ReidDataset(
        "mars",
        root,
        _joined(_crops(tracklet, number) for number, tracklet in enumerate(train)),
        _joined(some for place, some in enumerate(crops) if place in in_query and test[place].pid != JUNK),
        _joined(some for some, tracklet in zip(crops, test, strict=True) if tracklet.pid != JUNK),
        strays,
        sum(len(tracklet.frames) for tracklet in (*train, *test) if tracklet.pid == JUNK),
        notice,
    )
    _refuse_shared(dataset)
    if official:
        _check_counts(dataset)
    return dataset


def _of_info(root: Path) -> tuple[list[_Tracklet], list[_Tracklet], list[int]]:
    """The tracklets of both folders and the places of the queries among those of the test, as published."""
    info = root / "info"
    gone = [str(info / name) for name in _INFO if not (info / name).is_file()]
    if gone:
        raise DatasetError(
            f"mars: {', '.join(gone)} is not there. Take info/ whole from the authors' MARS-evaluation, "
            "or move it "
            "away to have the tracklets told by the names of their frames (dataset.official=false)."
        )
    parts = []
    for folder, names, tracks in zip(FOLDERS, _INFO[:2], _INFO[2:4], strict=True):
        lines = (info / names).read_text().split()
        parts.append(_tracklets(root / folder, lines, _matrix(info / tracks, 4), info / tracks))
    queries = [int(number) for row in _matrix(info / _INFO[4]) for number in row]
    test = parts[1]
    wrong = [number for number in queries if not 1 <= number <= len(test)]
    if wrong:
        raise DatasetError(
            f"{info / _INFO[4]}: query {wrong[0]} is no tracklet: expected 1 to {len(test)}, the rows of "
            f"{_INFO[3]}."
        )
    return parts[0], test, [number - 1 for number in queries]


def _matrix(file: Path, columns: int | None = None) -> list[list[Any]]:
    """The one matrix of a MATLAB file, as rows."""
    from scipy.io import loadmat  # a tenth of a second, which no other set has to wait for

    try:
        held = {name: value for name, value in loadmat(str(file)).items() if not name.startswith("__")}
    except Exception as error:  # whatever a file that is none makes of it
        raise DatasetError(f"{file} is no MATLAB file that can be read: {error}.") from error
    fits = [value for value in held.values() if value.ndim == 2 and columns in (None, value.shape[1])]
    if len(held) != 1 or not fits or fits[0].dtype.kind not in "iuf":
        shapes = ", ".join(f"{name} {getattr(value, 'shape', '')}" for name, value in held.items())
        wanted = "a single matrix" + (f" of {columns} columns" if columns else "")
        raise DatasetError(f"{file}: expected {wanted} of numbers, found {shapes or 'nothing'}.")
    rows: list[list[Any]] = fits[0].tolist()
    return rows


def _tracklets(
    folder: Path, names: Sequence[str], rows: Sequence[Sequence[Any]], file: Path
) -> list[_Tracklet]:
    """The tracklets of a folder: rows of first and last frame (from 1, of `names`), pid and camera."""
    found = []
    for number, row in enumerate(rows, start=1):
        first, last, pid, camera = map(int, row)
        if not 1 <= first <= last <= len(names):
            raise DatasetError(
                f"{file} row {number}: frames {first} to {last} are not to be had of {len(names)} names in "
                f"{folder.name}'s list."
            )
        some = names[first - 1 : last]
        for name in (some[0], some[-1]):
            match = NAME.fullmatch(name)
            if match is None or (int(match[1]), int(match[2])) != (pid, camera):
                raise DatasetError(
                    f"{file} row {number} says person {pid}, camera {camera}, and its frame is called "
                    f"{name}. The "
                    "files of info/ do not belong together: take them all from one source."
                )
        found.append(_Tracklet(tuple(folder / name[:4] / name for name in some), pid, camera))
    return found


def _of_names(folder: Path) -> tuple[list[_Tracklet], int]:
    """The tracklets that the names of the frames in a folder tell, in their order; and the number of
    strays."""
    frames: dict[tuple[int, int, int], list[Path]] = {}
    strays = 0
    for person in sorted(path for path in folder.iterdir() if path.is_dir()):
        if is_system_folder(person.name):
            continue
        images, others = images_in(person)
        strays += others
        for path in images:
            match = NAME.fullmatch(path.name)
            if match is None:
                raise DatasetError(
                    f"{path} does not say whose frame it is: expected a name like 0001C1T0001F001.jpg "
                    "(person, "
                    f"camera, tracklet, frame). Rename it, or move it out of {folder}."
                )
            pid, camera, tracklet = map(int, match.groups())
            frames.setdefault((pid, camera, tracklet), []).append(path)
    return [_Tracklet(tuple(some), pid, camera) for (pid, camera, _), some in sorted(frames.items())], strays


def _first_tracklets(test: Sequence[_Tracklet]) -> list[int]:
    """The places of the tracklets that stand for queries where nobody says which do."""
    first: dict[int, dict[int, int]] = {}
    for place, tracklet in enumerate(test):
        if is_person(tracklet.pid):
            first.setdefault(tracklet.pid, {}).setdefault(tracklet.camera, place)
    return sorted(place for places in first.values() if len(places) > 1 for place in places.values())


def _crops(tracklet: _Tracklet, number: int) -> tuple[Crop, ...]:
    if tracklet.camera < 1:
        raise DatasetError(
            f"{tracklet.frames[0]}: cameras count from 1 in MARS, not C{tracklet.camera}. Rename the file."
        )
    return tuple(Crop(path, tracklet.pid, tracklet.camera - 1, number) for path in tracklet.frames)


def _joined(parts: Iterable[tuple[Crop, ...]]) -> tuple[Crop, ...]:
    return tuple(crop for part in parts for crop in part)


def _refuse_shared(dataset: ReidDataset) -> None:
    for folder, crops in zip(FOLDERS, (dataset.train, dataset.gallery), strict=True):
        if not crops:
            raise DatasetError(f"mars: no frames in {dataset.root / folder}.")
    if not dataset.query:
        raise DatasetError(
            f"mars: {dataset.root / FOLDERS[1]} shows nobody by two cameras, so nobody can be found."
        )
    shared = {crop.pid for crop in dataset.train if is_person(crop.pid)} & {
        crop.pid for crop in dataset.gallery
    }
    shared -= {DISTRACTOR}
    if shared:
        raise DatasetError(
            f"mars: {len(shared)} people are both in {FOLDERS[0]} and in {FOLDERS[1]} (for example "
            f"{min(shared)}). The "
            "people who are tested must not be trained on."
        )


def _check_counts(dataset: ReidDataset) -> None:
    parts = (dataset.train, dataset.query, dataset.gallery)
    found = tuple(len({crop.tracklet for crop in crops}) for crops in parts)
    if found != OFFICIAL:
        shown = [" / ".join(f"{count:,}" for count in counts) for counts in (OFFICIAL, found)]
        raise DatasetError(
            f"{dataset.root} is not MARS: expected {shown[0]} tracklets (train / query / gallery), found "
            f"{shown[1]}. A "
            "copy may be incomplete; dataset.official=false takes it as it is, but its scores are not "
            "those of MARS."
        )
