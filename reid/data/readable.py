"""Which images cannot be read, and the message that names them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from reid.data.crops import Progress, silent
from reid.data.files import in_threads
from reid.data.pictures import read_picture

#: So many are named in a message.
NAMED = 50


def unreadable(paths: Sequence[Path], progress: Progress = silent) -> dict[Path, str]:
    """The images that cannot be read, each with what is wrong; all are decoded, as `embed` will do."""
    with in_threads(lambda path: read_picture(path).reason, paths, progress, "checking images") as reasons:
        return {path: reason for path, reason in zip(paths, reasons, strict=True) if reason is not None}


def name_unreadable(bad: Mapping[Path, str] | Mapping[str, str]) -> str:
    """The message that names them."""
    shown = [f"    {path}: {reason}" for path, reason in list(bad.items())[:NAMED]]
    more = [f"    … and {len(bad) - NAMED} more"] if len(bad) > NAMED else []
    images = "1 image" if len(bad) == 1 else f"{len(bad)} images"
    return "\n".join([f"{images} cannot be read:", *shown, *more])
