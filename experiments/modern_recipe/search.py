"""A screen: which keys are kept, decided by the rows that there are; and which cells are still needed for it.

Each key is tried alone on the base, with one seed. Those that lose `hopeless` points are left out. The others
are put on the best so far, one after the other, in the order of what each gave alone. One seed is believed
where the lead is `sure` points or more, or the loss `noise` or more; else the mean of all seeds decides.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from experiments.modern_recipe.plan import Cell, Plan, recipe_name
from experiments.modern_recipe.table import Table, unique


@dataclass(frozen=True)
class Search:
    """How a section of the plan is searched; points are of mAP in percent.

    length: the epochs of a recipe of these keys.  budget: the minutes that they follow from, or "".
    """

    stage: str
    base: tuple[str, ...]
    keys: tuple[str, ...]
    size: str
    length: Callable[[Sequence[str]], int]
    budget: str
    split: str
    seeds: tuple[int, ...]
    hopeless: float
    sure: float
    noise: float
    least: float

    def cell(self, plan: Plan, keys: Sequence[str], seed: int) -> Cell:
        changes = plan.changes(keys, self.size, self.length(keys), self.split)
        return Cell(self.stage, recipe_name(keys), changes, seed, self.budget)


@dataclass(frozen=True)
class Decision:
    """A key tried on the best so far: its leads in points, one a seed, and whether it is kept."""

    key: str
    against: tuple[str, ...]
    leads: tuple[float, ...]
    kept: bool

    @property
    def lead(self) -> float:
        return sum(self.leads) / len(self.leads)


@dataclass
class Walk:
    """How far a search is: `missing` are the cells that the next decision needs, [] where it is done."""

    alone: dict[str, float] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    keys: tuple[str, ...] = ()
    missing: list[Cell] = field(default_factory=list)


def walk(search: Search, plan: Plan, table: Table, cpu: str) -> Walk:
    """All decisions that the table allows, and the cells that the next one needs on `cpu`."""
    found = Walk(keys=search.base)
    first = search.seeds[0]
    for key in search.keys:
        lead = _lead(search, plan, table, cpu, search.base, plan.add(search.base, key), first)
        if isinstance(lead, list):
            found.missing += lead
        else:
            found.alone[key] = lead
    if found.missing:
        found.missing = unique(found.missing)
        return found
    for key in sorted(search.keys, key=lambda name: -found.alone[name]):
        if found.alone[key] <= -search.hopeless:
            continue
        leads: list[float] = []
        for seed in search.seeds:
            lead = _lead(search, plan, table, cpu, found.keys, plan.add(found.keys, key), seed)
            if isinstance(lead, list):
                found.missing = lead
                return found
            leads.append(lead)
            if seed == first and not -search.noise < lead < search.sure:
                break
        kept = sum(leads) / len(leads) > search.least
        found.decisions.append(Decision(key, found.keys, tuple(leads), kept))
        if kept:
            found.keys = plan.add(found.keys, key)
    return found


def _lead(
    search: Search, plan: Plan, table: Table, cpu: str, against: Sequence[str], keys: Sequence[str], seed: int
) -> float | list[Cell]:
    """The lead of one recipe over another in points, or the cells that are needed to know it."""
    pair = [search.cell(plan, against, seed), search.cell(plan, keys, seed)]
    rows = table.together(pair, cpu)
    return table.missing(pair, cpu) if rows is None else rows[1].mAP - rows[0].mAP
