"""The plan of imports: which room of reid/ imports which, on how many floors the house stands.

    python -m experiments.house.plan                    the files as they are
    python -m experiments.house.plan 1e3f991 HEAD       two commits, then both in one table

A room is a folder of reid/ or a file that lies in the hall, directly in reid/. An arrow leads from a room to
another one that it imports anywhere in its files, however often. What a file imports only where it runs as a
command, under `if __name__ == "__main__"`, is counted apart. A room stands one floor above the highest
room that it imports. Rooms that import each other in a circle share a floor, and at least one of the arrows
between them runs back up.
"""

import argparse
import ast
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.house.versions import ROOT, source_tree

#: Lines below which a file is counted as short.
SHORT = 60
PACKAGE = "reid"
#: The name of the files as they are.
NOW = "now"

Arrow = tuple[str, str]


@dataclass(frozen=True)
class Plan:
    """Of one source tree: files are paths relative to reid/, rooms the first name of such a path."""

    lines: Mapping[str, int]  # of each file
    imports: frozenset[Arrow]  # from file to file, across rooms alone
    doors: frozenset[str]  # files of the hall that run as a command
    when_run: frozenset[Arrow]  # imports from file to file, across rooms, of files that run as a command

    @property
    def rooms(self) -> list[str]:
        return sorted({room_of(file) for file in self.lines})

    @property
    def hall(self) -> list[str]:
        """The files that lie in no folder, without `__init__.py`, which holds nothing of its own."""
        return [file for file in self.lines if "/" not in file and file != "__init__.py"]

    @property
    def short(self) -> list[str]:
        return [file for file, lines in self.lines.items() if lines < SHORT]

    @property
    def arrows(self) -> dict[Arrow, int]:
        """From room to room, with the number of imports from file to file behind each."""
        counts: dict[Arrow, int] = defaultdict(int)
        for importer, imported in self.imports:
            counts[room_of(importer), room_of(imported)] += 1
        return dict(counts)

    @property
    def floors(self) -> dict[str, int]:
        """The floor of each room, from 1."""
        return floors(self.rooms, self.arrows)

    @property
    def circular(self) -> list[Arrow]:
        """The arrows between rooms that import each other, directly or by way of others."""
        floor = self.floors
        return sorted(arrow for arrow in self.arrows if floor[arrow[0]] <= floor[arrow[1]])


def room_of(file: str) -> str:
    return file.partition("/")[0].removesuffix(".py")


def read_plan(source: Path) -> Plan:
    """The plan of the source tree that holds reid/."""
    package = source / PACKAGE
    files = {path: path.relative_to(package).as_posix() for path in sorted(package.rglob("*.py"))}
    trees = {file: ast.parse(path.read_text(encoding="utf-8")) for path, file in files.items()}
    modules = {_module(file): file for file in trees}
    imports: set[Arrow] = set()
    when_run: set[Arrow] = set()
    for file, tree in trees.items():
        for statement in tree.body:
            imported = {modules[module] for module in _imported(statement, modules)}
            arrows = {(file, other) for other in imported if room_of(file) != room_of(other)}
            (when_run if _runs_as_command(statement) else imports).update(arrows)
    lines = {file: len(path.read_text(encoding="utf-8").splitlines()) for path, file in files.items()}
    doors = {
        file for file, tree in trees.items() if "/" not in file and any(map(_runs_as_command, tree.body))
    }
    return Plan(lines, frozenset(imports), frozenset(doors), frozenset(when_run))


def floors(rooms: Iterable[str], arrows: Iterable[Arrow]) -> dict[str, int]:
    """One more than the highest floor of what a room imports; rooms of one circle share theirs."""
    below: dict[str, set[str]] = {room: set() for room in rooms}
    for importer, imported in arrows:
        below[importer].add(imported)
    reached = {room: _reachable(room, below) for room in below}
    found: dict[str, int] = {}
    # A room that another one reaches, and not the other way round, reaches fewer rooms than it.
    for room in sorted(below, key=lambda room: (len(reached[room] - {room}), room)):
        lower = [other for other in reached[room] if room not in reached[other]]
        found[room] = 1 + max((found[other] for other in lower), default=0)
    return found


