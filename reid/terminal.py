"""The terminal as every command uses it: what is printed is text as it stands, and is kept in the job's log.

Names of runs, files and datasets go through here.  `[x]` in one of them is no markup and `:x:` no picture;
what is to be coloured is a rich `Text`.
"""

import contextlib
import io
import logging
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

#: What is shown for good, unlike the codes by which a bar under way moves the cursor.
_LASTING = (str, Text, RichTable)


class Terminal(Console):
    """A console that knows no markup, and writes what it prints into Hydra's job log too, uncoloured."""

    def __init__(self, **options: Any) -> None:
        # In a notebook each line would be a display of its own, which no file or pipe gets.
        super().__init__(markup=False, emoji=False, force_jupyter=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*objects, **options)
        logs = [] if self.quiet else job_logs()
        if not logs or not all(isinstance(thing, _LASTING) for thing in objects):
            return
        text = io.StringIO()
        plain = Console(
            file=text, width=self.width, soft_wrap=self.soft_wrap, color_system=None, force_terminal=False,
            markup=False, emoji=False,
        )  # fmt: skip
        plain.print(*objects, **options)
        for log in logs:
            # A full disk takes the log away, and nothing else.
            with contextlib.suppress(OSError), Path(log.baseFilename).open("a", encoding="utf-8") as file:
                file.write(text.getvalue())


class Table(RichTable):
    """A table whose title, heads and cells are text as it stands, whatever console shows it."""

    def __init__(self, title: str | None = None, **options: Any) -> None:
        super().__init__(title=None if title is None else Text(title), **options)

    def add_column(self, header: RenderableType = "", *rest: Any, **options: Any) -> None:
        super().add_column(_as_it_stands(header), *rest, **options)

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        super().add_row(*map(_as_it_stands, cells), **options)


def _as_it_stands(cell: Any) -> Any:
    return Text(cell) if isinstance(cell, str) else cell


def complaint(message: str) -> Text:
    """The line on the standard error with which a command ends with 1 or 2."""
    return Text.assemble(("error:", "bold red"), f" {message}")


def job_logs() -> list[logging.FileHandler]:
    """Where the root logger writes: a job's `train.log`, `evaluate.log`, …; nowhere before a job begins."""
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler)]


def log_sizes(folder: Path) -> dict[str, int]:
    """The job logs that lie in `folder`: path -> how long it is, in bytes."""
    paths = [Path(log.baseFilename) for log in job_logs()]
    return {str(path): path.stat().st_size for path in paths if path.parent == folder and path.exists()}


def move_logs(sizes: dict[str, int], folder: Path) -> None:
    """Let these job logs go on at the end of those in `folder`, with what was written since `sizes`."""
    root = logging.getLogger()
    for log in job_logs():
        old = Path(log.baseFilename)
        if str(old) not in sizes or old.parent == folder:
            continue
        new = logging.FileHandler(folder / old.name)
        new.setLevel(log.level)
        new.setFormatter(log.formatter)
        root.removeHandler(log)
        root.addHandler(new)
        log.close()
        written, before = old.read_bytes(), sizes[str(old)]
        with Path(new.baseFilename).open("ab") as file:
            file.write(written[before:])
        old.write_bytes(written[:before] + f"goes on in {new.baseFilename}\n".encode())
