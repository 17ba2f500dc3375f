"""Choices of one key against one of them: by how much each is better, and whether that is noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from reid.figures.style import BLUE, INK, MUTED, ONE_SEED, SMALL, WRONG, headline, new_figure, styled
from reid.figures.sweep_scales import CROSS


@dataclass(frozen=True)
class Against:
    """A choice: its mean score and its difference from the reference, in percent, with the interval's ends.

    `score` is NaN where no run finished; `low` and `high` are NaN where the interval is not known.
    """

    choice: str
    score: float
    value: float
    low: float
    high: float


@styled
def difference_figure(
    rows: Sequence[Against],
    reference: tuple[str, float],
    key: str,
    *,
    score: str = "mAP",
    title: str | None = None,
    one_seed: bool = False,
) -> Figure:
    """Draw the difference of each choice from the reference, with its interval, best on top.

    Blue: the interval leaves out zero. Grey: it does not. Red cross: no run finished.

    Args:
        rows: the choices without the reference.
        reference: its name and its score in percent.
        key: what is chosen, for the axis.
        score: what was measured, for the axis.
        title: by default "`score` less that of <reference>".
        one_seed: say below that each choice ran once, so that the intervals know no spread of the seeds.

    Raises:
        ValueError: there is no choice to draw.
    """
    if not rows:
        raise ValueError(f"nothing to compare with {reference[0]}; expected at least one other choice")
    order = sorted(rows, key=lambda row: (np.isnan(row.score), -row.value))
    ends = [end for row in rows for end in (row.low, row.high, row.value) if np.isfinite(end)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    pad = max(0.06 * (high - low), 0.2)
    figure = new_figure(height=1.9 + 0.42 * (len(order) + 1))
    axes = figure.add_subplot()
    axes.axvline(0, color=INK, linewidth=1.2)
    axes.plot([0], [-1], "D", color=INK, markersize=7)
    right = high + pad
    axes.text(right, -1, f"{score} {reference[1]:.1f} %", va="center", fontsize=SMALL + 1, color=INK)
    for y, row in enumerate(order):
        if np.isnan(row.score):
            axes.plot([0], [y], "x", **CROSS)
            axes.text(right, y, "unfinished", va="center", fontsize=SMALL + 1, color=WRONG)
            continue
        known = np.isfinite(row.low)
        colour = BLUE if known and (row.low > 0 or row.high < 0) else MUTED
        reach = [[row.value - row.low], [row.high - row.value]] if known else None
        axes.errorbar(row.value, y, xerr=reach, fmt="o", color=colour, markersize=8, capsize=4)
        interval = f" [{row.low:+.1f}, {row.high:+.1f}]" if known else ", interval not known"
        axes.text(
            right, y, f"{score} {row.score:.1f} %: {row.value:+.1f}{interval}", va="center",
            fontsize=SMALL + 1, color=colour,
        )  # fmt: skip
    axes.set_yticks(range(-1, len(order)), [f"{reference[0]} (reference)", *(row.choice for row in order)])
    axes.set_ylim(len(order) - 0.4, -1.6)
    axes.set_xlim(low - pad, right + 0.55 * (right - low + pad))  # room for the numbers
    axes.set_xticks([tick for tick in axes.get_xticks() if low - pad <= tick <= high + pad])
    axes.set_xlabel(f"Difference in {score} (points), 95 % interval")
    axes.set_ylabel(key)
    axes.grid(visible=False, axis="y")
    if one_seed:
        figure.supxlabel(ONE_SEED, fontsize=SMALL, color=MUTED, x=0.011, ha="left")
    headline(figure, title or f"{score} less that of {reference[0]}")
    return figure
