"""Verdicts on labels: the file that they are noted in, and what they change in training.

A verdict is about a pair of crops, one line of a CSV file with the columns `path,other_path,verdict,time`:

- `same person`: both crops show one person. Under two names, the two are trained on as one person.
- `different people`: the crops show two people. Under one name, `path` is left out of training.
- `wrong name`: `path` does not show whom its name says. It is left out of training.
- `labels right`: nothing changes; the pair is not asked about again.

Only training changes. Nobody of query, gallery or a set's own validation people is renamed or left out, so
that scores stay comparable: verdicts on them are counted, and named in the dataset's notice. A crop that is
left out merges nothing, since it says nothing of the name that it bore.

Of several verdicts on one pair, in whichever order it is named, the last one holds. Paths are relative to
the root of the dataset where they lie below it.
"""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from reid.data.crops import DatasetError, ReidDataset

SAME, DIFFERENT, WRONG_NAME, RIGHT = "same person", "different people", "wrong name", "labels right"
VERDICTS = (SAME, DIFFERENT, WRONG_NAME, RIGHT)
COLUMNS = ("path", "other_path", "verdict", "time")


class Verdict(NamedTuple):
    """One line of the file; `time` is that of the verdict, in ISO 8601, UTC."""

    path: str
    other_path: str
    verdict: str
    time: str

    @property
    def pair(self) -> frozenset[str]:
        """The two paths, in no order."""
        return frozenset((self.path, self.other_path))


def append_verdict(
    file: Path, path: str | Path, other_path: str | Path, verdict: str, root: Path | None = None
) -> Verdict:
    """Note a verdict at the end of `file`, which is made if it is not there; it is on the disk on return.

    What a kill left of a last line is removed first. Several processes may append to one file.

    Args:
        root: of the dataset; paths below it are noted relative to it.

    Raises:
        DatasetError: another word, a path that no line can hold, or a file that is none of verdicts.
        OSError: the file cannot be written.
    """
    raise NotImplementedError


def read_verdicts(file: Path) -> list[Verdict]:
    """The verdicts that hold, the oldest first: of each pair the last one.

    A last line that a kill cut off is no verdict.

    Raises:
        DatasetError: the file is not there or is none of verdicts; the message names the line.
    """
    raise NotImplementedError


def count_verdicts(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """How many there are of each word of VERDICTS, in that order."""
    counts = Counter(verdict.verdict for verdict in verdicts)
    return {word: counts[word] for word in VERDICTS}


def verdict_path(path: Path, root: Path) -> str:
    """What stands in the file for a crop: its path from `root` on, where it lies below it, with `/`."""
    raise NotImplementedError
