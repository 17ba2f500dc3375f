"""The images directly in a folder or at any depth below it, linked folders too, and what else lies there."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})

#: Folders that systems and unpackers leave among one's own; none holds an image that somebody meant.
SYSTEM_FOLDERS = frozenset(
    {"__macosx", "@eadir", "@tmp", "#recycle", "#snapshot", "$recycle.bin", "system volume information",
     "lost+found", "__pycache__"}
)  # fmt: skip

LEADS_BACK = "links that lead back"


def is_system_folder(name: str) -> bool:
    """Whether a folder of that name is hidden, or holds what a system keeps for itself."""
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def images_in(folder: Path) -> tuple[list[Path], int]:
    """The images of `folder` sorted by name, and the number of strays: hidden files, folders, no images."""
    entries = sorted(folder.iterdir(), key=lambda path: path.name)
    images = [
        path
        for path in entries
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and not path.is_dir()
    ]
    return images, len(entries) - len(images)


@dataclass(frozen=True)
class FoundImages:
    """`images` in the order of their paths; `left_out` counts the rest by ending, as `describe` names it."""

    images: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def describe(self) -> str:
        """`3 left out: 2 .txt, 1 .heic`; "" where nothing is."""
        return describe(self.left_out)


def images_below(folder: Path) -> FoundImages:
    """The images in `folder` and in all folders below it.

    A linked folder is followed unless it leads back to one that it lies in.  Hidden files, hidden folders and
    those of systems (`__MACOSX`, `@eaDir`) are left out.

    Raises:
        OSError: a folder cannot be read.
    """
    images, left_out = _below(folder, frozenset())
    return FoundImages(sorted(images), Counter(left_out))


def describe(left_out: Counter[str]) -> str:
    """What was left out, most frequent first."""
    ordered = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    counts = ", ".join(f"{count:,} {what}" for what, count in ordered)
    return f"{left_out.total():,} left out: {counts}" if left_out else ""


def _below(folder: Path, above: frozenset[tuple[int, int]]) -> tuple[list[Path], list[str]]:
    """The images, and a word for each thing left out; `above` are the folders that this one lies in."""
    stat = folder.stat()
    inode = (stat.st_dev, stat.st_ino)
    if inode in above:
        return [], [LEADS_BACK]
    images, _ = images_in(folder)
    left_out: list[str] = []
    for entry in _rest(folder, images):
        if not entry.is_dir():
            left_out.append(
                "hidden" if entry.name.startswith(".") else entry.suffix.lower() or "without ending"
            )
        elif is_system_folder(entry.name):
            left_out.append("hidden" if entry.name.startswith(".") else f"{entry.name}/")
        else:
            more, others = _below(entry, above | {inode})
            images += more
            left_out += others
    return images, left_out


def _rest(folder: Path, images: Iterable[Path]) -> list[Path]:
    return sorted(set(folder.iterdir()) - set(images))
