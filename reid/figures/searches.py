"""The pictures of a search: how it went, what each key does, and where two keys are good together.

Each takes the table of trials: one row a trial with the columns `trial`, the keys, the score (a fraction in
0..1; NaN: never judged) and `status`: FINISHED is a complete trial, PRUNED one whose score is its last.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reid.figures.style import (
    AMBER,
    BLUE,
    INK,
    MUTED,
    headline,
    log_scale,
    new_figure,
    styled,
    whole_number_axis,
)
from reid.figures.sweep_scales import COLOURS, CROSS, is_log, normalise

_BEST: dict[str, Any] = {"marker": "*", "markersize": 17, "color": AMBER, "markeredgecolor": INK,
                         "linestyle": "none", "label": "best", "zorder": 4}  # fmt: skip
_PRUNED: dict[str, Any] = {"marker": "o", "markersize": 5.5, "markerfacecolor": "white", "color": MUTED,
                           "linestyle": "none", "label": "pruned, its last score"}  # fmt: skip
_DONE: dict[str, Any] = {
    "marker": "o",
    "markersize": 6,
    "linestyle": "none",
    "color": BLUE,
    "label": "complete",
}
#: So many complete trials, not in one line, let a surface be drawn between them.
_ENOUGH = 8


@styled
def search_history(table: pd.DataFrame, score: str) -> Figure:
    """The score of each trial in the order of the trials, and the best of the complete ones so far.

    Raises:
        ValueError: no trial has a score.
    """
    done, pruned, failed = _parts(table, score)
    figure = new_figure(height=4.2)
    axes = figure.add_subplot()
    if len(done):
        best = done[score].cummax()
        axes.step(done["trial"], best, where="post", color=AMBER, label="best so far", zorder=1)
        axes.plot(done["trial"], done[score], **_DONE)
    _plot(axes, pruned["trial"], pruned[score], _PRUNED)
    if len(failed):
        floor = 100 * float(table[score].min())
        axes.plot(failed["trial"], [floor] * len(failed), "x", label="failed", **CROSS)
    _mark_best(axes, done, "trial", score)
    whole_number_axis(axes, float(table["trial"].min()), float(table["trial"].max()))
    axes.set_xlabel("trial")
    axes.set_ylabel(_label(score))
    axes.set_title(f"{len(table)} trials: {_named(score)}")
    figure.legend(loc="outside lower left", ncols=5)
    return figure


@styled
def search_slices(table: pd.DataFrame, keys: Sequence[str], score: str) -> Figure:
    """One panel a key: the score over its values, later trials darker.

    Raises:
        ValueError: no trial has a score, or no key is given.
    """
    if not keys:
        raise ValueError("no key is given; expected the searched keys")
    done, pruned, _ = _parts(table, score)
    columns = min(3, len(keys))
    rows = -(-len(keys) // columns)
    figure = new_figure(height=0.9 + 3.2 * rows)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for place, (axes, key) in enumerate(zip(panels.flat, keys, strict=False)):
        numeric = pd.api.types.is_numeric_dtype(table[key]) and not pd.api.types.is_bool_dtype(table[key])
        show = (lambda values: values) if numeric else (lambda values: values.astype(str))
        if numeric and is_log(table[key].to_numpy(dtype=float)):
            log_scale(axes, "x")
        _plot(axes, show(pruned[key]), pruned[score], _PRUNED)
        shades = 0.35 + 0.65 * (done["trial"] + 1) / (table["trial"].max() + 1)
        for value, height, shade in zip(show(done[key]), done[score], shades, strict=True):
            axes.plot([value], [height], **{**_DONE, "alpha": shade, "label": None})
        axes.plot([], [], **_DONE)
        best = done[done[score] == done[score].max()].head(1)
        _plot(axes, show(best[key]), best[score], _BEST)
        axes.set_xlabel(key)
        if place % columns == 0:
            axes.set_ylabel(_label(score))
    for axes in panels.flat[len(keys) :]:
        axes.set_visible(False)
    headline(figure, f"{_named(score)} by key (darker: later trials)")
    handles, labels = panels.flat[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower right", ncols=len(handles))
    return figure


@styled
def search_map(table: pd.DataFrame, x: str, y: str, score: str) -> Figure:
    """Two numeric keys: every trial at its values, coloured by its score; between enough of them a surface.

    Raises:
        ValueError: no trial has a score.
    """
    done, pruned, _ = _parts(table, score)
    figure = new_figure(height=5.2)
    axes = figure.add_subplot()
    logs = [is_log(table[key].to_numpy(dtype=float)) for key in (x, y)]
    colours = normalise(100 * table[score].to_numpy(dtype=float))
    at = np.column_stack(
        [np.log10(done[key]) if log else done[key] for key, log in zip((x, y), logs, strict=True)]
    ).astype(float)
    if len(np.unique(at, axis=0)) >= _ENOUGH and np.linalg.matrix_rank(at - at.mean(0)) == 2:
        # Repeated values would leave triangles without area.
        means = done.groupby([x, y], as_index=False)[score].mean()
        axes.tricontourf(
            means[x], means[y], means[score], levels=12, cmap=COLOURS, norm=colours, alpha=0.45, zorder=0
        )
    for rows, marker, size, label in (
        (pruned, "s", 34, "pruned, its last score"),
        (done, "o", 80, "complete"),
    ):
        if len(rows):
            points = axes.scatter(rows[x], rows[y], c=rows[score], cmap=COLOURS, norm=colours, marker=marker,
                                  s=size, edgecolors="white", linewidths=1, label=label)  # fmt: skip
    _mark_best(axes, done, x, score, y)
    axes.use_sticky_edges = False  # the surface would cut the outer trials in half
    for log, which in zip(logs, "xy", strict=True):
        if log:
            log_scale(axes, which)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(f"{_named(score)} over {x} and {y}")
    bar = figure.colorbar(points, ax=axes, pad=0.02, aspect=25)
    bar.outline.set_visible(False)
    bar.set_label(_label(score))
    figure.legend(loc="outside lower right", ncols=3)
    return figure


def _parts(table: pd.DataFrame, score: str) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The complete, the pruned and the failed trials, scores in percent.

    Raises:
        ValueError: no trial has a score.
    """
    if not table[score].notna().any():
        raise ValueError(f"no trial has a {score}; expected one that was judged")
    judged = table[table[score].notna()].assign(**{score: 100 * table[score].dropna()})
    done = judged[judged["status"] == "FINISHED"]
    return done, judged[judged["status"] == "PRUNED"], table[table["status"] == "FAILED"]


def _plot(axes: Axes, x: pd.Series, y: pd.Series, look: dict[str, Any]) -> None:
    if len(x):
        axes.plot(x, y, **look)


def _mark_best(axes: Axes, done: pd.DataFrame, x: str, score: str, y: str | None = None) -> None:
    best = done[done[score] == done[score].max()].head(1)
    _plot(axes, best[x], best[y or score], _BEST)


def _named(score: str) -> str:
    split, _, name = score.rpartition("/")
    return f"{name} on {split}" if split else name


def _label(score: str) -> str:
    return f"{_named(score)} (%)"
