"""The benchmarks that there are: the files of `benchmarks/`, each with a docstring and `measure(setup)`.

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

from experiments.benchmark.limits import Limits

FOLDER = Path(__file__).parent / "benchmarks"


class NotHere(Exception):
    """This machine cannot be asked: it has no such device."""


@dataclass(frozen=True)
class Setup:
    """What a benchmark is given: small sizes or the real ones, how many repeats, the machine's speeds, and
    where to tell what is under way."""

    quick: bool
    repeats: int
    limits: Limits
    say: Callable[[str], None]


def names() -> dict[str, str]:
    """Every benchmark with the line that says what it measures; none is imported for it."""
    found = {}
    for file in sorted(FOLDER.glob("*.py")):
        told = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        found[file.stem] = told.partition("\n")[0].rstrip(".")
    return found


def load(name: str) -> ModuleType:
    """The module of a benchmark that `names` lists."""
    return importlib.import_module(f"experiments.benchmark.benchmarks.{name}")
