"""The report and its figures, written where readers find them."""

from collections.abc import Iterable
from pathlib import Path

from experiments.mean import Mean
from experiments.modern_recipe import cost, pictures, report
from experiments.modern_recipe.plan import Plan
from experiments.modern_recipe.stages import Missing, Study, paired
from experiments.modern_recipe.table import Row, Table, median_minutes
from reid.figures import Point, accuracy_latency, save


def publish(plan: Plan, table: Table, results: Path, readme: Path) -> list[str]:
    """Draw what there are rows for, and write the README's tables; returns the names of the figures."""
    drawn = []
    if table.rows:
        study = Study(plan, table, table.rows[-1].cpu)
        drawn += _curve(study, results)
        drawn += _ladder(study, results)
        drawn += _cost(study, results)
    report.write(readme, report.markdown(plan, table, drawn))
    return drawn


def machines(rows: Iterable[Row]) -> str:
    """Where what is drawn was measured, in words."""
    return "; ".join(dict.fromkeys(f"{row.cpu}, {row.threads} threads" for row in rows))


def _curve(study: Study, results: Path) -> list[str]:
    curves: dict[str, list[pictures.Point]] = {"published recipe": [], "winner": []}
    drawn: list[Row] = []
    try:
        budgets = study.curve()
    except Missing:
        return []
    for budget in budgets:
        pairs = paired(study.table, *zip(*budget.pairs, strict=True))
        for points, rows in zip(curves.values(), zip(*pairs, strict=True), strict=False):
            points.append(pictures.Point(median_minutes(rows), Mean.of([row.mAP for row in rows])))
            drawn += rows
    if not curves["winner"]:
        return []
    save(pictures.curve_figure(dict(curves), machines(drawn), study.minutes()), results / "curve.png")
    return ["curve.png"]


def _ladder(study: Study, results: Path) -> list[str]:
    steps: dict[str, Mean] = {}
    drawn: list[Row] = []
    try:
        variants = study.series("ladder") if study.plan.sections.get("ladder") else []
    except Missing:
        return []
    for variant in variants:
        rows = [found[0] for cell in variant.cells if (found := study.table.together([cell], study.cpu))]
        if rows:
            steps[variant.name] = Mean.of([row.mAP for row in rows])
            drawn += rows
    if not steps:
        return []
    save(pictures.ladder_figure(steps, machines(drawn)), results / "ladder.png")
    return ["ladder.png"]


def _cost(study: Study, results: Path) -> list[str]:
    """mAP over latency; of the rows whose network `cost` has measured.

    They were trained for other minutes, which stand beside the names.
    """
    costs = {one.network: one for one in cost.read(results / "cost.csv")}
    found: dict[tuple[str, str], list[Row]] = {}
    for row in cost.shown(study.table.rows):
        network = cost.network_of(row, study.plan)
        if network in costs:
            found.setdefault((network, row.name), []).append(row)
    if not found:
        return []
    points = [
        Point(
            f"{costs[network].name}, {name}, {median_minutes(rows):.0f} min", costs[network].latency,
            Mean.of([row.mAP for row in rows]).value / 100, "Market train-half split",
        )
        for (network, name), rows in found.items()
    ]  # fmt: skip
    save(accuracy_latency(points, 1, next(iter(costs.values())).machine), results / "cost.png")
    return ["cost.png"]
