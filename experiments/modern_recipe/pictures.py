"""The study's figures, drawn from rows alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from experiments.mean import Mean
from reid.figures.style import BLUE, INK, MUTED, ORANGE, SMALL, headline, new_figure, styled


@dataclass(frozen=True)
class Point:
    """A recipe at one budget: measured minutes of training, and mAP over the seeds in percent."""

    minutes: float
    mAP: Mean


@styled
def curve_figure(curves: dict[str, Sequence[Point]], machine: str, budgets: Sequence[float]) -> Figure:
    """mAP over minutes, a line a recipe, with 95 % intervals; the axis is marked at the budgets.

    Raises:
        ValueError: no point.
    """
    if not any(curves.values()):
        raise ValueError("no budget is measured; expected one at least")
    figure = new_figure(height=4.6)
    axes = figure.add_subplot()
    axes.set_xscale("log", base=2)
    for (name, points), colour in zip(curves.items(), (BLUE, ORANGE), strict=False):
        minutes = [point.minutes for point in points]
        means = [point.mAP.value for point in points]
        halves = [0.0 if point.mAP.half != point.mAP.half else point.mAP.half for point in points]
        axes.errorbar(minutes, means, halves, marker="o", capsize=3, color=colour, label=name)
    axes.set_xticks(budgets)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("minutes of training")
    axes.set_ylabel("mAP (%) on test")
    axes.legend(loc="lower right")
    headline(figure, "mAP against minutes of training")
    figure.supxlabel(machine, fontsize=SMALL, color=MUTED, x=0.011, ha="left")
    return figure


@styled
def ladder_figure(steps: dict[str, Mean], machine: str) -> Figure:
    """A line a step: its mean mAP with the 95 % interval, the first step on top.

    Raises:
        ValueError: no step.
    """
    if not steps:
        raise ValueError("no step is measured; expected one at least")
    figure = new_figure(height=1.4 + 0.36 * len(steps))
    axes = figure.add_subplot()
    for place, mean in enumerate(steps.values()):
        half = 0.0 if mean.half != mean.half else mean.half
        axes.errorbar(mean.value, place, xerr=half, marker="o", capsize=3, color=BLUE)
        axes.annotate(str(mean), (mean.value, place), xytext=(0, 7), textcoords="offset points",
                      ha="center", fontsize=SMALL, color=INK)  # fmt: skip
    axes.set_yticks(range(len(steps)), list(steps))
    axes.invert_yaxis()
    axes.margins(y=0.12)
    axes.set_xlabel("mAP (%)")
    headline(figure, "The ladder, step by step")
    figure.supxlabel(machine, fontsize=SMALL, color=MUTED, x=0.011, ha="left")
    return figure
