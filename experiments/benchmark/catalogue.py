"""The benchmarks that there are: the files of `measurements/`, each with a docstring and `measure(setup)`.

Adding one is adding its file: REPEATS (how often contestants are timed unless `--repeats` says it) and
`measure(setup: Setup) -> list[Case]`; the first line of its docstring is what `--help` lists.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from experiments.benchmark.machine import Limits

FOLDER = Path(__file__).parent / "measurements"
ROOT = Path(__file__).resolve().parents[2]


class NotHere(Exception):
    """This machine cannot measure it: it has no such device."""


@dataclass(frozen=True)
class Setup:
    """What a benchmark works with.

    Attributes:
        quick: small sizes in place of the real ones.
        repeats: how often each contestant is timed.
        limits: the machine's speeds.
        say: prints what is under way.
        crops: a folder of real images and a checkpoint, where `search` was given them.
        source: the source tree whose commands are started; another version's only with `--version`.
    """

    quick: bool
    repeats: int
    limits: Limits
    say: Callable[[str], None]
    source: Path = ROOT
    crops: tuple[str, str] | None = None


def names() -> dict[str, str]:
    """Every benchmark with the line that says what it measures; none is imported for it."""
    found = {}
    for file in sorted(FOLDER.glob("*.py")):
        docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        found[file.stem] = docstring.partition("\n")[0].rstrip(".")
    return found


def load(name: str) -> ModuleType:
    """The module of a benchmark that `names` lists."""
    return importlib.import_module(f"experiments.benchmark.measurements.{name}")
