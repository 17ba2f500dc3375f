"""Who, or nobody, drawn: both error rates of an open-set search, and what they become in larger galleries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from reid.figures.style import BLUE, MUTED, ORANGE, PALETTE, headline, log_scale, new_figure, styled

Floats = npt.NDArray[np.floating]
Ends = tuple[float, float]


@dataclass(frozen=True)
class IdentificationPoint:
    """Where a threshold that was fixed beforehand lies on the curve of its name, with 95 % intervals."""

    name: str
    fpir: float
    fnir: float
    fpir_interval: Ends
    fnir_interval: Ends


@dataclass(frozen=True)
class GallerySizes:
    """Galleries of several sizes: the rates are fractions, NaN where one was not measured."""

    people: Sequence[int]
    fpir: Sequence[float]
    fpir_intervals: Sequence[Ends]
    modelled: Sequence[float]
    dir: Sequence[float]
    dir_intervals: Sequence[Ends]


@styled
def identification_curve(
    curves: Mapping[str, tuple[Floats, Floats]],
    points: Sequence[IdentificationPoint] = (),
    *,
    title: str = "Who, or nobody",
) -> Figure:
    """Draw FNIR over FPIR, both on logarithmic axes (a detection error trade-off), a curve a name.

    Raises:
        ValueError: there is no curve, or one whose two lengths differ.
    """
    if not curves or any(len(false) != len(missed) or not len(false) for false, missed in curves.values()):
        raise ValueError("expected curves of FPIR and FNIR, as many of both and at least one")
    figure = new_figure(height=5.4)
    axes = figure.add_subplot()
    smallest = min(float(false[false > 0].min()) for false, _ in curves.values() if (false > 0).any())
    lowest = 1.0
    named = {point.name: point for point in points}
    for (name, (false, missed)), colour in zip(curves.items(), PALETTE, strict=False):
        lowest = min(lowest, float(missed[missed > 0].min()) if (missed > 0).any() else 1.0)
        axes.step(false, np.maximum(missed, 1e-6), where="post", color=colour, label=name)
        if name not in named:
            continue
        point = named[name]
        at = max(point.fpir, smallest / 2), max(point.fnir, 1e-6)
        errors = [
            np.array([[max(centre - ends[0], 0)], [max(ends[1] - centre, 0)]])
            for centre, ends in zip(at, (point.fpir_interval, point.fnir_interval), strict=True)
        ]
        axes.errorbar([at[0]], [at[1]], yerr=errors[1], xerr=errors[0], fmt="o", color=colour, capsize=4,
                      label=f"{name}: threshold fixed on other people")  # fmt: skip
    log_scale(axes, "x")
    log_scale(axes, "y")
    axes.set_xlim(smallest / 2, 1.1)
    axes.set_ylim(lowest / 2, 1.1)
    axes.set_xlabel("FPIR: searches of strangers that find somebody")
    axes.set_ylabel("FNIR: searches of enrolled people not answered first")
    figure.legend(loc="outside lower left", ncols=2)
    headline(figure, title)
    return figure


@styled
def gallery_sizes(sizes: GallerySizes, *, wanted: float, title: str = "More people enrolled") -> Figure:
    """Draw FPIR, measured and modelled, and DIR at a wanted FPIR over the number of enrolled people.

    Raises:
        ValueError: there is no size, or the lists differ in length.
    """
    lengths = {len(values) for values in vars(sizes).values()}
    if len(lengths) != 1 or not sizes.people:
        raise ValueError(f"lists of {sorted(lengths)} values; expected as many of each, and at least one")
    figure = new_figure(height=4.6)
    left, right = figure.subplots(1, 2)
    for axes, values, intervals, colour, name in (
        (left, sizes.fpir, sizes.fpir_intervals, BLUE, "measured, threshold as it stands"),
        (right, sizes.dir, sizes.dir_intervals, ORANGE, f"DIR at FPIR {wanted:g}"),
    ):
        rates, ends = np.array(values), np.array(intervals).reshape(-1, 2)
        known = np.isfinite(rates)
        if known.any():
            errors = np.maximum(np.stack([rates - ends[:, 0], ends[:, 1] - rates]), 0)[:, known]
            axes.errorbar(np.array(sizes.people)[known], 100 * rates[known], 100 * errors, fmt="o-",
                          color=colour, capsize=4, label=name)  # fmt: skip
        log_scale(axes, "x")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda people, _: f"{people:g}"))
        axes.xaxis.set_minor_formatter(FuncFormatter(lambda people, _: ""))
        axes.set_xlabel("People enrolled")
    left.plot(sizes.people, 100 * np.array(sizes.modelled), "--", color=MUTED, label="modelled: 1 - (1 - p)ᴺ")
    left.set_ylabel("FPIR (%)")
    left.set_ylim(bottom=0)
    right.set_ylabel("DIR at rank 1 (%)")
    right.set_ylim(0, 101)
    figure.legend(loc="outside lower left", ncols=3)
    headline(figure, title)
    return figure
