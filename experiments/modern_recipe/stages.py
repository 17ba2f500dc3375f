"""The stages of the study, each a list of cells that follows from the plan and from the rows that there are.

Nothing is remembered but the table: what is still to be run is worked out anew before each cell, so the
program can be killed anywhere.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from experiments.modern_recipe.plan import PUBLISHED, WINNER, Cell, Plan, recipe_name
from experiments.modern_recipe.search import Search, Walk, walk
from experiments.modern_recipe.table import Row, Table, unique

STAGES = ("screen", "winner", "ladder", "second", "away", "distil", "speedrun")
#: Those that are lists of variants.
SERIES = ("melt", "ladder", "second", "distil", "speedrun")
#: Epochs of the run that measures a recipe's speed.
SPEED_EPOCHS = 2
#: By what share a run may exceed its minutes: as much as two timings of one recipe differ.
TOLERANCE = 0.03


class Missing(Exception):
    """Cells that have to be run before more can be known."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        super().__init__(f"{len(cells)} cells")
        self.cells = unique(cells)


@dataclass(frozen=True)
class Variant:
    """A line of a series: its cells, one a seed, and the line that it is compared with."""

    name: str
    against: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Budget:
    """A place of the curve: pairs of cells (published, winner), one a seed."""

    minutes: float
    pairs: tuple[tuple[Cell, Cell], ...]


