"""Outcomes for people: a table on the terminal, a picture, and the Markdown table of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.benchmark.outcome import Case, Goal, Outcome
from reid.figures.style import BLUE, GREEN, INK, MUTED, ORANGE, SMALL, headline, new_figure, styled
from reid.terminal import Table

QUICK = "QUICK: small sizes, not judged"
NONE = "\N{EN DASH}"
VERDICT = {True: "met", False: "missed", None: NONE}


def machine_line(machine: Mapping[str, Any]) -> str:
    """The machine in one line."""
    gpu = "" if machine["gpu"] == "none" else f", {machine['gpu']}"
    return (
        f"{machine['cpu']}{gpu}, {machine['cores']} cores, {machine['threads']} threads, "
        f"{machine['memory_gb']:.0f} GB; torch {machine['torch']}; {machine['gflops']:,.0f} GFLOP/s, "
        f"{machine['gigabytes_per_second']:.1f} GB/s"
    )


def terminal_table(outcome: Outcome) -> Table:
    """A row for each number that is judged, then the times with the physical limit."""
    title = f"{outcome.benchmark}: {outcome.question}" + (f" ({QUICK})" if outcome.quick else "")
    table = Table(title=title, title_justify="left", caption=machine_line(outcome.machine))
    for name in ("", "median", "lowest to highest", "goal", " "):
        table.add_column(name, justify="left" if not name.strip() else "right", no_wrap=name == "median")
    for case in outcome.cases:
        table.add_row(case.name, style="bold")
        for goal in case.goals:
            table.add_row(goal.what, goal.shown(goal.value), _spread(goal), *_judged(goal, outcome))
        for name, median in case.median_seconds.items():
            times = case.seconds[name]
            table.add_row(
                f"time: {name}", _seconds(median), f"{_seconds(min(times))} to {_seconds(max(times))}"
            )
        if case.limit_seconds is not None:
            table.add_row(f"limit: {case.limit}", _seconds(case.limit_seconds))
        for name, mib in case.peak_mib.items():
            table.add_row(f"peak: {name}", f"{mib:,.0f} MiB")
        for name, fact in case.facts.items():
            table.add_row(name, f"{fact:,.4g}" if isinstance(fact, float) else str(fact))
        table.add_section()
    return table


@styled
def picture(outcome: Outcome) -> Figure:
    """One panel a kind of goal, one bar a case with the range of its repeats, and the goal as a line."""
    kinds: dict[str, list[tuple[Case, Goal]]] = {}
    for case in outcome.cases:
        for goal in case.goals:
            kinds.setdefault(goal.what, []).append((case, goal))
    rows = [len(cases) for cases in kinds.values()]
    figure = new_figure(height=1.15 + sum(0.62 + 0.34 * count for count in rows))
    panels = figure.subplots(len(kinds), 1, squeeze=False, height_ratios=[0.6 + count for count in rows])
    for axes, (what, cases) in zip(panels[:, 0], kinds.items(), strict=True):
        _panel(axes, what, cases, outcome.quick)
    headline(figure, outcome.benchmark + (f" ({QUICK})" if outcome.quick else ""))
    code = f"{outcome.machine['date']}, code {outcome.machine['git_sha'][:10]}"
    figure.supxlabel(
        f"{outcome.question}\n{machine_line(outcome.machine)}\n{code}",
        fontsize=SMALL, color=MUTED, x=0.011, ha="left",
    )  # fmt: skip
    return figure


def markdown_table(outcomes: Mapping[str, Outcome | None]) -> str:
    """All benchmarks, for the README; one that was not run has dashes."""
    lines = ["| benchmark | size | what | measured | goal | |", "|---|---|---|---|---|---|"]
    for name, outcome in outcomes.items():
        if outcome is None:
            lines.append(f"| `{name}` {4 * f'| {NONE} '}| not run |")
            continue
        for case in outcome.cases:
            for goal in case.goals:
                measured = f"**{goal.shown(goal.value)}**" if goal.met else goal.shown(goal.value)
                cells = (f"`{name}`", case.name, goal.what, measured, *_judged(goal, outcome))
                lines.append(f"| {' | '.join(cells)} |")
    machines: dict[str, list[str]] = {}
    for name, outcome in outcomes.items():
        if outcome is not None:
            code = outcome.machine["git_sha"][:10] + (" and changes" if outcome.machine["git_dirty"] else "")
            described = f"{machine_line(outcome.machine)}; {outcome.machine['date'][:10]}, code {code}"
            machines.setdefault(described, []).append(f"`{name}`")
    lines.append("")
    lines += [f"{', '.join(names)}: {machine}." for machine, names in machines.items()]
    return "\n".join(lines) + "\n"


def _panel(axes: Axes, what: str, cases: Sequence[tuple[Case, Goal]], quick: bool) -> None:
    goals = [goal for _, goal in cases]
    places = range(len(goals))
    colours = [BLUE if quick or goal.met is None else GREEN if goal.met else ORANGE for goal in goals]
    axes.barh(places, [goal.value for goal in goals], height=0.62, color=colours)
    for place, goal in zip(places, goals, strict=True):
        if goal.lowest is not None and goal.highest is not None:
            axes.plot([goal.lowest, goal.highest], [place, place], color=INK, linewidth=1.2)
        # Beside the panel, where no bar, range or goal runs through it.
        axes.annotate(
            f"{goal.shown(goal.value)}" + ("" if quick or goal.met is None else f", {VERDICT[goal.met]}"),
            (1, place), xycoords=axes.get_yaxis_transform(), xytext=(5, 0), textcoords="offset points",
            va="center", fontsize=9, color=INK,
        )  # fmt: skip
    bounds = {goal.bound for goal in goals if goal.bound is not None}
    for bound in bounds:
        axes.axvline(bound, color=INK, linestyle="--", linewidth=1.4)
    bounds_text = ", ".join(f"{goals[0].sense} {goals[0].shown(bound)}" for bound in sorted(bounds))
    axes.set_title(f"{what}   (goal {bounds_text}, dashed)" if bounds_text else what, fontsize=10)
    axes.set_yticks(places, [case.name for case, _ in cases])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    largest = max([*bounds, *(max(goal.value, goal.highest or 0) for goal in goals)])
    axes.set_xlim(0, 1.08 * largest if largest > 0 else 1)


def _judged(goal: Goal, outcome: Outcome) -> tuple[str, str]:
    """The goal, and whether it is met; small sizes are not judged."""
    if goal.bound is None:
        return NONE, ""
    return f"{goal.sense} {goal.shown(goal.bound)}", "not judged" if outcome.quick else VERDICT[goal.met]


def _spread(goal: Goal) -> str:
    if goal.lowest is None or goal.highest is None:
        return ""
    return f"{goal.shown(goal.lowest)} to {goal.shown(goal.highest)}"


def _seconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.3g} ms" if seconds < 1 else f"{seconds:,.2f} s"
