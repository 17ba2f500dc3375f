"""Labels as people write them, cleaned in one way, be they of a CSV, a Parquet file or a folder's name.

Blanks around a label go, and its Unicode gets one form, so that a name typed on two machines is one name.
Whole numbers are numbers however they are written: `7`, `0007`, `7.0`.  Then people and cameras get numbers.
"""

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from reid.data.crops import DatasetError
from reid.people import DISTRACTOR, JUNK

#: `7`, `-1`, `0007` and the `7.0` that a spreadsheet makes of it.
WHOLE = re.compile(r"(-?\d{1,4000})(\.0+)?")  # Python refuses to read longer ones
#: Those that are pids as they stand; where one is longer, people are counted in sorted order.
SHORT = re.compile(r"-?\d{1,9}(\.0+)?")

#: What programs write where there is nothing.  `Na` and `Nan`, so written, are names of people.
NULL_WORDS = frozenset({"nan", "-nan", "na", "<na>", "n/a", "#n/a", "#na", "nat", "null", "none"})
_NULL_SPELLINGS = frozenset({"NaN", "-NaN", "NaT", "Null", "None"})

#: How many merged ids a notice names.
NAMED = 3

#: White space, and what has no width at all, such as the byte order marks that files joined together leave.
_AROUND = re.compile(r"^[\s\u200b-\u200d\u2060\ufeff]+|[\s\u200b-\u200d\u2060\ufeff]+$")
#: From here on a float may be another whole number than the one that was written.
_EXACT = 2**53


class LabelError(DatasetError):
    """A label says nothing, or cannot be trusted; the message says why and what to do."""


def clean(value: object) -> str:
    """A label, of a cell or of a name, as text: "" for a blank or missing one, "nan" for a float NaN.

    Raises:
        LabelError: a float that is too large to be a whole number for sure.
    """
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        if abs(value) >= _EXACT:
            raise LabelError(
                f"{value!r} is a float too large to be exact: two people may have become one. Save whole "
                "numbers or text"
            )
        return str(int(value))
    return _AROUND.sub("", unicodedata.normalize("NFC", str(value)))


def is_null(label: str) -> bool:
    """Whether a cleaned label is blank or a word that stands for nothing: `nan`, `NA`, `null`, `None`, …"""
    one_case = label in (label.lower(), label.upper())
    return not label or label in _NULL_SPELLINGS or (one_case and label.lower() in NULL_WORDS)


def canonical(label: str) -> str:
    """What is the same for all spellings of a cleaned label: 1 for `1`, `01` and `1.0`.

    >>> canonical("0012"), canonical("12.0"), canonical("12.5"), canonical("ann")
    ('12', '12', '12.5', 'ann')
    """
    match = WHOLE.fullmatch(label)
    return str(int(match[1])) if match is not None else label


@dataclass(frozen=True)
class People:
    """Which labels are no people.

    `distractor` is the id that distractors bear, as `canonical` writes it: 0 in the published sets, None for
    no id.
    `null` holds the words that mean nobody; the other null words, NaN apart, are then names.  None: such a
    word is refused.  A word in lower case means every spelling of it, "" means a blank.
    """

    distractor: str | None = str(DISTRACTOR)
    null: frozenset[str] | None = None

    @classmethod
    def of(cls, distractor: int | str | None, null: Sequence[object] | None) -> "People":
        """The same from `dataset.distractor` and `dataset.null` as a config holds them.

        Raises:
            DatasetError: `null` is no list.
        """
        if null is not None and (isinstance(null, str) or not isinstance(null, Sequence)):
            raise DatasetError(
                f"dataset.null={null} is not allowed: expected a list of words, such as "
                f"dataset.null=[{null}]."
            )
        words = None if null is None else frozenset(map(_word, null))
        return cls(None if distractor is None else canonical(clean(distractor)), words)

    def read(self, value: object) -> str:
        """The cleaned label of a person, or "" for nobody.

        Raises:
            LabelError: it says nothing, and `null` does not say that this means nobody; or it is a whole
                number below -1.
        """
        label = clean(value)
        if self.null and (label in self.null or label.lower() in self.null):
            return ""
        missing = isinstance(value, float) and math.isnan(value)
        if not label or missing or (self.null is None and is_null(label)):
            raise LabelError(_nobody_message(label, missing))
        match = WHOLE.fullmatch(label)
        if match is not None and int(match[1]) < JUNK and canonical(label) != self.distractor:
            raise LabelError(f"pid {label} is not allowed: expected 0 or more, or -1 for junk")
        return label


def _word(value: object) -> str:
    """A word of `dataset.null`; YAML turns null and nan into values of its own."""
    return "null" if value is None else clean(value)


def _nobody_message(label: str, missing: bool) -> str:
    if not label:
        return (
            "the pid is empty. Fill it in or take the row out; dataset.null=[''] makes distractors of such "
            "images, nobody's in the gallery"
        )
    name = "" if missing else "; dataset.null=[] takes such words for names"
    return (
        f"the pid is {label}, which says nothing of who it is. Fill it in or take it out; "
        f"dataset.null=[{label}] makes distractors of such images, nobody's in the gallery{name}"
    )


def numbered(labels: Iterable[str], first: int) -> dict[str, int]:
    """A number for every cleaned label: its own where all are whole numbers of at most 9 digits, else its
    place in sorted order.

    Places are counted from `first`.  Spellings of one whole number share a number.

    >>> numbered(["7", "0002"], first=1)
    {'0002': 2, '7': 7}
    >>> numbered(["eve", "ann"], first=1)
    {'ann': 1, 'eve': 2}
    """
    spellings = spellings_of(labels)
    whole = all(any(map(SHORT.fullmatch, some)) for some in spellings.values())
    return {
        label: int(one) if whole else first + place
        for place, (one, some) in enumerate(spellings.items())
        for label in some
    }


def numbered_people(labels: Iterable[str], distractor: str | None) -> dict[str, int]:
    """A pid for every cleaned label: DISTRACTOR for "" and for that id, JUNK for -1, else as `numbered`.

    A person who is called 0 gets the number after the largest, since pid 0 is a distractor everywhere.
    """
    distinct = set(labels)
    special = {
        label: JUNK if label and canonical(label) != distractor else DISTRACTOR
        for label in distinct
        if not label or canonical(label) in (distractor, str(JUNK))
    }
    pids = numbered(distinct - special.keys(), first=1)
    after = max(pids.values(), default=0) + 1
    return {**{label: pid or after for label, pid in pids.items()}, **special}


def spellings_of(labels: Iterable[str]) -> dict[str, list[str]]:
    """The spellings of each label by its `canonical`, in sorted order."""
    spellings: dict[str, list[str]] = defaultdict(list)
    for label in sorted(set(labels)):
        spellings[canonical(label)].append(label)
    return spellings


def merged_ids(pids: Mapping[str, int]) -> str:
    """A notice of which ids of people are spellings of one number, "" where none are."""
    merged = [some for some in spellings_of(pids).values() if len(some) > 1 and pids[some[0]] > DISTRACTOR]
    if not merged:
        return ""
    shown = "; ".join(" = ".join(some) for some in merged[:NAMED]) + ("; …" if len(merged) > NAMED else "")
    return (
        f"Ids that are spellings of one number are one person ({len(merged):,} people): {shown}. If they are "
        "several, give them names."
    )
