"""results/cells.csv: one row a finished cell, written for good before the next cell begins."""

import csv
import io
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from experiments.modern_recipe.plan import Cell
from reid.config.checks import ConfigError


@dataclass(frozen=True)
class Row:
    """A finished cell.

    train_minutes: of the steps alone.  minutes: from the command to its end; None for a run that was killed
    on its way and continued.  mAP, rank_1, rank_5, mINP: percent, of the last epoch.  accuracy, id_loss: of
    the last epoch of the training, on its own augmented batches (None where nothing was trained).
    code, tree: what `reid.tracking.sources` calls the code, and the hash of its tree.  command: as typed,
    but for the two places CROPS and WEIGHTS (MODEL for a score elsewhere).
    """

    stage: str
    name: str
    changes: str
    seed: int
    split: str
    judged_on: str
    budget: str
    epochs: int
    train_minutes: float | None
    minutes: float | None
    mAP: float
    rank_1: float
    rank_5: float
    mINP: float
    accuracy: float | None
    id_loss: float | None
    images_per_s: float | None
    cpu: str
    threads: int
    config_hash: str
    code: str
    tree: str
    commit: str
    torch: str
    command: str

    @property
    def cell(self) -> Cell:
        """What it is the result of."""
        return Cell(
            self.stage, self.name, tuple(self.changes.split()), self.seed, self.budget, self.judged_on
        )

    def is_of(self, cell: Cell) -> bool:
        return self.cell == cell


class Table:
    """The rows of the file, and pairs among them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                self.rows = [_row(line) for line in csv.DictReader(file)]

    def add(self, row: Row) -> None:
        """Append a row; the file is the old one or the new one, whole, whatever happens meanwhile."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [one.name for one in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(_line(one) for one in (*self.rows, row))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f".{self.path.name}.partial")
        with partial.open("w", encoding="utf-8") as file:
            file.write(text.getvalue())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.path)
        self.rows.append(row)

    def row(self, cell: Cell, cpu: str) -> Row | None:
        return next((row for row in self.rows if row.cpu == cpu and row.is_of(cell)), None)

    def together(self, cells: Sequence[Cell], first: str = "") -> list[Row] | None:
        """The rows of all these cells by one model of CPU, by `first` if it has them, else None."""
        cpus = dict.fromkeys([*([first] if first else []), *(row.cpu for row in self.rows)])
        for cpu in cpus:
            rows = [self.row(cell, cpu) for cell in cells]
            if all(rows):
                return [row for row in rows if row is not None]
        return None

    def missing(self, cells: Sequence[Cell], cpu: str) -> list[Cell]:
        """Which of these cells are to be run on `cpu`, so that one model of CPU has all of them."""
        if self.together(cells) is not None:
            return []
        return [cell for cell in cells if self.row(cell, cpu) is None]

    def seconds(self) -> float:
        """What all rows took; of a run that was interrupted, its steps."""
        return 60 * sum(row.minutes or row.train_minutes or 0 for row in self.rows)

    def refuse_other_code(self, tree: str, torch: str, threads: int, cpu: str) -> None:
        """Refuse to go on with a table that was begun otherwise: the scores would not compare.

        tree: the hash of the code.  torch, threads: of this machine, whose rows alone have to have them.

        Raises:
            ConfigError: rows were made by other code, or on this CPU by another torch or number of threads.
        """
        others = [row for row in self.rows if row.tree != tree]
        if others:
            raise ConfigError(
                f"{self.path} holds rows by other code (trees {_names(row.tree for row in others)}; commits "
                f"{_names(row.commit[:12] for row in others)}), and this tree is {tree}. Check out one "
                "of those commits, or begin another table with --results FOLDER"
            )
        ours = [row for row in self.rows if row.cpu == cpu]
        for what, now, then in (
            ("torch", torch, {row.torch for row in ours}),
            ("threads", str(threads), {str(row.threads) for row in ours}),
        ):
            if then - {now}:
                raise ConfigError(
                    f"{self.path} holds rows of this CPU with {what} {_names(then)}, and here it is {now}. "
                    f"Go on with {what} {_names(then)}, or begin another table with --results FOLDER"
                )


def _names(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values)))


def _line(row: Row) -> dict[str, str]:
    return {name: _text(value) for name, value in asdict(row).items()}


def _text(value: object) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def _row(line: dict[str, str]) -> Row:
    values: dict[str, object] = {}
    for one in fields(Row):
        text = line[one.name]
        if one.type is int:
            values[one.name] = int(text)
        elif one.type is str:
            values[one.name] = text
        else:
            values[one.name] = float(text) if text else None
    return Row(**values)  # type: ignore[arg-type]


def median_minutes(rows: Sequence[Row]) -> float:
    """Of training, over the seeds: what else a machine had to do in one of them does not count."""
    return statistics.median(row.train_minutes or 0 for row in rows)


def unique(cells: Iterable[Cell]) -> list[Cell]:
    return list(dict.fromkeys(cells))
