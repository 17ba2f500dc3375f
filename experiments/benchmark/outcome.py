"""What a benchmark found: cases with times, ratios to a reference, peaks of memory, and goals; as JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Goal:
    """One number that the issue sets a bound for, or that stands beside it for the reader.

    Attributes:
        what: e.g. "time / bare product"; cases of one benchmark share it where they share the goal.
        value: the median.
        bound: None for a number without a goal.
        sense: "<=" where a smaller value is better, else ">=".
        unit: "x" for ratios, "MiB", "s", "" for plain numbers.
        lowest, highest: of the repeats; None where there was one.
    """

    what: str
    value: float
    bound: float | None
    sense: Literal["<=", ">="]
    unit: str = "x"
    lowest: float | None = None
    highest: float | None = None

    @property
    def met(self) -> bool | None:
        """None where there is no goal."""
        if self.bound is None:
            return None
        return self.value <= self.bound if self.sense == "<=" else self.value >= self.bound

    def shown(self, number: float) -> str:
        """`number` with this goal's unit, to three digits."""
        digits = f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"
        return f"{digits} {self.unit}".strip()


def ratio(
    what: str,
    over: Sequence[float],
    under: Sequence[float],
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Goal:
    """Median of over / under, repeat by repeat: what slows both of a repeat down does not count."""
    ratios = [a / b for a, b in zip(over, under, strict=True)]
    bound, sense = (at_least, ">=") if at_least is not None else (at_most, "<=")
    return Goal(what, statistics.median(ratios), bound, sense, "x", min(ratios), max(ratios))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Case:
    """One size of a benchmark.

    Attributes:
        name: e.g. "64 x 2048".
        goals: what is judged.
        seconds: every repeat of each contestant.
        limit_seconds: what the machine's measured speed allows at best; `limit` says how it is counted.
        peak_mib: largest resident memory of each child process.
        facts: whatever else the reader should know, such as the mAP of drawn features.
    """

    name: str
    goals: Sequence[Goal]
    seconds: Mapping[str, Sequence[float]] = field(default_factory=dict)
    limit_seconds: float | None = None
    limit: str = ""
    peak_mib: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, float | str] = field(default_factory=dict)

    @property
    def median_seconds(self) -> dict[str, float]:
        return {name: statistics.median(values) for name, values in self.seconds.items()}


@dataclass(frozen=True)
class Outcome:
    """All cases of a benchmark, and the machine that they were measured on."""

    benchmark: str
    question: str
    quick: bool
    repeats: int
    machine: Mapping[str, Any]
    cases: Sequence[Case]

    @property
    def missed(self) -> list[str]:
        """The goals that were not met, in words."""
        return [
            f"{case.name}: {goal.what} {goal.shown(goal.value)}, goal {goal.sense} {goal.shown(goal.bound)}"
            for case in self.cases
            for goal in case.goals
            if goal.bound is not None and not goal.met
        ]

    def write(self, path: Path) -> None:
        """Write as JSON, whole or not at all; medians and `met` are added for readers of the file."""
        content = dataclasses.asdict(self)
        for case, written in zip(self.cases, content["cases"], strict=True):
            written["median_seconds"] = case.median_seconds
            for goal, entry in zip(case.goals, written["goals"], strict=True):
                entry["met"] = goal.met
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".tmp")
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)

    @classmethod
    def read(cls, path: Path) -> Outcome:
        """Read what `write` wrote.

        Raises:
            ValueError: the file is not one of these.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            for case in content["cases"]:
                del case["median_seconds"]
                for goal in case["goals"]:
                    del goal["met"]
                case["goals"] = [Goal(**goal) for goal in case["goals"]]
            return cls(**{**content, "cases": [Case(**case) for case in content["cases"]]})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is not a benchmark's outcome ({error}); delete it and run the benchmark again"
            ) from error
