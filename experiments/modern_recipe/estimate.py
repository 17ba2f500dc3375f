"""How long what is left of the study will take at most, by the speeds that the plan names."""

from experiments.modern_recipe.plan import Cell, Plan
from experiments.modern_recipe.stages import SERIES, STAGES, Study
from experiments.modern_recipe.table import Table, unique


def estimate(plan: Plan, table: Table, cpu: str) -> str:
    """A line a stage with the cells that are left and their hours, and the sum; in words."""
    study = Study(plan, table, cpu, guess=True)
    known: set[Cell] = set()
    lines, total = [], 0.0
    for stage in STAGES:
        cells = [cell for cell in left(study, stage) if cell not in known]
        known |= {*cells}
        seconds = sum(map(study.seconds, cells))
        total += seconds
        lines.append(f"{stage:10} {len(cells):4} cells left, at most {seconds / 3600:5.1f} h")
    lines.append(f"{'in all':10} {len(known):4} cells left, at most {total / 3600:5.1f} h of two cores")
    lines.append(
        "A screen may need fewer: counted is that each key is put on the best so far with all its seeds. "
        "What a key adds to the seconds of an epoch is not counted."
    )
    return "\n".join(lines)


def left(study: Study, stage: str) -> list[Cell]:
    """The cells of a stage that are not done; those that depend on decisions as if every key were kept."""
    if stage == "screen":
        cells = _of_search(study, "screen")
    elif stage == "winner":
        section = study.plan.section("curve")
        cells = [*(_of_search(study, "large") if study.plan.sections.get("large") else ())]
        own = [(key.name,) for key in study.plan.keys.values() if key.own_speed]
        cells += [study.speed(keys, section["size"]) for keys in ((), *own, study.winner())]
        for minutes in study.plan.section("schedules")["minutes"]:
            cells += study.schedules(minutes)
        cells += _of_series(study, "melt")
        cells += [cell for budget in study.curve() for pair in budget.pairs for cell in pair]
    elif stage == "away":
        cells = [cell for pairs in study.away().values() for pair in pairs for cell in pair]
    else:
        assert stage in SERIES
        cells = _of_series(study, stage)
    return [cell for cell in _each(cells) if study.table.row(cell, study.cpu) is None]


def _of_series(study: Study, stage: str) -> list[Cell]:
    if not study.plan.sections.get(stage):
        return []
    return [cell for variant in study.series(stage) for cell in variant.cells]


def _of_search(study: Study, name: str) -> list[Cell]:
    """At most: each key alone, then each on the best so far with all seeds; none where it is complete."""
    if not study.walk(name).missing:
        return []
    search, plan = study.search(name), study.plan
    base = [search.cell(plan, search.base, seed) for seed in search.seeds]
    cells = [*base]
    keys = search.base
    for key in search.keys:  # the first of them alone is the first on the best so far
        cells.append(search.cell(plan, plan.add(search.base, key), search.seeds[0]))
        keys = plan.add(keys, key)
        cells += [search.cell(plan, keys, seed) for seed in search.seeds]
    return cells


def _each(cells: list[Cell]) -> list[Cell]:
    """Each cell once: two lines of the plan may be one while no key is known to be kept."""
    return unique(cells)
