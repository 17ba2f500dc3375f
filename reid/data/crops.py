"""What a dataset is here: crops of people, each with an identity and a camera."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

T = TypeVar("T")


class Crop(NamedTuple):
    """One image of one person by one camera.

    `pid` counts people (0 is a distractor: a person nobody looks for; junk, -1, never gets here) and
    `camid` counts cameras from 0.
    """

    path: Path
    pid: int
    camid: int


@dataclass(frozen=True)
class ReidDataset:
    """The three splits of a dataset, each sorted by file name so that labels never depend on the disk.

    `strays` counts the files that lay in the folders and are no crops (`._*`, Thumbs.db, …) and `junk`
    the crops of pid -1 that the protocol drops.  `notice` is what a user has to know of the set's terms.
    """

    name: str
    root: Path
    train: tuple[Crop, ...]
    query: tuple[Crop, ...]
    gallery: tuple[Crop, ...]
    strays: int = 0
    junk: int = 0
    notice: str = field(default="", compare=False)


class DatasetError(ValueError):
    """The data are not there, or not what their name promises; the message says what to do."""


class Progress(Protocol):
    """Wraps an iterable to show how far it is: the commands hand a bar in, libraries stay silent."""

    def __call__(self, items: Iterable[T], total: int, what: str) -> Iterable[T]: ...


def silent(items: Iterable[T], total: int, what: str) -> Iterable[T]:
    """The progress that shows nothing."""
    return items
