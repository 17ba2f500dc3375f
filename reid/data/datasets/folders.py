"""Own data as one folder a person, perhaps under train/, val/, query/ and gallery/."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from reid.data.crops import DatasetError, Progress, ReidDataset, silent
from reid.data.layout import images_in
from reid.data.own import SPLITS, Entry, assemble

#: The camera in a name, counted from 1 as in Market's: 0002_c1s1_000451_03.jpg, anna_c3.png.
CAMERA = re.compile(r"_c(\d+)")

Cameras = Literal["auto", "name", "none"]


def load(
    root: Path,
    cameras: Cameras = "auto",
    test_fraction: float = 0.5,
    seed: int = 0,
    progress: Progress = silent,
) -> ReidDataset:
    """Read `root/<person>/*.jpg`, or `root/{train,val,query,gallery}/<person>/*.jpg`.

    A person's folder may have any name.  The camera is the N of `_cN` in a file's name (`cameras="auto"`: if
    any name has one, all must); `none` takes no notice of it, `name` insists on it.  Without split folders
    `test_fraction` of the people, drawn by `seed`, are tested on.

    Raises:
        DatasetError: no such folder, or images that do not tell whom they show.
        LeakError: people are in more than one of train, val and test.
    """
    if not root.is_dir():
        raise DatasetError(
            f"there is no folder {root}: expected {root}/<person>/<image>.jpg, one folder a person. "
            "Set dataset.root."
        )
    entries: list[Entry] = []
    strays = 0
    for split, parent in _parents(root):
        files = [path for path in parent.iterdir() if not _is_person(path)]
        strays += len(files)
        for person in sorted(path for path in parent.iterdir() if _is_person(path)):
            images, others = images_in(person)
            if not images:
                raise DatasetError(
                    f"{person} holds no image: expected one folder a person, images directly in it "
                    f"({root}/<person>/<image>.jpg, or {root}/train/<person>/<image>.jpg)."
                )
            strays += others
            entries += [_entry(path, person.name, split, cameras, root) for path in images]
    return assemble(root.name, root, entries, test_fraction, seed, strays)


def _parents(root: Path) -> Iterator[tuple[str, Path]]:
    """Each folder that holds persons' folders, and the split that it stands for."""
    folders = {path.name for path in root.iterdir() if _is_person(path)}
    named = folders & set(SPLITS)
    if not named:
        yield "", root
        return
    if others := sorted(folders - named):
        raise DatasetError(
            f"{root} holds {', '.join(sorted(named))} and also {others[0]}: expected either one folder a "
            f"person, or {', '.join(SPLITS)} alone with the persons' folders in them."
        )
    for split in SPLITS:
        if split in named:
            yield split, root / split


def _entry(path: Path, person: str, split: str, cameras: Cameras, root: Path) -> Entry:
    match = CAMERA.search(path.name) if cameras != "none" else None
    if match is None and cameras == "name":
        raise DatasetError(f"{path} names no camera (_c1, _c2, …), and dataset.cameras=name insists on one.")
    if match is not None and int(match[1]) < 1:
        raise DatasetError(
            f"{path}: cameras count from 1 in names, not c{match[1]}. Rename the file, or set "
            "dataset.cameras=none."
        )
    camera = str(int(match[1]) - 1) if match is not None else ""
    return Entry(path, person, camera, split, path.relative_to(root).as_posix(), path.parent.name)


def _is_person(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")
