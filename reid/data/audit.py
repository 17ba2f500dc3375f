"""What is wrong with a dataset: labels and bytes looked at together, before anything is trained on them."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from reid.data.crops import Crop, Progress, ReidDataset, silent
from reid.data.doubles import find_doubles
from reid.data.files import in_threads
from reid.data.pictures import count_treatments, read_picture
from reid.people import is_person

#: Height and width in pixels below which a crop shows too little of a person.
TINY = (32, 16)

#: Frames of a tracklet: 0001T0001F001, 0001_F0001_X1, frame_00012, track3_17.
_FRAME = re.compile(
    r"t\d+[_-]?f\d+|(?:^|[_-])f\d{3,}|(?:^|[_-])(?:frame|track|tracklet)[_-]?\d+", re.IGNORECASE
)
#: A tracklet's folder.
_TRACKLET = re.compile(r"(?:track|tracklet)[_-]?\d+|t\d{3,}", re.IGNORECASE)

#: Splits that must share nobody.
PARTS = {"train": ("train",), "val": ("val",), "test": ("query", "gallery")}


@dataclass(frozen=True)
class Counts:
    """What one split holds; distractors (pid 0) count as images and as no identity."""

    identities: int
    images: int
    cameras: int


@dataclass(frozen=True)
class Finding:
    """One kind of trouble: what it is, and every case of it in words."""

    kind: str
    meaning: str
    cases: tuple[str, ...]


@dataclass(frozen=True)
class Audit:
    """Counts by split, and the findings (none for a clean set).

    `repeats`, `distractors` and `treatments` are worth knowing, no trouble: the last count the pictures that
    were turned, scaled or composited, see `reid.data.pictures`.
    """

    counts: dict[str, Counts]
    findings: tuple[Finding, ...]
    repeats: int
    treatments: dict[str, int]
    distractors: int


class ImageFacts(NamedTuple):
    """What an image's file holds: the hash of its bytes, its size in pixels, or why it cannot be read."""

    digest: bytes | None
    height: int
    width: int
    reason: str | None
    treatments: tuple[str, ...]


def audit(dataset: ReidDataset, tiny: tuple[int, int] = TINY, progress: Progress = silent) -> Audit:
    """Decode every image of `dataset` and compare bytes, people and cameras across the splits.

    Queries are looked at as they will be judged: across cameras, or by ignore_camera where none is known.

    Args:
        tiny: the least height and width, in pixels, of a crop that is no finding.
    """
    splits = splits_of(dataset)
    crops = [crop for some in splits.values() for crop in some]
    split_of = [split for split, some in splits.items() for _ in some]
    files = image_facts(crops, progress)
    same = _same_bytes(crops, files)
    person = _person(dataset)
    findings = (
        Finding(
            "unreadable", "images that cannot be decoded",
            tuple(f"{c.path}: {file.reason}" for c, file in zip(crops, files, strict=True) if file.reason),
        ),
        Finding(
            "tiny", f"images under {tiny[0]}x{tiny[1]} pixels (height x width)",
            tuple(
                f"{crop.path}: {file.height}x{file.width}"
                for crop, file in zip(crops, files, strict=True)
                if not file.reason and (file.height < tiny[0] or file.width < tiny[1])
            ),
        ),
        Finding(
            "two_people", "the same bytes under two identities",
            tuple(
                " = ".join(f"{crops[row].path} ({person(crops[row])})" for row in rows)
                for rows in same
                if len({crops[row].pid for row in rows}) > 1
            ),
        ),
        Finding("shared_people", "identities in more than one of train, val and test",
                _shared_people(dataset, splits)),
        Finding(
            "shared_images", "the same bytes in more than one of train, val and test",
            tuple(
                " = ".join(f"{crops[row].path} ({split_of[row]})" for row in rows)
                for rows in same
                if len({_part(split_of[row]) for row in rows}) > 1
            ),
        ),
        *unmatched_queries(dataset),
        Finding(
            "query_in_gallery", "queries whose own picture, the same bytes, is one of their matches",
            tuple(
                f"{query.path} = {match.path} ({person(query)})"
                for query, match in find_doubles(dataset.query, dataset.gallery, dataset.cameras)
            ),
        ),
        Finding(
            "tracklet_frames",
            "images named like frames of tracklets, without cameras and no tracklet given: neighbouring "
            "frames "
            "find each other",
            () if dataset.cameras else _frames([c for c in crops if c.tracklet is None], dataset.root),
        ),
    )  # fmt: skip
    repeats = sum(len(rows) - 1 for rows in same if len({crops[row].pid for row in rows}) == 1)
    counts = {split: count(some, dataset.cameras) for split, some in splits.items()}
    treatments = count_treatments(file.treatments for file in files)
    distractors = sum(not is_person(crop.pid) for crop in crops)
    troubles = tuple(finding for finding in findings if finding.cases)
    return Audit(counts, troubles, repeats, treatments, distractors)


