"""What a dataset is here: crops of people, each with an identity and a camera."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from reid.errors import UsageError
from reid.people import is_person

if TYPE_CHECKING:
    from reid.data.corrections import Applied

T = TypeVar("T")


class Crop(NamedTuple):
    """One image of one person by one camera.

    `pid` counts people (0 is a distractor: a person nobody looks for; junk, -1, never gets here) and
    `camid` counts cameras from 0.  `tracklet` numbers the tracklets of a dataset from 0: the frames of one
    person whom one camera followed for a while share a number.  None: the image belongs to no tracklet.
    """

    path: Path
    pid: int
    camid: int
    tracklet: int | None = None


@dataclass(frozen=True)
class ReidDataset:
    """The three splits of a dataset, each sorted by file name so that labels never depend on the disk.

    `strays` counts the files that lay in the folders and are no crops (`._*`, Thumbs.db, …) and `junk`
    the crops of pid -1 that the protocol drops.  `notice` is what a user has to know of the set's terms, or
    of how it was split.

    `val` holds the people whom the set itself keeps for choosing (`eval.split=val`); they are not trained
    on.  `cameras` says whether the camids are known; where they are not, all are 0.  `names` gives the
    people's own names where the pids only number them.

    `corrections` says what verdicts on its labels changed, file by file, and `uncorrected` holds the training
    crops as they were before (empty without corrections): the store of images keeps all of them.
    """

    name: str
    root: Path
    train: tuple[Crop, ...]
    query: tuple[Crop, ...]
    gallery: tuple[Crop, ...]
    strays: int = 0
    junk: int = 0
    notice: str = field(default="", compare=False)
    val: tuple[Crop, ...] = ()
    cameras: bool = True
    names: Mapping[int, str] = field(default_factory=dict, compare=False)
    corrections: "tuple[Applied, ...]" = ()
    uncorrected: tuple[Crop, ...] = ()

    def __repr__(self) -> str:
        people = len({crop.pid for crop in self.train})
        parts = f"{len(self.train):,} to train on, {len(self.query):,} queries, {len(self.gallery):,} gallery"
        return f"ReidDataset({self.name}: {parts}; {people:,} people to train on)"


#: The way out for data that count people from 0.
IF_A_PERSON = (
    "If it is a person, set dataset.distractor=null (or to the id that distractors have; dataset=folder, "
    "folders and table have this key), or count people from 1."
)


class DatasetError(UsageError, ValueError):
    """The data are not there, or not what their name promises; the message says what to do."""


class PictureError(DatasetError):
    """A file is no picture that can be shown; the message is the reason, without the file's name."""


class LeakError(DatasetError):
    """People are both trained and tested on; `dataset` is what was read, for a closer look."""

    def __init__(self, message: str, dataset: ReidDataset) -> None:
        super().__init__(message)
        self.dataset = dataset


def refuse_foreign_names(paths: Iterable[Path]) -> None:
    """Refuse files of which no table, log or tracker, all of them UTF-8, could hold the name.

    Raises:
        DatasetError: naming the first one by its bytes.
    """
    foreign = [path for path in paths if not _is_utf8(str(path))]
    if foreign:
        others = f", and {len(foreign) - 1:,} more" if len(foreign) > 1 else ""
        raise DatasetError(
            f"{os.fsencode(foreign[0])!r}{others}: this name is not UTF-8, as tables, logs and the tracker "
            "are. Rename it; convmv does so for whole folders"
        )


def untrained_distractors(dataset: ReidDataset) -> ReidDataset:
    """`dataset` without the distractors that stand where people are trained on; the notice says how many."""
    counts = {
        split: sum(not is_person(crop.pid) for crop in crops)
        for split, crops in (("train", dataset.train), ("val", dataset.val), ("query", dataset.query))
    }
    if not any(counts.values()):
        return dataset
    counted = ", ".join(f"{count:,} images in {split}" for split, count in counts.items() if count)
    notice_of_distractors = (
        f"pid 0 stands for distractors, people whom nobody looks for: {counted} outside the gallery. They "
        f"are not trained on, and as queries they find nobody. {IF_A_PERSON}"
    )
    train, val = (
        tuple(crop for crop in crops if is_person(crop.pid)) for crops in (dataset.train, dataset.val)
    )
    notice = "\n".join(filter(None, (dataset.notice, notice_of_distractors)))
    return replace(dataset, train=train, val=val, notice=notice)


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class Progress(Protocol):
    """Wraps an iterable to show how far it is: the commands hand a bar in, libraries stay silent."""

    def __call__(self, items: Iterable[T], total: int, what: str) -> Iterable[T]: ...


def silent(items: Iterable[T], total: int, what: str) -> Iterable[T]:
    """The progress that shows nothing."""
    return items
