"""The table as values: what was measured, beside what was published, and whether the two agree."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean, stdev

from experiments.mean import Mean
from experiments.reproduce_table.profiles import ROWS, Column, Profile, Published, Row

#: Points of mAP or rank-1 by which a repetition may miss the published score.
TOLERANCE = 1.0


@dataclass(frozen=True)
class Run:
    """A finished cell: the scores (fractions) of its run's last epoch.

    `address` is its page in the MLflow UI; None where the store has not got the run yet.  `facts` are its
    tags.
    """

    backbone: str
    dataset: str
    seed: int
    scores: Mapping[str, float]
    run_id: str | None = None
    address: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """One number of the table in percent: `values` by seed, none where nothing was run."""

    values: tuple[float, ...]
    published: float | None = None

    @property
    def mean(self) -> float | None:
        return fmean(self.values) if self.values else None

    @property
    def spread(self) -> float | None:
        """The sample standard deviation over seeds."""
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean over seeds, by Student's t."""
        if len(self.values) < 2:
            return None
        mean = Mean.of(self.values)
        return mean.value - mean.half, mean.value + mean.half

    @property
    def difference(self) -> float | None:
        """Measured less published, both in tenths of a point, as they are printed."""
        if self.mean is None or self.published is None:
            return None
        return round(round(self.mean, 1) - self.published, 1)

    @property
    def tolerance(self) -> float:
        """One point; with three seeds or more, two standard deviations where that is larger."""
        if self.spread is None or len(self.values) < 3:
            return TOLERANCE
        return max(TOLERANCE, 2 * self.spread)

    @property
    def outside(self) -> bool:
        return self.difference is not None and abs(self.difference) > self.tolerance


@dataclass(frozen=True)
class Entry:
    """The scores of one network on one dataset, and the runs that they come from, by seed."""

    row: Row
    column: Column
    mAP: Score
    rank_1: Score
    runs: tuple[Run, ...]

    @property
    def scores(self) -> tuple[Score, Score]:
        return self.mAP, self.rank_1


@dataclass(frozen=True)
class Table:
    """`entries` row by row; `provenance` says how they came about, one fact a line.

    `expected` counts the runs that a complete table is made of, `failures` names those that did not finish.
    """

    profile: Profile
    entries: tuple[Entry, ...]
    expected: int
    failures: tuple[str, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)

    @property
    def runs(self) -> tuple[Run, ...]:
        """Every run once, in the order of the table."""
        return tuple(run for entry in self.entries if not entry.row.reranked for run in entry.runs)

    @property
    def complete(self) -> bool:
        return len(self.runs) == self.expected

    def row(self, row: Row) -> list[Entry]:
        return [entry for entry in self.entries if entry.row == row]

    def state(self) -> str:
        """Whether the table is complete, in words."""
        if self.complete:
            return f"Complete: {self.expected} of {self.expected} runs."
        missing = self.expected - len(self.runs)
        if not self.runs:
            return f"Not run here: none of its {self.expected} runs. A dash stands for what was not run."
        return f"NOT COMPLETE: {missing} of {self.expected} runs are not finished."


def fill(
    profile: Profile,
    runs: Iterable[Run],
    expected: int,
    published: Published,
    failures: Iterable[str] = (),
    provenance: Mapping[str, str] | None = None,
) -> Table:
    """Sort the runs into the table; a cell without a run stays empty, whatever was published."""
    found = sorted(runs, key=lambda run: run.seed)

    def entry(row: Row, column: Column) -> Entry:
        prefix = "test/rerank" if row.reranked else "test"
        own = tuple(
            run
            for run in found
            if (run.backbone, run.dataset) == (row.backbone, column.dataset) and f"{prefix}/mAP" in run.scores
        )
        official = published.get((row.backbone, column.dataset, row.reranked)) if profile.comparable else None
        scores = [
            Score(
                tuple(100 * run.scores[f"{prefix}/{name}"] for run in own),
                official[number] if official else None,
            )
            for number, name in enumerate(("mAP", "rank-1"))
        ]
        return Entry(row, column, scores[0], scores[1], own)

    entries = tuple(entry(row, column) for row in ROWS for column in profile.columns)
    return Table(profile, entries, expected, tuple(failures), provenance or {})