def splits_of(dataset: ReidDataset) -> dict[str, tuple[Crop, ...]]:
    """The splits that hold anything, by name."""
    splits = {
        "train": dataset.train, "val": dataset.val, "query": dataset.query, "gallery": dataset.gallery,
    }  # fmt: skip
    return {split: crops for split, crops in splits.items() if crops}


def count(crops: Sequence[Crop], cameras: bool) -> Counts:
    identities = {crop.pid for crop in crops if is_person(crop.pid)}
    return Counts(len(identities), len(crops), len({crop.camid for crop in crops}) if cameras else 0)


def unmatched_queries(dataset: ReidDataset) -> tuple[Finding, Finding, Finding]:
    """The queries that no gallery image answers: distractors, nobody there, or only by the query's camera."""
    of_pid = Counter(crop.pid for crop in dataset.gallery)
    by_camera = Counter((crop.pid, crop.camid) for crop in dataset.gallery)
    person = _person(dataset)
    distractors, absent, same_camera = [], [], []
    for crop in dataset.query:
        if not is_person(crop.pid):
            distractors.append(str(crop.path))
        elif not of_pid[crop.pid]:
            absent.append(f"{crop.path} ({person(crop)})")
        elif dataset.cameras and of_pid[crop.pid] == by_camera[crop.pid, crop.camid]:
            same_camera.append(f"{crop.path} ({person(crop)}, camid {crop.camid})")
    return (
        Finding("query_distractor", "queries of a distractor, whom nobody looks for", tuple(distractors)),
        Finding("query_absent", "queries whose identity is not in the gallery", tuple(absent)),
        Finding(
            "query_same_camera",
            "queries matched only by their own camera, which the cross_camera protocol leaves out",
            tuple(same_camera),
        ),
    )


def image_facts(crops: Sequence[Crop], progress: Progress = silent) -> list[ImageFacts]:
    """Read and decode every file."""
    with in_threads(_facts, crops, progress, "reading images") as facts:
        return list(facts)


def _facts(crop: Crop) -> ImageFacts:
    try:
        file = read_picture(crop.path)
    except OSError as error:  # the disk or the server; the other files are still worth a look
        return ImageFacts(None, 0, 0, error.strerror or type(error).__name__, ())
    if file.picture is None:
        return ImageFacts(file.digest, 0, 0, file.reason, ())
    width, height = file.picture.image.size
    return ImageFacts(file.digest, height, width, None, file.picture.treatments)


def _same_bytes(crops: Sequence[Crop], files: Iterable[ImageFacts]) -> list[list[int]]:
    """The rows of every two or more files with the same bytes."""
    rows_of: dict[bytes, list[int]] = defaultdict(list)
    for row, file in enumerate(files):
        if file.digest is not None:
            rows_of[file.digest].append(row)
    return [rows for rows in rows_of.values() if len({crops[row].path for row in rows}) > 1]


def _shared_people(dataset: ReidDataset, splits: dict[str, tuple[Crop, ...]]) -> tuple[str, ...]:
    parts_of: dict[int, Counter[str]] = defaultdict(Counter)
    for split, crops in splits.items():
        for crop in crops:
            if is_person(crop.pid):
                parts_of[crop.pid][_part(split)] += 1
    return tuple(
        f"{dataset.names.get(pid, f'pid {pid}')}: "
        + ", ".join(f"{images} images in {part}" for part, images in parts.items())
        for pid, parts in sorted(parts_of.items())
        if len(parts) > 1
    )


def _frames(crops: Sequence[Crop], root: Path) -> tuple[str, ...]:
    """The images whose name, or that of a folder above them, speaks of a tracklet, if half of all do."""

    def is_frame(path: Path) -> bool:
        inside = path.relative_to(root).parts[:-1] if path.is_relative_to(root) else ()
        return bool(_FRAME.search(path.stem)) or any(_TRACKLET.fullmatch(name) for name in inside)

    frames = tuple(str(crop.path) for crop in crops if is_frame(crop.path))
    return frames if 2 * len(frames) >= len(crops) else ()


def _part(split: str) -> str:
    return next(part for part, splits in PARTS.items() if split in splits)


def _person(dataset: ReidDataset) -> Callable[[Crop], str]:
    return lambda crop: dataset.names.get(crop.pid, f"pid {crop.pid}")
