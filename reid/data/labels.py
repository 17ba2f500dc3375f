"""Numbers for the names that people give: persons and cameras may be called anything."""

import re
from collections.abc import Iterable

#: `7`, `-1`, `0007` and the `7.0` that a spreadsheet makes of it; longer ones are names, not numbers.
WHOLE = re.compile(r"(-?\d{1,9})(\.0+)?")


def numbered(labels: Iterable[str], first: int) -> dict[str, int]:
    """A number for every label: its own where all are whole numbers, else its place in sorted order.

    Places are counted from `first`.

    >>> numbered(["7", "0002"], first=1)
    {'0002': 2, '7': 7}
    >>> numbered(["eve", "ann"], first=1)
    {'ann': 1, 'eve': 2}
    """
    distinct = sorted(set(labels))
    whole = [WHOLE.fullmatch(label) for label in distinct]
    return {
        label: int(match[1]) if match is not None and all(whole) else first + place
        for place, (label, match) in enumerate(zip(distinct, whole, strict=True))
    }
