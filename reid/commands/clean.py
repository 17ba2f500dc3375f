"""Cleaning the disk: what there is in a table, and, where that was wished, what can go is gone."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from reid.commands.findings import size
from reid.commands.removable import LOST, Item, ItStays, find
from reid.home import home
from reid.jobs.data_commands import store_folder
from reid.terminal import Terminal

#: Columns of the table, and of what stands before its text.
_WIDTH, _MARGIN = 80, 35


def run(options: argparse.Namespace, kinds: Mapping[str, str]) -> int:
    """What `python -m reid.clean` does with its options; the exit code.

    kinds: those that were chosen, and what each is.
    """
    store = Path(options.store).expanduser().absolute() if options.store else store_folder()
    items, notices = find(list(kinds), store, options.uri)
    going = [item for item in items if not item.stays]
    if options.json:
        print(json.dumps(_as_json(items, notices), indent=2))
    else:
        _show(items, notices, kinds, options.files)
    if not options.yes:
        if not options.json:
            total = size(sum(item.bytes for item in going))
            advice = f"{total} can go, and nothing went: --yes removes it, --only KIND chooses"
            print(advice if going else "Nothing can go.")
        return 0
    freed, left = remove(going)
    for line in left:
        print(f"stays: {line}", file=sys.stderr)
    if not options.json:
        print(f"{size(freed)} freed, {len(going) - len(left)} removed")
    return 1 if left else 0


def remove(items: Sequence[Item]) -> tuple[int, list[str]]:
    """Remove what can go: the bytes that are free now, and what stays nonetheless, each with its reason."""
    freed, left = 0, []
    for item in items:
        assert item.remove is not None
        try:
            item.remove()
        except (ItStays, OSError) as error:
            left.append(f"{_name(item.paths[0])}: {error}")
        else:
            freed += item.bytes
    return freed, left


def rows(items: Sequence[Item], kinds: Mapping[str, str]) -> list[tuple[str, list[Item], str]]:
    """The items of one kind and one fate together: kind, items, and in words what becomes of them."""
    groups: dict[tuple[str, str], list[Item]] = {}
    for item in sorted(items, key=lambda item: (list(kinds).index(item.kind), bool(item.stays), item.stays)):
        groups.setdefault((item.kind, item.stays), []).append(item)
    found = []
    for (kind, stays), group in groups.items():
        text = f"stays: {stays}" if stays else f"can go: {kinds[kind]}. Lost: {LOST[kind]}"
        found.append((kind, group, text))
    return found


def _show(items: Sequence[Item], notices: Sequence[str], kinds: Mapping[str, str], files: bool) -> None:
    console = Terminal(soft_wrap=True, highlight=False)
    if not items:
        console.print("there is nothing to clean")
    else:
        console.print(f"{'kind':14}{'how many':>8}{'size':>11}")
    for kind, group, text in rows(items, kinds):
        head = f"{kind:14}{len(group):>8,}{size(sum(item.bytes for item in group)):>11}  "
        for line in textwrap.wrap(
            text, _WIDTH, initial_indent=head.ljust(_MARGIN), subsequent_indent=_MARGIN * " ",
            break_on_hyphens=False, break_long_words=False,
        ):  # fmt: skip
            console.print(line)
        for item in group if files else ():
            for path in item.paths:
                console.print(f"    {_name(path)}")
    for notice in notices:
        console.print(f"note: {notice}")


def _name(path: Path) -> str:
    return str(path.relative_to(home())) if path.is_relative_to(home()) else str(path)


def _as_json(items: Sequence[Item], notices: Sequence[str]) -> dict[str, object]:
    listed = [
        {
            "kind": item.kind, "files": [str(path) for path in item.paths], "bytes": item.bytes,
            "can_go": not item.stays, "why_it_stays": item.stays, "lost": LOST[item.kind],
        }
        for item in items
    ]  # fmt: skip
    return {"home": str(home()), "items": listed, "notices": list(notices)}
