"""Same person or another, drawn: hardest pairs by batch, distances of all pairs, the ROC."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from reid.figures.style import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    headline,
    log_scale,
    new_figure,
    styled,
    whole_number_axis,
)

Floats = npt.NDArray[np.floating]
Counts = npt.NDArray[np.integer]

# Pairs of quantiles, outermost first: the lines of TensorBoard's distributions.
_BANDS = ((0.0, 1.0, 0.14), (0.07, 0.93, 0.22), (0.16, 0.84, 0.32), (0.31, 0.69, 0.42))
_HISTOGRAM_BINS = 110


@dataclass(frozen=True)
class Rate:
    """A point of the ROC with its name and, where known, the 95 % interval of its TAR, in 0..1.

    The one that a threshold was `chosen` for is ringed.
    """

    name: str
    far: float
    tar: float
    tar_interval: tuple[float, float] | None = None
    chosen: bool = False


@styled
def hardest_bands(
    positive: Floats,
    negative: Floats,
    *,
    distance_label: str = "Euclidean distance",
    published: Mapping[str, tuple[float, float]] | None = None,
    title: str = "Hardest positive and hardest negative of each anchor",
) -> Figure:
    """Draw the hardest distances of each anchor, batch by batch, as bands of quantiles around the median.

    Args:
        positive, negative: (batches, anchors) distances; NaN where an anchor has none. A batch without any
            is left out.
        distance_label: what the distances are.
        published: ranges of other work to mark beside the axes, label -> (low, high).
        title: the figure's title.

    Raises:
        ValueError: the shapes differ, or there is nothing to draw.
    """
    if positive.shape != negative.shape or positive.ndim != 2:
        raise ValueError(
            f"hardest positives have shape {positive.shape}, negatives {negative.shape}; expected "
            "(batches, anchors) of both"
        )
    if not (np.isfinite(positive).any() and np.isfinite(negative).any()):
        raise ValueError("no anchor has both a positive and a negative; expected batches of several people")
    figure = new_figure(height=4.8)
    axes, side = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
    steps = np.arange(1, len(positive) + 1)
    kinds = ((positive, BLUE, "hardest positive"), (negative, ORANGE, "hardest negative"))
    for values, colour, label in kinds:
        seen = np.isfinite(values).any(axis=1)
        at, rows = steps[seen], values[seen]
        for low, high, alpha in _BANDS:
            bottom, top = np.nanquantile(rows, [low, high], axis=1)
            axes.fill_between(at, bottom, top, color=colour, alpha=alpha, linewidth=0)
        axes.plot(at, np.nanmedian(rows, axis=1), color=colour, label=f"{label} (median, quantiles)")
        known = values[np.isfinite(values)]
        side.hist(known, bins=40, orientation="horizontal", color=colour, alpha=0.55, density=True)
    whole_number_axis(axes, 1, len(steps))
    axes.set_xlabel("Batch")
    axes.set_ylabel(distance_label)
    side.set_xlabel("Density, all batches")
    side.set_xticks([])
    for colour, (label, (low, high)) in zip((BLUE, ORANGE), (published or {}).items(), strict=False):
        x = side.get_xlim()[1] * (0.88 if colour == BLUE else 0.97)
        side.plot([x, x], [low, high], color=colour, linewidth=3, solid_capstyle="butt")
        axes.plot([], [], color=colour, linewidth=3, label=f"{label}: about {low:g} to {high:g} (bar)")
    figure.legend(loc="outside lower left", ncols=2)
    headline(figure, title)
    return figure


@styled
def pair_distances(
    thresholds: Floats,
    genuine: Counts,
    impostor: Counts,
    threshold: float,
    *,
    threshold_label: str = "threshold",
    distance_label: str = "Euclidean distance",
    title: str = "Distances of all pairs",
) -> Figure:
    """Draw the two distributions of distance with the threshold, and below them both error rates over it.

    Args:
        thresholds: (T,), rising.
        genuine, impostor: (T,), how many pairs lie at or below each.
        threshold: where the line is drawn.
        threshold_label: what stands beside it.
        distance_label: what the distances are.
        title: the figure's title.

    Raises:
        ValueError: a kind has no pair, or the lengths differ.
    """
    if not len(thresholds) == len(genuine) == len(impostor):
        raise ValueError(
            f"{len(thresholds)} thresholds for {len(genuine)} and {len(impostor)} counts; expected as many"
        )
    if genuine[-1] == 0 or impostor[-1] == 0:
        raise ValueError("no genuine or no impostor pair to draw; expected at least one of each")
    shares = [np.asarray(count, dtype=np.float64) / count[-1] for count in (genuine, impostor)]
    first = min(int(np.argmax(share > 0)) for share in shares)
    last = max(int(np.argmax(share >= 1)) for share in shares)
    edges = np.linspace(thresholds[max(first - 1, 0)], thresholds[last], _HISTOGRAM_BINS + 1)

    figure = new_figure(height=6.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    names = (f"genuine: one person, {genuine[-1]:,}", f"impostor: two people, {impostor[-1]:,}")
    for share, colour, name in zip(shares, (BLUE, ORANGE), names, strict=True):
        density = np.diff(np.interp(edges, thresholds, share)) / np.diff(edges)
        upper.stairs(density, edges, fill=True, color=colour, alpha=0.35)
        upper.stairs(density, edges, color=colour, linewidth=1.5, label=name)
    upper.set_ylabel("Density")
    lower.plot(thresholds, shares[1], color=ORANGE, label="FAR: impostors accepted")
    lower.plot(thresholds, 1 - shares[0], color=BLUE, label="FRR: genuine rejected")
    log_scale(lower, "y")
    lower.set_ylim(max(1e-6, 0.5 / int(impostor[-1])), 1.3)
    lower.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{100 * rate:g} %"))
    lower.set_xlim(edges[0], edges[-1])
    lower.set_xlabel(f"{distance_label} (at most the threshold: same person)")
    lower.set_ylabel("Error rate")
    for axes in (upper, lower):
        axes.axvline(threshold, color=INK, linewidth=1.4, linestyle="--")
    handles, labels = zip(*(axes.get_legend_handles_labels() for axes in (upper, lower)), strict=True)
    figure.legend([*handles[0], *handles[1]], [*labels[0], *labels[1]], loc="outside lower left", ncols=2)
    _above(upper, threshold, f"{threshold_label}\n{threshold:.4f}")
    headline(figure, title)
    return figure


def _above(axes: Axes, x: float, text: str) -> None:
    """Write above a vertical line at `x`, outside the axes: to its right, or left where that has no room."""
    low, high = axes.get_xlim()
    right = (x - low) / (high - low) < 0.72
    axes.annotate(
        text, (x, 1), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
        ha="left" if right else "right", va="bottom", fontsize=9,
    )  # fmt: skip


@styled
def verification_roc(
    far: Floats,
    tar: Floats,
    rates: Sequence[Rate],
    *,
    impostor_pairs: int,
    legend_title: str = "",
    note: str = "",
    title: str = "Receiver operating characteristic (ROC)",
) -> Figure:
    """Draw TAR over FAR, FAR on a logarithmic axis, with named points and their intervals.

    Args:
        far, tar: (T,) the curve, from the point that accepts nothing on.
        rates: the points that are named, those without a value (NaN) left out.
        impostor_pairs: how many there are: the curve begins at one of them accepted.
        legend_title: stands above the names, such as the EER; the legend lies below the axes.
        note: stands below that.
        title: the figure's title.

    Raises:
        ValueError: the curve's two lengths differ or it is empty.
    """
    if len(far) != len(tar) or len(far) == 0:
        raise ValueError(f"FAR has {len(far)} points, TAR {len(tar)}; expected as many, and at least one")
    figure = new_figure(height=6.0)
    axes = figure.add_subplot()
    smallest = 0.5 / impostor_pairs
    drawn = far >= smallest
    axes.step(far[drawn], 100 * tar[drawn], where="post", color=BLUE)
    even = np.geomspace(smallest, 1, 400)
    axes.plot(even, 100 * (1 - even), color=MUTED, linewidth=1, linestyle=":", label="FAR = FRR")
    colours = (GREEN, ORANGE, PURPLE, MUTED, INK)
    for rate, colour in zip(rates, colours, strict=False):
        if not np.isfinite(rate.tar):
            continue
        label = f"{rate.name}{', chosen' if rate.chosen else ''}: TAR {100 * rate.tar:.1f} %"
        error: Floats | None = None
        if rate.tar_interval is not None:
            low, high = rate.tar_interval
            label += f" [{100 * low:.1f}, {100 * high:.1f}]"
            error = 100 * np.array([[max(rate.tar - low, 0)], [max(high - rate.tar, 0)]])
        axes.errorbar(
            [max(rate.far, smallest)], [100 * rate.tar], error, fmt="o", color=colour,
            capsize=4, label=label, zorder=3,
        )  # fmt: skip
        if rate.chosen:
            axes.plot(
                [max(rate.far, smallest)], [100 * rate.tar], "o", markersize=12, markerfacecolor="none",
                markeredgecolor=INK, markeredgewidth=1.6, zorder=4,
            )  # fmt: skip
    log_scale(axes, "x")
    axes.set_xlim(smallest, 1.05)
    axes.set_ylim(0, 101)
    axes.set_xlabel("False accept rate (FAR): impostor pairs called the same person")
    axes.set_ylabel("True accept rate (TAR, %)")
    heading = "\n".join(text for text in (legend_title, note) if text)
    figure.legend(loc="outside lower left", ncols=2, title=heading, title_fontsize=9, alignment="left")
    headline(figure, title)
    return figure
