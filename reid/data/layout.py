"""Market-1501's layout on disk, which most later datasets took over: three folders, names that label."""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from reid.data.crops import Crop, DatasetError, LeakError, ReidDataset
from reid.data.image_folders import images_in, is_system_folder
from reid.data.labels import People, merged_ids, numbered_people
from reid.people import DISTRACTOR, JUNK, is_person

FOLDERS = ("bounding_box_train", "query", "bounding_box_test")

#: pid, then camera: 0002_c1s1_000451_03.jpg (Market), 0001_c2_f0046182.jpg (Duke), 0001_c1_1.png (CUHK03-NP),
#: 0001C1T0001F001.jpg and, of junk, 00-1C1T0001F001.jpg (MARS).
MARKET_NAME = re.compile(r"^0*(-?\d+)(?:_|(?=[cC]\d+[tT]\d))[cC](\d+)")

#: No set has so many: a longer number is no camera's, and none beyond 64 bits could be kept.
MOST_CAMERAS = 999_999_999

NO_DATA_NEEDED = "`make quickstart` needs no data: it draws its own pedestrians."


def read_market_layout(
    name: str,
    root: Path,
    *,
    folders: tuple[str, str, str] = FOLDERS,
    pattern: re.Pattern[str] = MARKET_NAME,
    example: str = "0002_c1s1_000451_03.jpg",
    where_to_get: str = "",
    notice: str = "",
    train_needed: bool = True,
    distractor: int | str | None = DISTRACTOR,
) -> ReidDataset:
    """Read `root/{bounding_box_train,query,bounding_box_test}`, or the three `folders` named otherwise.

    Crops come sorted by file name.  Junk (pid -1) is counted and left out, as the published code does;
    distractors, who bear the pid `distractor`, stay, as pid 0.  Files that are no images, or hidden
    (`._0002_c1….jpg`), are counted as strays.  Without `train_needed` the first folder may be absent.

    Raises:
        DatasetError: a folder is missing, or an image's name does not start with pid and camera.
    """
    missing = [root / folder for folder in folders if not (root / folder).is_dir()]
    optional = [] if train_needed else [root / folders[0]]
    if missing and missing != optional:
        layout = [f"{root / folder}/{example}" for folder in folders]
        raise DatasetError(missing_message(name, missing, layout, where_to_get))
    strays = junk = nested = 0
    splits: list[tuple[Crop, ...]] = []
    written: dict[str, int] = {}
    for folder in folders:
        crops: list[Crop] = []
        images, others = images_in(root / folder) if root / folder not in missing else ([], 0)
        strays += others
        nested += _images_below(root / folder) if others else 0
        for path in images:
            match = pattern.match(path.name)
            if match is None:
                raise DatasetError(
                    f"{path} does not say whose crop it is: expected a name like {example} "
                    f"(identity, then camera). Rename it, or move it out of {root / folder}."
                )
            pid, camera = int(match[1]), int(match[2])
            if not 1 <= camera <= MOST_CAMERAS:
                raise DatasetError(
                    f"{path}: cameras count from 1 in this layout, not c{camera}: expected c1 to "
                    f"c{MOST_CAMERAS}. Rename the file."
                )
            if pid < JUNK:
                raise DatasetError(
                    f"{path}: pid {pid} is not allowed: expected 0 or more, or {JUNK} for junk. Rename the "
                    "file."
                )
            if pid == JUNK:
                junk += 1
            else:
                crops.append(Crop(path, pid, camera - 1))
                written[path.name[: match.end(1)]] = pid
        splits.append(tuple(crops))
    train, query, gallery = splits
    empty = [f for f, s in zip(folders, splits, strict=True) if not s and root / f not in optional]
    if empty:
        raise DatasetError(f"{name}: no crops in {', '.join(str(root / f) for f in empty)}. {NO_DATA_NEEDED}")
    if nested:
        lost = (
            f"{nested:,} images lie in folders below {', '.join(folders)} and are not read: in this layout "
            "all lie directly in those. Move them up."
        )
        notice = "\n".join(filter(None, (notice, lost)))
    notice = "\n".join(filter(None, (notice, merged_ids(written))))
    dataset = _with_pids(ReidDataset(name, root, train, query, gallery, strays, junk, notice), distractor)
    train, query = dataset.train, dataset.query
    shared = {c.pid for c in train if is_person(c.pid)} & {c.pid for c in query}
    if shared:
        first = dataset.names.get(min(shared), min(shared))
        raise LeakError(
            f"{name}: {len(shared)} identities are both in {folders[0]} and in {folders[1]} (for example "
            f"{first}). The people who are tested must not be trained on: split them by identity.",
            dataset,
        )
    return dataset


def _with_pids(dataset: ReidDataset, distractor: int | str | None) -> ReidDataset:
    """The dataset with the pids of its names, but for what no pid can be: a person 0, a huge number."""
    rules = People.of(distractor, None)
    splits = (dataset.train, dataset.query, dataset.gallery)
    labels = {str(crop.pid) for crops in splits for crop in crops}
    if rules.distractor == str(DISTRACTOR) and not any(int(label) >= 2**63 for label in labels):
        return dataset
    pids = numbered_people(labels, rules.distractor)
    train, query, gallery = (
        tuple(crop._replace(pid=pids[str(crop.pid)]) for crop in crops) for crops in splits
    )
    names = {pid: label for label, pid in pids.items() if pid > DISTRACTOR and label != str(pid)}
    return replace(dataset, train=train, query=query, gallery=gallery, names=names)


def _images_below(folder: Path) -> int:
    """How many images lie one folder deeper."""
    below = [path for path in folder.iterdir() if path.is_dir() and not is_system_folder(path.name)]
    return sum(len(images_in(path)[0]) for path in below)


def missing_message(
    name: str,
    missing: Iterable[Path],
    layout: Iterable[str],
    where_to_get: str = "",
    reading: str = "identity, then camera",
) -> str:
    """What a user reads who has no data yet: what was looked for, the layout, where to ask."""
    lines = [
        f"dataset {name!r} is not there: looked for {', '.join(map(str, missing))}.",
        "Expected layout:",
        *(f"    {line}" for line in layout),
        f"({reading}; set dataset.root=… if it lies elsewhere, or data.root=… for all datasets)",
    ]
    if where_to_get:
        lines.append(where_to_get)
    return "\n".join([*lines, NO_DATA_NEEDED])


def check_counts(
    dataset: ReidDataset, expected: tuple[int, int, int], official: str, market_layout: bool = True
) -> None:
    """Refuse a set that bears an official name with another number of images than the official one.

    What to do with a set of one's own depends on whether it lies in Market's layout.

    Raises:
        DatasetError: with both counts, since a score on a part of the set is not a score on the set.
    """
    found = tuple(len(split) for split in (dataset.train, dataset.query, dataset.gallery))
    if found != expected:
        advice = (
            f"a set of your own in this layout is `dataset=folder dataset.root={dataset.root}`"
            if market_layout
            else f"dataset.official=false takes it as it is, but its scores are not those of {official}"
        )
        raise DatasetError(
            f"{dataset.root} is not {official}: expected {_counts(expected)} images "
            f"(train / query / gallery), found {_counts(found)}. A copy may be incomplete; {advice}."
        )


def _counts(counts: tuple[int, ...]) -> str:
    return " / ".join(f"{count:,}" for count in counts)
