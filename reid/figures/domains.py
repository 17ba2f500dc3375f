"""One model on several datasets: how far it falls where it was not trained."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from reid.figures.style import MUTED, PALETTE, headline, new_figure, styled


@styled
def domain_bars(
    scores: Mapping[str, Mapping[str, float]],
    own: str | None = None,
    *,
    title: str = "One model, many datasets",
) -> Figure:
    """Draw a group of bars for each dataset, a bar for each score.

    Args:
        scores: dataset -> score name (mAP, rank-1, …) -> its value in 0..1; the same names everywhere.
        own: the dataset that the model was trained on, drawn solid where the others are hatched.
        title: the figure's title.

    Raises:
        ValueError: there is nothing to draw, the names differ, or `own` is no dataset of it.
    """
    if not scores:
        raise ValueError("no score to draw; expected a mapping of dataset -> scores")
    names = list(next(iter(scores.values())))
    for dataset, values in scores.items():
        if list(values) != names:
            raise ValueError(f"{dataset} has the scores {list(values)}; expected {names}, as the first one")
    if own is not None and own not in scores:
        raise ValueError(f"own is {own!r}; expected one of {', '.join(scores)}")

    figure = new_figure(height=4.6)
    axes = figure.add_subplot()
    width = 0.8 / len(names)
    at = np.arange(len(scores))
    for i, name in enumerate(names):
        percent = [100 * values[name] for values in scores.values()]
        bars = axes.bar(
            at + (i - (len(names) - 1) / 2) * width, percent, 0.92 * width, color=PALETTE[i % len(PALETTE)]
        )
        for bar, dataset in zip(bars, scores, strict=True):
            if own is not None and dataset != own:
                bar.set(hatch="//", edgecolor="white")
        axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=9)
    axes.set_xticks(at, [f"{name}\n(trained here)" if name == own else name for name in scores])
    axes.grid(visible=False, axis="x")
    axes.set_xlim(-0.6, len(scores) - 0.4)
    axes.set_ylim(0, 108)
    axes.set_yticks(range(0, 101, 20))
    axes.set_xlabel("Judged on")
    axes.set_ylabel("Score (%)")
    handles = [Patch(color=PALETTE[i % len(PALETTE)], label=name) for i, name in enumerate(names)]
    if own is not None and len(scores) > 1:
        handles.append(Patch(facecolor=MUTED, hatch="//", edgecolor="white", label="not trained here"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    headline(figure, title)
    return figure
