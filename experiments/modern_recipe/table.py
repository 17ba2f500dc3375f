"""results/cells.csv: one row a finished cell, written for good before the next cell begins."""

import csv
import io
import os
from collections.abc import Collection, Iterable, Sequence
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

    def is_of(self, cell: Cell) -> bool:
        return (self.changes, self.seed, self.judged_on) == (
            " ".join(cell.changes),
            cell.seed,
            cell.judged_on,
        )


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

    def refuse_other_code(self, known: Collection[str], now: str) -> None:
        """Refuse to go on with a table that was begun by code of other numbers.

        known: what code of the same numbers says of itself, see `tracking.sources.codes_since`.

        Raises:
            ConfigError: rows were made by code that is not known to compute the same.
        """
        others = sorted({row.code for row in self.rows} - set(known))
        if others:
            commits = ", ".join(sorted({row.commit[:12] for row in self.rows if row.code in others}))
            raise ConfigError(
                f"{self.path} holds rows by other code ({', '.join(others)}; commits {commits}), and this "
                f"tree is {now}: their scores do not compare. Check out the tag that the study was frozen "
                "by. Or, if the numbers are the same, declare both trees in reid/tracking/sources.py; or "
                "begin another table with --results FOLDER"
            )


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


def unique(cells: Iterable[Cell]) -> list[Cell]:
    return list(dict.fromkeys(cells))
