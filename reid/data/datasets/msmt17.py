"""MSMT17 (Wei et al., CVPR 2018): 1,041 people to train on, 3,060 to test on, 15 cameras.

V2 is the later release, with the faces masked.  Four lists tell the splits, not the folders.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from reid.data.crops import Crop, DatasetError, Progress, ReidDataset, silent
from reid.data.layout import check_counts, missing_message

#: The folders of the training and the test images in each release.
VERSIONS = {"V1": ("train", "test"), "V2": ("mask_train_v2", "mask_test_v2")}
LISTS = ("list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt")
TRAIN, VAL, QUERY, GALLERY = 30_248, 2_373, 11_659, 82_161
CAMERAS = 15
#: Path below its folder, camera in the third field of the name; then the identity.
LINE = re.compile(r"(\d+/\d+_\d+_(\d{1,9})_[^/\s]+)\s+(\d{1,4})")
EXAMPLE = "0000/0000_000_01_0303morning_0015_0.jpg"
#: Both halves count people from 0.  Here 0 is a distractor, and nobody of one half is in the other.
TRAIN_PIDS_FROM, TEST_PIDS_FROM = 1, 10_001
#: How many absent images a message names.
NAMED = 5
WHERE = "MSMT17 is given by its authors (Wei et al., CVPR 2018) on request and under an agreement: ask there."
NOTICES = {
    "V1": "MSMT17 V1: people filmed on a campus, for academic research only, under a signed agreement; do "
    "not redistribute the images. V2, the later release, has the faces masked: prefer it for new work.",
    "V2": "MSMT17 V2: people filmed on a campus, their faces masked, for academic research only, under a "
    "signed agreement; do not redistribute the images. Say V2 beside a score: many published ones are V1's.",
}


def load(
    root: Path, with_val: bool = False, official: bool = True, progress: Progress = silent
) -> ReidDataset:
    """Read MSMT17 from `root`, or from `MSMT17_V1` or `MSMT17_V2` below it; the folders tell which it is.

    The name of the result tells it too (`msmt17_v1`, `msmt17_v2`).  `with_val` trains on `list_val.txt` as
    well, other images of the same people.  Person 0000 of the training folder is pid 1, and 0000 of the
    test folder, somebody else, pid 10001.  `official=False` allows another number of images.

    Raises:
        DatasetError: folders or lists are missing, both versions are there, a line of a list does not tell
            identity and camera, listed images are not there, or the counts are not the official ones.
    """
    version, home = _find(root)
    folders = tuple(home / folder for folder in VERSIONS[version])
    absent = [path for path in folders if not path.is_dir()]
    absent += [home / name for name in LISTS if not (home / name).is_file()]
    if absent:
        raise DatasetError(
            f"MSMT17 {version} is not complete: {', '.join(path.name for path in absent)} "
            f"{'is' if len(absent) == 1 else 'are'} absent from {home}, which should hold "
            f"{', '.join(VERSIONS[version])}, {', '.join(LISTS)}. The lists say who is trained on and "
            f"looked for, and come with the images. {WHERE}"
        )
    images, test_images = folders
    train = read_list(home / LISTS[0], images, TRAIN_PIDS_FROM)
    val = read_list(home / LISTS[1], images, TRAIN_PIDS_FROM)
    query = read_list(home / LISTS[2], test_images, TEST_PIDS_FROM)
    gallery = read_list(home / LISTS[3], test_images, TEST_PIDS_FROM)
    empty = [home / LISTS[i] for i, crops in ((0, train), (2, query), (3, gallery)) if not crops]
    if empty:
        raise DatasetError(f"MSMT17 {version}: no crops are named in {', '.join(map(str, empty))}.")
    strays = count_strays(images, train + val) + count_strays(test_images, query + gallery)
    dataset = ReidDataset(
        f"msmt17_{version.lower()}",
        home,
        train=_by_name(train + val if with_val else train),
        query=_by_name(query),
        gallery=_by_name(gallery),
        strays=strays,
        notice=NOTICES[version],
    )
    if official:
        expected = (TRAIN + VAL if with_val else TRAIN, QUERY, GALLERY)
        check_counts(dataset, expected, f"MSMT17 {version}", market_layout=False)
    return dataset


def _find(root: Path) -> tuple[str, Path]:
    """The version that lies at `root`, and the folder of its lists."""
    found = [
        (version, home)
        for version, folders in VERSIONS.items()
        for home in (root, root / f"MSMT17_{version}")
        if any((home / folder).is_dir() for folder in folders)
    ]
    if len(found) > 1:
        homes = " or ".join(f"dataset.root={home}" for _, home in found)
        raise DatasetError(
            f"{root} holds more than one MSMT17 ({', '.join(version for version, _ in found)}), and their "
            f"scores differ. Say which: {homes}."
        )
    if not found:
        looked_for = [root / f"MSMT17_{version}" for version in VERSIONS]
        layout = [
            f"{home}/{line}"
            for home, folders in zip(looked_for, VERSIONS.values(), strict=True)
            for line in (*(f"{folder}/{EXAMPLE}" for folder in folders), ", ".join(LISTS))
        ]
        reading = "person, scene, camera, …; one of the two, or dataset.root=… is that folder itself"
        raise DatasetError(missing_message("msmt17", [root, *looked_for], layout, WHERE, reading))
    return found[0]


def read_list(path: Path, images: Path, pids_from: int) -> tuple[Crop, ...]:
    """The crops that a list names, in its order: lines `<path below images> <identity from 0>`.

    Raises:
        DatasetError: a line does not tell identity and camera (1 to 15).
    """
    crops: list[Crop] = []
    folder = str(images)
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        text = line.strip()
        if not text:
            continue
        match = LINE.fullmatch(text)
        if match is None or not 1 <= int(match[2]) <= CAMERAS:
            raise DatasetError(
                f"{path}, line {number}: {text[:100]!r} does not say whose crop it is: expected a line like "
                f"'{EXAMPLE} 0' (path below {images.name}/ with camera 01 to {CAMERAS} in its third field; "
                "identity). Restore the list that came with the images."
            )
        crops.append(Crop(Path(f"{folder}/{match[1]}"), pids_from + int(match[3]), int(match[2]) - 1))
    return tuple(crops)


def count_strays(images: Path, listed: Iterable[Crop]) -> int:
    """The number of files and folders below `images` that no list names (`._*`, `__MACOSX`, …).

    A folder a person is listed, instead of asking the disk for each of 126,441 images.

    Raises:
        DatasetError: images that a list names are not there.
    """
    named: dict[str, set[str]] = defaultdict(set)
    for crop in listed:
        person, name = crop.path.parts[-2:]
        named[person].add(name)
    strays = sum(entry not in named for entry in os.listdir(images))
    absent: list[str] = []
    for person in sorted(named):
        folder = images / person
        there = set(os.listdir(folder)) if folder.is_dir() else set()
        absent += [f"{person}/{name}" for name in sorted(named[person] - there)]
        strays += len(there - named[person])
    if absent:
        more = f" and {len(absent) - NAMED:,} more" if len(absent) > NAMED else ""
        raise DatasetError(
            f"{images} lacks {len(absent):,} of the images that its lists name: "
            f"{', '.join(absent[:NAMED])}{more}. Unpack the release again; or take their lines out of the "
            "lists and set dataset.official=false."
        )
    return strays


def _by_name(crops: tuple[Crop, ...]) -> tuple[Crop, ...]:
    return tuple(sorted(crops, key=lambda crop: crop.path.name))
