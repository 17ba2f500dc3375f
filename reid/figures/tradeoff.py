"""Accuracy against latency: which network is worth its time."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from reid.figures.style import INK, MUTED, PALETTE, SMALL, headline, new_figure, styled

_MARKERS = "osD^vP"


@dataclass(frozen=True)
class Point:
    """A network as the picture shows it.

    Attributes:
        name: what stands beside it.
        latency: in seconds.
        mAP: a fraction.
        data: what it was judged on: scores of different data do not compare, and have different colours.
    """

    name: str
    latency: float
    mAP: float
    data: str


@styled
def accuracy_latency(points: Sequence[Point], batch: int, machine: str) -> Figure:
    """mAP over the latency of a batch, with a line through those that no other beats in both, for each data.

    Raises:
        ValueError: no point.
    """
    if not points:
        raise ValueError("no network has a score; expected one at least")
    figure = new_figure(height=5.0)
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    for number, data in enumerate(dict.fromkeys(point.data for point in points)):
        colour, ours = PALETTE[number % len(PALETTE)], [point for point in points if point.data == data]
        best = unbeaten(ours)
        axes.step([1000 * point.latency for point in best], [100 * point.mAP for point in best],
                  where="post", color=colour, alpha=0.45, zorder=1)  # fmt: skip
        axes.plot([1000 * point.latency for point in ours], [100 * point.mAP for point in ours],
                  _MARKERS[number % len(_MARKERS)], color=colour, markersize=8, markeredgecolor="white",
                  linestyle="none", label=data)  # fmt: skip
        named = {point.name: point for point in sorted(ours, key=lambda point: point.mAP)}
        for point in named.values():  # runs that differ in their seed have one name: at the best of them
            axes.annotate(point.name, (1000 * point.latency, 100 * point.mAP), xytext=(7, 6),
                          textcoords="offset points", fontsize=SMALL, color=INK)  # fmt: skip
    axes.margins(x=0.25, y=0.15)
    axes.set_xlabel(f"milliseconds for {'one image' if batch == 1 else f'{batch} images'}")
    axes.set_ylabel("mAP (%)")
    headline(figure, "Accuracy against latency")
    figure.legend(loc="outside lower left", ncols=3, title="judged on", alignment="left")
    figure.text(0.99, 0.012, machine, ha="right", fontsize=SMALL, color=MUTED)
    return figure


def unbeaten(points: Sequence[Point]) -> list[Point]:
    """The points that none beats in both, from the fastest to the slowest."""
    found: list[Point] = []
    for point in sorted(points, key=lambda point: (point.latency, -point.mAP)):
        if not found or point.mAP > found[-1].mAP:
            found.append(point)
    return found