def _reachable(room: str, below: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = [*below[room]]
    while waiting:
        other = waiting.pop()
        if other not in seen:
            seen.add(other)
            waiting += below[other]
    return seen


def _module(file: str) -> str:
    return ".".join((PACKAGE, *Path(file).with_suffix("").parts)).removesuffix(".__init__")


def _imported(statement: ast.stmt, modules: Mapping[str, str]) -> set[str]:
    """The modules of the package that a statement imports, itself or within a function."""
    names: set[str] = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from reid.data import store` imports reid.data.store, `… import Crop` what reid.data gives.
            members = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            names |= {member if member in modules else node.module for member in members.values()}
    return names & modules.keys()


def _runs_as_command(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and ast.unparse(statement.test) == "__name__ == '__main__'"


def describe(version: str, plan: Plan) -> str:
    """The plan as text: a line a room from the top floor down, then the circles and the short files."""
    arrows, floor = plan.arrows, plan.floors
    text = [
        f"{PACKAGE}/ of {version}",
        "",
        "floor  room               files   lines  imports (from file to file)",
    ]
    for room in sorted(plan.rooms, key=lambda room: (-floor[room], room)):
        files = [file for file in plan.lines if room_of(file) == room]
        imported = {other: count for (importer, other), count in arrows.items() if importer == room}
        listed = ", ".join(
            f"{other} {imported[other]}" for other in sorted(imported, key=lambda r: (-floor[r], r))
        )
        lines = sum(plan.lines[file] for file in files)
        text.append(f"{floor[room]:>5}  {room:<18} {len(files):>5}  {lines:>6}  {listed}".rstrip())
    if plan.circular:
        text += ["", "arrows in a circle:"]
        text += [
            f"  {importer} -> {imported}: "
            + ", ".join(
                sorted(f"{a} imports {b}" for a, b in plan.imports if _between(a, b) == (importer, imported))
            )
            for importer, imported in plan.circular
        ]
    if plan.when_run:
        text += ["", "imported only where a file runs as a command:"]
        text += [f"  {importer} imports {imported}" for importer, imported in sorted(plan.when_run)]
    text += ["", f"{len(plan.short)} files under {SHORT} lines: {', '.join(plan.short)}"]
    return "\n".join(text)


def _between(importer: str, imported: str) -> Arrow:
    return room_of(importer), room_of(imported)


def figures(plan: Plan) -> dict[str, int]:
    """The plan in a few numbers."""
    return {
        "files": len(plan.lines),
        "lines": sum(plan.lines.values()),
        f"files under {SHORT} lines": len(plan.short),
        "files in the hall": len(plan.hall),
        "of them commands": len(plan.doors),
        "rooms": len(plan.rooms),
        "floors": max(plan.floors.values()),
        "arrows from room to room": len(plan.arrows),
        "imports from file to file, across rooms": len(plan.imports),
        "arrows in a circle": len(plan.circular),
        "imports of files that run as a command": len(plan.when_run),
    }


def table(plans: Mapping[str, Plan]) -> str:
    """A column a version."""
    columns = [figures(plan) for plan in plans.values()]
    lines = [f"{'':<42}" + "".join(f"{version[-12:]:>14}" for version in plans)]
    lines += [f"{name:<42}" + "".join(f"{column[name]:>14,}" for column in columns) for name in columns[0]]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.house.plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "versions", nargs="*", metavar="VERSION", default=[NOW], help="a commit, or a folder with reid/"
    )
    plans = {}
    for version in parser.parse_args(arguments).versions:
        with source_tree(str(ROOT) if version == NOW else version) as source:
            plans[version] = read_plan(source)
        print(describe(version, plans[version]), end="\n\n")
    print(table(plans))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
