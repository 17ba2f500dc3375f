"""Where the project lives on this machine: its source tree and the home of its outputs."""

from __future__ import annotations

import os
from pathlib import Path


def source_root() -> Path | None:
    """The root of the source tree that holds this package, or None for an installed wheel."""
    root = Path(__file__).resolve().parents[1]
    return root if (root / "pyproject.toml").is_file() else None


def home() -> Path:
    """The absolute folder for the tracking store and the outputs.

    `REID_HOME` where it is set, else the source tree, else (an installed wheel) the working directory.
    """
    chosen = os.environ.get("REID_HOME")
    if chosen:
        return Path(chosen).expanduser().resolve()
    return source_root() or Path.cwd()
