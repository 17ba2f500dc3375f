"""An evaluation looked at more closely: error against rejection, and groups beside the rest."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from reid.figures.style import (
    BLUE,
    INK,
    LINE_STYLES,
    MUTED,
    PALETTE,
    SMALL,
    headline,
    new_figure,
    styled,
)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RejectionCurve:
    """What is left under one score, (S,) fractions each, with the ends of its intervals (NaN: not known)."""

    name: str
    left: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class GroupBar:
    """A group's difference from the rest in points, with its interval.

    `value` is its own score in percent; `remains`: the difference stays after a correction for many
    comparisons.
    """

    name: str
    value: float
    difference: float
    low: float
    high: float
    remains: bool


@styled
def rejection_curves(
    shares: Floats,
    curves: Sequence[RejectionCurve],
    random: float,
    oracle: Floats,
    *,
    score: str = "mAP",
    title: str | None = None,
) -> Figure:
    """Draw what accuracy is left over the share of queries that is set aside, with bands for the intervals.

    Args:
        shares: (S,) from 0 to below 1.
        curves: one or more scores of quality.
        random: what is left on average where chance sets aside, a fraction.
        oracle: (S,) what is left where the accuracy itself says which are the worst.
        score: what was measured.

    Raises:
        ValueError: there is no curve, or one has another length than the shares.
    """
    if not curves or any(len(curve.left) != len(shares) for curve in curves):
        raise ValueError(f"expected one curve or more of {len(shares)} points each")
    figure = new_figure(height=4.6 + 0.2 * len(curves))
    axes = figure.add_subplot()
    axes.plot(100 * shares, 100 * oracle, color=MUTED, linestyle=":", label="oracle: the accuracy itself")
    axes.axhline(100 * random, color=MUTED, linestyle="--", linewidth=1.2, label="chance")
    for number, curve in enumerate(curves):
        colour = PALETTE[number % len(PALETTE)]
        style = LINE_STYLES[number // len(PALETTE) % len(LINE_STYLES)]
        axes.plot(100 * shares, 100 * curve.left, color=colour, linestyle=style, label=curve.name)
        if number == 0:  # the bands of all would hide each other
            axes.fill_between(
                100 * shares, 100 * curve.low, 100 * curve.high, color=colour, alpha=0.15, linewidth=0
            )
    ends = [random, float(oracle.max())]
    ends += [float(end) for curve in curves for end in (*curve.left, *curve.low, *curve.high)]
    low, high = (100 * end for end in (np.nanmin(ends), np.nanmax(ends)))
    axes.set_ylim(max(0.0, low - 0.05 * (high - low) - 0.5), min(100.0, high) + 0.05 * (high - low) + 0.5)
    axes.set_xlim(0, 100 * float(shares[-1]))
    axes.set_xlabel("Queries set aside, the worst first (%)")
    axes.set_ylabel(f"{score} of the queries that stay (%)")
    note = "Band: 95 % interval of the first score, people resampled. Gain: 0 is chance, 1 the oracle"
    handles, names = axes.get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower left", ncols=2, title=note, alignment="left",
        title_fontsize=SMALL,
    )  # fmt: skip
    headline(figure, title or f"{score} against rejection")
    return figure


@styled
def group_differences(bars: Sequence[GroupBar], *, score: str, title: str | None = None) -> Figure:
    """Draw each group's difference from the rest, in the order given.

    Blue: the difference remains after the correction for many comparisons. Grey: it does not.

    Raises:
        ValueError: there is no group.
    """
    if not bars:
        raise ValueError("no group to draw; expected one or more")
    ends = [end for bar in bars for end in (bar.low, bar.high) if np.isfinite(end)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    pad = max(0.06 * (high - low), 0.2)
    right = high + pad
    figure = new_figure(height=1.7 + 0.36 * len(bars))
    axes = figure.add_subplot()
    axes.axvline(0, color=INK, linewidth=1.2)
    for y, bar in enumerate(bars):
        known = np.isfinite(bar.low)
        colour = BLUE if bar.remains else MUTED
        if known:
            reach = [[bar.difference - bar.low], [bar.high - bar.difference]]
            axes.errorbar(bar.difference, y, xerr=reach, fmt="o", color=colour, markersize=7, capsize=3)
        words = f"{bar.difference:+.1f} [{bar.low:+.1f}, {bar.high:+.1f}]" if known else "too few people"
        axes.text(right, y, f"{bar.value:.1f} %: {words}", va="center", fontsize=SMALL + 1, color=colour)
    axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(low - pad, right + 0.6 * (right - low + pad))  # room for the numbers
    axes.set_xticks([tick for tick in axes.get_xticks() if low - pad <= tick <= high + pad])
    axes.set_xlabel(f"{score} less that of the rest (points), 95 % interval")
    axes.grid(visible=False, axis="y")
    note = "Blue: the difference remains after Holm's correction for many comparisons."
    figure.supxlabel(note, fontsize=SMALL, color=MUTED, x=0.011, ha="left")
    headline(figure, title or f"{score} by group")
    return figure
