"""The chart of a sweep over three keys or more: parallel coordinates."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from reid.figures.style import INK, SMALL, WRONG
from reid.figures.sweep_scales import COLOURS, CROSS, FEW, distinct_values, is_log, named, normalise


def draw_parallel(axes: Axes, runs: pd.DataFrame, keys: Sequence[str], score_label: str) -> None:
    """Three keys or more: an upright axis for each key and for the score, and a line for each run.

    Runs without a score are dashed and end in a cross below; the best run is drawn last and widest.
    """
    colours = normalise(runs["score"].to_numpy(dtype=np.float64))
    heights = np.column_stack(
        [
            *(_draw_upright(axes, x, runs[key]) for x, key in enumerate(keys)),
            _draw_score_upright(axes, len(keys), runs["score"], colours),
        ]
    )
    order = runs["score"].to_numpy().argsort(kind="stable")  # NaN last
    done = int(runs["score"].notna().sum())
    for place, run in enumerate([*order[done:], *order[:done]]):
        score = float(runs["score"].iloc[run])
        failed, best = np.isnan(score), place == len(runs) - 1
        axes.add_patch(
            PathPatch(
                _smooth(heights[run]), fill=False, linestyle="--" if failed else "-",
                edgecolor=WRONG if failed else COLOURS(colours(score)), linewidth=4 if best else 1.8,
            )
        )  # fmt: skip
        if failed:
            axes.plot([len(keys)], [heights[run, -1]], "x", **CROSS)
    axes.set_xticks(range(len(keys) + 1), [*keys, score_label])
    axes.tick_params(axis="x", length=0, labelsize=10, labelcolor=INK)
    axes.set_yticks([])
    axes.set_xlim(-0.15, len(keys) + 0.15)
    axes.set_ylim(-0.04, 1.06)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    failures = len(runs) - done
    handles = [Line2D([], [], color=COLOURS(0.6), linewidth=1.8, label=f"{done} finished (widest: the best)")]
    if failures:
        handles.append(
            Line2D(
                [], [], color=WRONG, linestyle="--", marker="x", markersize=8, label=f"{failures} unfinished"
            )
        )
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.09), ncols=2)


def _draw_upright(axes: Axes, x: int, column: pd.Series) -> npt.NDArray[np.float64]:
    """Draw the axis of one key at `x`, and return the height (0..1) at which each run crosses it."""
    values = distinct_values(column)
    if len(values) <= FEW or not pd.api.types.is_numeric_dtype(column):
        spots = [0.5] if len(values) == 1 else np.linspace(0, 1, len(values)).tolist()
        _label_upright(axes, x, [named(value) for value in values], spots)
        return column.map(dict(zip(values, spots, strict=True))).to_numpy(dtype=np.float64)
    numbers, log = column.to_numpy(dtype=np.float64), is_log(values)
    if log:
        numbers = np.log10(numbers)
    low, high = float(numbers.min()), float(numbers.max())
    marks = np.linspace(low, high, 5).tolist()
    _label_upright(axes, x, [f"{10**m if log else m:.2g}" for m in marks], [0, 0.25, 0.5, 0.75, 1])
    return (numbers - low) / (high - low)


def _draw_score_upright(axes: Axes, x: int, scores: pd.Series, colours: Normalize) -> npt.NDArray[np.float64]:
    """Draw the axis of the score at `x`, failed runs at its foot, and return the height of each run."""
    foot = 0.14 if scores.isna().any() else 0.0
    low, high = float(colours.vmin or 0.0), float(colours.vmax or 0.0)
    if scores.notna().any():
        texts = [f"{mark:.1f}" for mark in np.linspace(low, high, 5).tolist()]
        _label_upright(axes, x, texts, np.linspace(foot, 1, 5).tolist())
    heights = foot + (1 - foot) * (scores.to_numpy(dtype=np.float64) - low) / (high - low)
    return np.nan_to_num(heights, nan=0.0)


def _label_upright(axes: Axes, x: int, texts: Sequence[str], heights: Sequence[float]) -> None:
    axes.axvline(x, ymin=0.03, ymax=0.95, color="#9AA1A9", linewidth=1.2, zorder=0.5)
    for text, height in zip(texts, heights, strict=True):
        axes.text(
            x, height, text, ha="center", va="center", fontsize=SMALL, color=INK, zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.2},
        )  # fmt: skip


def _smooth(heights: npt.NDArray[np.float64]) -> Path:
    """A curve through the heights at x = 0, 1, ..., level at each, so that crossing runs stay apart."""
    points, codes = [(0.0, float(heights[0]))], [Path.MOVETO]
    for x in range(1, len(heights)):
        before, here = float(heights[x - 1]), float(heights[x])
        points += [(x - 0.55, before), (x - 0.45, here), (float(x), here)]
        codes += [Path.CURVE4] * 3
    return Path(points, codes)