class Study:
    """The plan seen from one model of CPU and the rows that there are.

    guess: for estimates. What is not known yet is then guessed where `Missing` would be raised otherwise:
    speeds are those that the plan says, and every key is kept.
    """

    def __init__(self, plan: Plan, table: Table, cpu: str, guess: bool = False) -> None:
        self.plan, self.table, self.cpu, self.guess = plan, table, cpu, guess

    # ---- what is still to be run

    def needed(self, stage: str) -> list[Cell]:
        """The cells to be run next for a stage, in order; [] where it is complete."""
        cells: dict[str, Callable[[], list[Cell]]] = {
            "screen": lambda: self.walk("screen").missing,
            "winner": self._needed_for_winner,
            "away": self._needed_away,
        }
        try:
            return cells[stage]() if stage in cells else self._needed_of_series(stage)
        except Missing as missing:
            return missing.cells

    def _needed_for_winner(self) -> list[Cell]:
        self.winner()
        for minutes in self.minutes():
            self.published_for(minutes)
        return [*self._needed_of_series("melt"), *self._unpaired(self.curve())]

    def _needed_of_series(self, stage: str) -> list[Cell]:
        missing: list[Cell] = []
        variants = {variant.name: variant for variant in self.series(stage)}
        for variant in variants.values():
            other = variants.get(variant.against)
            for number, cell in enumerate(variant.cells):
                pair = [other.cells[number], cell] if other and number < len(other.cells) else [cell]
                missing += self.table.missing(pair, self.cpu)
        # What begins with another line's model waits for it, and a model lies where it was trained.
        waiting = [cell for cell in missing if cell.models]
        first = [cell for cell in missing if cell not in waiting]
        first += self._not_here(variants[name].cells[0] for cell in waiting for name in cell.models)
        return unique(first or waiting)

    def _needed_away(self) -> list[Cell]:
        self.winner()
        missing: list[Cell] = []
        for pairs in self.away().values():
            for pair in pairs:
                missing += self.table.missing(pair, self.cpu)
        return unique(self._not_here(replace(cell, judged_on="") for cell in missing) or missing)

    def _not_here(self, cells: Iterable[Cell]) -> list[Cell]:
        """Of cells whose models are needed, those that no machine like this one has run."""
        return [cell for cell in cells if self.table.row(cell, self.cpu) is None]

    def _unpaired(self, budgets: Sequence[Budget]) -> list[Cell]:
        """The cells that the curve lacks, all budgets of the first seed first."""
        missing = []
        for number in range(max(len(budget.pairs) for budget in budgets)):
            for budget in budgets:
                missing += self.table.missing(budget.pairs[number], self.cpu)
        return unique(missing)

    # ---- screens and the winner

    def search(self, name: str) -> Search:
        section = self.plan.section(name)
        base = self.screened() if name == "large" else ()
        base = (*base, *section.get("base", ()))

        def length(keys: Sequence[str]) -> int:
            timed = [key for key in keys if self.plan.key(key).own_speed]
            return self._length(section, timed, section["size"])[0]

        budget = f"{section['minutes']:g}" if "minutes" in section else ""
        return Search(
            name, base, tuple(section["keys"]), section["size"], length, budget, section["split"],
            tuple(section["seeds"]), section["hopeless"], section["sure"], section["noise"], section["least"],
        )  # fmt: skip

    def walk(self, name: str) -> Walk:
        return walk(self.search(name), self.plan, self.table, self.cpu)

    def screened(self) -> tuple[str, ...]:
        """The keys that the screen keeps."""
        return self._kept("screen")

    def winner(self) -> tuple[str, ...]:
        """The keys of the winner: of the screen, and of the search at full size where the plan has one."""
        return self._kept("large" if self.plan.sections.get("large") else "screen")

    def _kept(self, name: str) -> tuple[str, ...]:
        found = self.walk(name)
        if not found.missing:
            return found.keys
        if not self.guess:
            raise Missing(found.missing)
        keys = found.keys
        for key in self.search(name).keys:
            keys = self.plan.add(keys, key)
        return keys

    # ---- lengths

    def minutes(self) -> list[float]:
        return [float(minutes) for minutes in self.plan.section("curve")["minutes"]]

    def _length(
        self, entry: Mapping[str, Any], keys: Sequence[str], size: str, more: Mapping[str, Any] | None = None
    ) -> tuple[int, str]:
        """Epochs, and the budget in words where they follow from minutes."""
        if "minutes" not in entry:
            return int(entry["epochs"]), ""
        minutes = float(entry["minutes"])
        return self.epochs_for(minutes, keys, size, more), f"{minutes:g}"

    def speed(self, keys: Sequence[str], size: str, more: Mapping[str, Any] | None = None) -> Cell:
        if any("freeze_epochs" in self.plan.key(key).shares for key in keys):
            # For one of two epochs, it would make a step look cheap.
            more = {"freeze_epochs": 0, **(more or {})}
        changes = self.plan.changes(keys, size, SPEED_EPOCHS, "test", more)
        return Cell("speed", f"{recipe_name(keys)} at {size}", changes, 0)

    def epochs_for(
        self, minutes: float, keys: Sequence[str], size: str, more: Mapping[str, Any] | None = None
    ) -> int:
        """How many whole epochs of a recipe on all training people fit into so many minutes of training.

        By the first CPU that has measured its speed and the published recipe's: a study has one length for
        each budget, whatever machine goes on with it.
        """
        seconds = self._epoch_seconds(keys, size, more)
        return max(SPEED_EPOCHS, math.floor(60 * minutes * (1 + TOLERANCE) / seconds))

    def _epoch_seconds(self, keys: Sequence[str], size: str, more: Mapping[str, Any] | None = None) -> float:
        """The seconds of an epoch on all training people, as measured beside the published recipe's."""
        pair = [self.speed((), size), self.speed(keys, size, more)]
        rows = self.table.together(pair)
        if rows is not None:
            return 60 * float(rows[1].train_minutes or 0) / SPEED_EPOCHS
        if self.guess:
            return self.plan.seconds_per_epoch[size]
        raise Missing(self.table.missing(pair, self.cpu))

    def seconds(self, cell: Cell) -> float:
        """About how long a cell takes on this machine, by the seconds of an epoch of the published recipe.

        They are those that were measured here, or else those that the plan names.
        """
        overhead = float(self.plan.section("overhead_seconds"))
        if cell.judged_on:
            return overhead
        size = f"{cell.values.get('image.height')}x{cell.values.get('image.width')}"
        per_epoch = self.plan.seconds_per_epoch.get(size)
        if per_epoch is None or "epochs" not in cell.values:
            return float(self.plan.section("other_seconds"))
        measured = self.table.row(self.speed((), size), self.cpu)
        if measured is not None:
            per_epoch = 60 * float(measured.train_minutes or 0) / SPEED_EPOCHS
        people = float(self.plan.section("val_share")) if cell.values.get("eval.split") == "val" else 1.0
        own_speed = [key for key in self.plan.keys.values() if key.own_speed]
        if cell.budget and any(key.values.keys() & cell.values.keys() for key in own_speed):
            return overhead + 60 * float(cell.budget) * people
        return overhead + int(cell.values["epochs"]) * per_epoch * people

    # ---- the curve

    def published_for(self, minutes: float) -> tuple[str, ...]:
        """The keys of the published recipe for so many minutes: where the plan asks for it, the better
        schedule on `val`."""
        section = self.plan.section("schedules")
        if minutes not in section["minutes"]:
            return ()
        choices = [tuple(keys) for keys in section["choices"]]
        cells = self.schedules(minutes)
        rows = self.table.together(cells, self.cpu)
        if rows is None:
            if self.guess:
                return choices[0]
            raise Missing(self.table.missing(cells, self.cpu))
        best = max(range(len(rows)), key=lambda number: rows[number].mAP)
        return choices[best]

    def schedules(self, minutes: float) -> list[Cell]:
        """The published recipe of a budget with each of its schedules, on `val`."""
        section = self.plan.section("schedules")
        size = self.plan.section("curve")["size"]
        epochs = self.epochs_for(minutes, (), size)
        return [
            Cell(
                "schedules", recipe_name(keys), self.plan.changes(keys, size, epochs, section["split"]),
                section["seed"], f"{minutes:g}",
            )
            for keys in section["choices"]
        ]  # fmt: skip

    def curve(self) -> list[Budget]:
        section, winner = self.plan.section("curve"), self.winner()
        budgets = []
        for minutes in self.minutes():
            own = (section.get("winner_at") or {}).get(f"{minutes:g}", {})
            ours = (*winner, *own.get("keys", ()))
            recipes = (
                (PUBLISHED, self.published_for(minutes), section["size"]),
                (WINNER, ours, own.get("size", section["size"])),
            )
            cells = []
            for name, keys, size in recipes:
                epochs = self.epochs_for(minutes, () if name == PUBLISHED else keys, size)
                changes = self.plan.changes(keys, size, epochs, section["split"])
                cells.append(
                    [Cell("curve", name, changes, seed, f"{minutes:g}") for seed in section["seeds"]]
                )
            budgets.append(Budget(minutes, tuple(zip(*cells, strict=True))))
        return budgets

    def away(self) -> dict[str, list[tuple[Cell, Cell]]]:
        """By dataset: the pairs of the curve's budget that the plan names, of its seeds, judged there."""
        section = self.plan.section("away")
        (budget,) = (one for one in self.curve() if one.minutes == float(section["minutes"]))
        pairs = tuple(pair for pair in budget.pairs if pair[0].seed in section["seeds"])
        if not self.guess and (missing := self._unpaired([replace(budget, pairs=pairs)])):
            raise Missing(missing)
        return {
            dataset: [(_judged(ours, dataset), _judged(theirs, dataset)) for ours, theirs in pairs]
            for dataset in self.plan.domains
        }

    # ---- series

    def series(self, stage: str) -> list[Variant]:
        """The variants of a section, in order."""
        section = self.plan.section(stage)
        rows = [*section["rows"], *(self._to_winner(section["rows"][-1]) if section.get("to_winner") else ())]
        return [self._variant(stage, section, entry) for entry in rows]

    def _to_winner(self, last: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Lines from the last one of a ladder to the winner, a key each; then the winner, if they miss it."""
        keys, name, rows = self._keys(last["keys"]), str(last["name"]), []
        winner = self.plan.at_size(self.winner(), self.plan.section("ladder")["size"])
        for key in winner:
            if key not in keys:
                keys = self.plan.add(keys, key)
                rows.append({"name": f"+ {key}", "keys": list(keys), "against": name})
                name = f"+ {key}"
        if {*keys} != {*winner}:
            rows.append({"name": WINNER, "keys": [WINNER], "against": name})
        return rows

    def _variant(self, stage: str, section: Mapping[str, Any], entry: Mapping[str, Any]) -> Variant:
        entry = {**{key: value for key, value in section.items() if key != "rows"}, **entry}
        if not any(key in entry for key in ("minutes", "epochs", "experiment")):
            raise ValueError(f"{stage}, {entry['name']}: neither minutes nor epochs")
        seeds, name = entry["seeds"], str(entry["name"])
        if "experiment" in entry:  # a recipe as it is shipped
            values = {"experiment": entry["experiment"], "eval.split": entry["split"], **entry.get("set", {})}
            changes, budget = tuple(sorted(f"{key}={value}" for key, value in values.items())), ""
        else:
            keys = self._keys(entry.get("keys", ()))
            more = entry.get("set", {})
            speed_of = self._keys(entry["speed_of"]) if "speed_of" in entry else keys
            # What a teacher costs is part of the method, and is not taken off its epochs.
            of_speed = {key: value for key, value in more.items() if not key.startswith("teacher.")}
            epochs, budget = self._length(entry, speed_of, entry["size"], of_speed)
            changes = self.plan.changes(keys, entry["size"], epochs, entry["split"], more)
        cells = tuple(Cell(stage, name, changes, seed, budget) for seed in seeds)
        return Variant(name, str(entry.get("against", "")), cells)

    def _keys(self, names: Sequence[str]) -> tuple[str, ...]:
        """Names of keys, with `winner` as the winner's, each put on those before it."""
        keys: tuple[str, ...] = ()
        for name in names:
            for one in self.winner() if name == WINNER else (name,):
                keys = self.plan.add(keys, one)
        return keys


def paired(table: Table, first: Sequence[Cell], second: Sequence[Cell]) -> list[tuple[Row, Row]]:
    """Of cells of the same seeds, the pairs of rows that one model of CPU has both of."""
    found = []
    for pair in zip(first, second, strict=False):
        rows = table.together(pair)
        if rows is not None:
            found.append((rows[0], rows[1]))
    return found


def _judged(cell: Cell, dataset: str) -> Cell:
    return Cell("away", cell.name, cell.changes, cell.seed, cell.budget, dataset)
