"""Where the project lives on this machine: its source tree and the home of its outputs."""

from __future__ import annotations

import hashlib
import os
import tempfile
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


def in_this_home(recorded: Path) -> Path:
    """Where a file or folder lies that an absolute path names: below the home, where the project was moved.

    The longest end of the path, of two names or more, that is there below the home; else as it was recorded.
    """
    here = home()
    if recorded.is_relative_to(here) and recorded.exists():
        return recorded
    names = recorded.parts[1:]
    ends = (here.joinpath(*names[start:]) for start in range(len(names) - 1))
    return next((place for place in ends if place.exists()), recorded)


def as_moved(path: str, old: Path, new: Path) -> str:
    """`path` as it has to be read where the folder that was `old` lies at `new`.

    What lay beside it, below the last folder that differs, was moved with it if it is there; else `path`
    stays.
    """
    while old != new and old.name == new.name and old.name:
        old, new = old.parent, new.parent
    if old == new or not Path(path).is_relative_to(old):
        return path
    moved = new / Path(path).relative_to(old)
    return str(moved) if moved.exists() else path


def for_hydra(path: Path) -> Path:
    """`path` as Hydra can hold it: by a link in the system's temporary folder where its name holds `${`.

    Hydra writes the folder of a job into its config, where that is a reference to another key.  `from_hydra`
    leads back.

    Raises:
        OSError: the link cannot be made, or something else has its name.
    """
    here = home()
    if "${" not in str(here) or not path.is_relative_to(here):
        return path
    digest = hashlib.sha256(str(here).encode()).hexdigest()[:16]
    link = Path(tempfile.gettempdir()).resolve() / f"reid-home-{digest}"
    here.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(here, target_is_directory=True)
    if link.resolve() != here:
        raise FileExistsError(f"{link} is in the way: it should be a link to {here}")
    return link / path.relative_to(here)


def from_hydra(path: Path) -> Path:
    """The path itself of what `for_hydra` gave."""
    link = for_hydra(home())
    return home() / path.relative_to(link) if path.is_relative_to(link) else path


def literal(text: str) -> str:
    """`text` as OmegaConf has to hold it to give it back: `${` begins a reference to another key there."""
    return text.replace("${", r"\${")
