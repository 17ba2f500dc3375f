"""How many people an index shows."""

from collections.abc import Iterable

from reid.gallery.index import Index
from reid.people import is_person


def people_of(index: Index, rows: Iterable[int] | None = None) -> int:
    """How many people these rows show, by default all: an upper bound where images name nobody.

    Rows of one pid or name show one person, and an image of whom nothing is known shows somebody else.
    Distractors show nobody.
    """
    pids, names = index.column("pid"), index.column("name")
    known: set[object] = set()
    unknown = 0
    for row in range(len(index)) if rows is None else rows:
        pid, name = pids[row], names[row]
        if pid is None and name is None:
            unknown += 1
        elif name is not None or is_person(pid):
            known.add(name if pid is None else pid)
    return len(known) + unknown
