"""Warnings of the suite's own code, shown as a sentence: they are of what was typed, of no line of code."""

import warnings
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_python = warnings.formatwarning


def show_plainly() -> None:
    """From here on; safe to call again.  What other packages warn of keeps its place and its line."""
    warnings.formatwarning = _formatted


def _formatted(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    if category is UserWarning and Path(filename).is_relative_to(_PACKAGE):
        return f"{message}\n"
    return _python(message, category, filename, lineno, line)
