"""What an adaptation without labels looked like, round by round."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reid.figures.style import BLUE, GREEN, ORANGE, SMALL, headline, new_figure, styled, whole_number_axis

#: Columns of each panel, with their names in the legend.
_CLUSTERS = {"clusters/count": "clusters"}
_SHARES = {
    "clusters/agreement": "agreement with the round before",
    "clusters/outliers": "crops in no cluster",
    "clusters/agreement_with_labels": "agreement with the labels",
}


@styled
def adaptation_rounds(
    rows: Sequence[Mapping[str, float]], people: int | None = None, title: str = "Adaptation"
) -> Figure:
    """Draw scores, numbers of clusters and their agreement, over the rounds.

    Args:
        rows: one a round, of which `round` is the number; 0 is the model before any training. The columns
            drawn are `<split>/mAP` and `<split>/rank-1` of any split, `clusters/count`, and as fractions
            `clusters/agreement`, `clusters/outliers` and `clusters/agreement_with_labels`. What is absent is
            left out, and so is a panel with nothing in it.
        people: how many there are by the labels, drawn as a line beside the clusters; None where nobody
            knows.
        title: the figure's title.

    Raises:
        ValueError: no row holds a number that this function draws.
    """
    scores = sorted({name for row in rows for name in row if name.endswith(("/mAP", "/rank-1"))})
    named = {name: name.rpartition("/")[2] for name in scores if name.count("/") == 1}
    panels = [
        (
            "Scores, judged by labels",
            "Score (%)",
            dict(sorted(named.items(), key=lambda item: item[1])),
            True,
        ),
        ("Clusters", "Number", _CLUSTERS, False),
        ("Agreement and outliers", "Share (%)", _SHARES, True),
    ]
    shown = [panel for panel in panels if any(name in row for row in rows for name in panel[2])]
    if not shown:
        raise ValueError(
            "no round holds a score or a number of clusters; expected rows as reid.adapt writes them"
        )
    figure = new_figure(height=3.4)
    headline(figure, title)
    last = max(row["round"] for row in rows)
    for place, (name, label, columns, percent) in enumerate(shown, start=1):
        axes = figure.add_subplot(1, len(shown), place)
        _draw(axes, rows, columns, percent)
        if columns is _CLUSTERS:
            if people is not None:
                axes.axhline(people, color="0.4", linestyle="--", label=f"people, by the labels: {people:,}")
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("Round")
        axes.set_ylabel(label)
        whole_number_axis(axes, 0, last)
        handles = len(axes.get_legend_handles_labels()[0])
        axes.set_title(name, pad=6 + 13 * handles)
        axes.legend(
            loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=1, fontsize=SMALL, handlelength=1.2,
            handletextpad=0.5, borderpad=0, borderaxespad=0.3,
        )  # fmt: skip
    return figure


def _draw(axes: Axes, rows: Sequence[Mapping[str, float]], columns: Mapping[str, str], percent: bool) -> None:
    for colour, (column, label) in zip((BLUE, ORANGE, GREEN, "0.3"), columns.items(), strict=False):
        points = [(row["round"], row[column]) for row in rows if column in row]
        if not points:
            continue
        x, y = np.asarray(points, dtype=np.float64).T
        axes.plot(x, y * (100 if percent else 1), color=colour, marker="o", markersize=3.5, label=label)
    if percent:
        axes.set_ylim(-2, 102)
