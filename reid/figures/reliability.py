"""How far probabilities can be believed, drawn: what was predicted and what was observed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from reid.figures.style import BLUE, FAINT, MUTED, ORANGE, headline, new_figure, styled


@dataclass(frozen=True)
class ReliabilityPoints:
    """One way to get probabilities: for each bin of pairs its mean probability, the share that was observed
    with its 95 % interval, and the bin's share of all pairs; all from 0 to 1.
    """

    name: str
    predicted: Sequence[float]
    observed: Sequence[float]
    intervals: Sequence[tuple[float, float]]
    mass: Sequence[float]


@styled
def reliability_diagrams(
    diagrams: Sequence[ReliabilityPoints], *, note: str = "", title: str = "How far probabilities hold"
) -> Figure:
    """Draw them side by side, each with the diagonal of perfect probabilities and the shares of the pairs.

    Raises:
        ValueError: there is none, or one without a bin or with lists of several lengths.
    """
    for one in diagrams:
        lengths = {len(one.predicted), len(one.observed), len(one.intervals), len(one.mass)}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(f"{one.name}: lists of {sorted(lengths)} values; expected as many, at least one")
    if not diagrams:
        raise ValueError("there is no diagram to draw; expected at least one")
    figure = new_figure(height=5.0)
    places = figure.subplots(1, len(diagrams), sharey=True, squeeze=False)[0]
    for axes, one, colour in zip(places, diagrams, (ORANGE, *[BLUE] * len(diagrams)), strict=False):
        predicted, observed = np.array(one.predicted), np.array(one.observed)
        ends = np.array(one.intervals).reshape(-1, 2)
        axes.bar(predicted, one.mass, width=0.04, color=FAINT, edgecolor=MUTED, linewidth=0.6,
                 label="share of the pairs")  # fmt: skip
        axes.plot([0, 1], [0, 1], ":", color=MUTED, label="as predicted")
        errors = np.nan_to_num(np.maximum(np.stack([observed - ends[:, 0], ends[:, 1] - observed]), 0))
        axes.errorbar(predicted, observed, errors, fmt="o-", color=colour, capsize=3, label="observed")
        axes.set_title(one.name)
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(0, 1.03)
        axes.set_xlabel("Predicted probability")
    places[0].set_ylabel("Share that shows one person")
    handles, labels = places[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=3, title=note or None, alignment="left",
                  title_fontsize=9)  # fmt: skip
    headline(figure, title)
    return figure
