"""The charts of a sweep over one key, two, or more.

Each draws on the axes of its caller, from one row a run: the keys, and `score` in percent, NaN if it failed.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.patheffects import withStroke

from reid.figures.style import BLUE, FAINT, INK, MUTED, SMALL, WRONG, log_scale
from reid.figures.sweep_scales import COLOURS, CROSS, FEW, distinct_values, is_log, named, normalise


@dataclass(frozen=True)
class _Group:
    """The runs that share the values `at` of the keys: `mean` and sample `std` of those that finished."""

    at: tuple[Any, ...]
    mean: float  # NaN: all failed
    std: float  # NaN: fewer than two finished
    runs: int
    failed: int

    @property
    def spread(self) -> float:
        return 0.0 if np.isnan(self.std) else self.std

    def text(self, separator: str = " ") -> str:
        """What is written at the group, such as "76.5 ± 0.3 (1 of 3 unfinished)"."""
        lost = f"{self.failed} of {self.runs} unfinished" if self.runs > 1 else "unfinished"
        if np.isnan(self.mean):
            return lost
        parts = [f"{self.mean:.1f}"]
        parts += [] if np.isnan(self.std) else [f"± {self.std:.1f}"]
        parts += [f"({lost})"] if self.failed else []
        return separator.join(parts)


def draw_line(axes: Axes, runs: pd.DataFrame, key: str, score_label: str) -> None:
    """A numeric key: the mean score over it, in a band of one standard deviation where runs repeat."""
    groups = _grouped(runs, [key])
    done = [group for group in groups if not np.isnan(group.mean)]
    x, mean = [group.at[0] for group in done], np.array([group.mean for group in done])
    repeated = any(group.runs > 1 for group in groups)
    low, high = _score_limits(runs["score"])
    if repeated:
        spread = np.array([group.spread for group in done])
        axes.fill_between(
            x, mean - spread, mean + spread, color=BLUE, alpha=0.16, linewidth=0, label="± standard deviation"
        )
        axes.plot(runs[key], runs["score"], "o", color=BLUE, alpha=0.35, markersize=4, label="one run")
    if done:
        axes.plot(x, mean, "o-", color=BLUE, markersize=6.5, label="mean" if repeated else "one run")
    failed, floor = [group for group in groups if group.failed], low + 0.04 * (high - low)
    if failed:
        axes.plot([group.at[0] for group in failed], [floor] * len(failed), "x", label="unfinished", **CROSS)
    if _set_key_axis(axes, np.array([group.at[0] for group in groups])):
        for group in done:
            _write(axes, f"{group.mean:.1f}", (group.at[0], group.mean))
        for group in failed:
            if group.runs > 1:
                _write(axes, f"{group.failed} of {group.runs}", (group.at[0], floor), WRONG)
    axes.set_ylim(low, high)
    axes.set_xlabel(key)
    axes.set_ylabel(score_label)
    if repeated or failed:
        axes.figure.legend(loc="outside lower right", ncols=4)


def draw_dots(axes: Axes, runs: pd.DataFrame, key: str, score_label: str) -> None:
    """A categorical key: one row a choice, best on top, failed choices at the bottom."""
    groups = sorted(_grouped(runs, [key]), key=lambda group: (np.isnan(group.mean), -group.mean))
    low, high = _score_limits(runs["score"])
    for y, group in enumerate(groups):
        end = low + 0.015 * (high - low)
        if np.isnan(group.mean):
            axes.plot([end], [y], "x", **CROSS)
        else:
            end = group.mean + group.spread
            axes.errorbar(group.mean, y, xerr=group.spread, fmt="o", color=BLUE, markersize=8, capsize=3)
        axes.annotate(
            group.text(), (end, y), (10, 0), textcoords="offset points", va="center",
            fontsize=9.5, weight="bold", color=WRONG if group.failed else INK,
        )  # fmt: skip
    axes.set_xlim(low, high + 0.25 * (high - low))  # room for the numbers
    axes.set_yticks(range(len(groups)), [str(group.at[0]) for group in groups])
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set_xlabel(score_label)
    axes.set_ylabel(key)


def draw_heat_map(axes: Axes, runs: pd.DataFrame, rows: str, columns: str, score_label: str) -> None:
    """Two keys: the mean score of each pair of values, written in its cell."""
    groups = {group.at: group for group in _grouped(runs, [rows, columns])}
    ys, xs = distinct_values(runs[rows]), distinct_values(runs[columns])
    colours = normalise(np.array([group.mean for group in groups.values()]))
    size = float(np.clip(80 / len(xs), 7, 11))
    for (i, y), (j, x) in itertools.product(enumerate(ys), enumerate(xs)):
        cell = Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=FAINT, edgecolor="white", linewidth=2)
        text = axes.text(j, i, "not run", color=MUTED, ha="center", va="center", fontsize=size, weight="bold")
        if group := groups.get((y, x)):
            text.set_text(group.text(separator="\n"))
            if np.isnan(group.mean):
                cell.set(facecolor="#FBE9E9", edgecolor=WRONG, hatch="//", linewidth=1, zorder=2)
                text.set(color=WRONG, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5})
            else:
                face = COLOURS(colours(group.mean))
                cell.set(facecolor=face)
                text.set(color=_ink_on(face))
        axes.add_patch(cell)
    axes.set_xticks(range(len(xs)), [named(x) for x in xs])
    axes.set_yticks(range(len(ys)), [named(y) for y in ys])
    axes.set_xlim(-0.5, len(xs) - 0.5)
    axes.set_ylim(len(ys) - 0.5, -0.5)
    axes.grid(visible=False)
    axes.set_xlabel(columns)
    axes.set_ylabel(rows)
    _colour_bar(axes, colours, score_label)


def _grouped(runs: pd.DataFrame, keys: list[str]) -> list[_Group]:
    """The runs gathered by the values of `keys`, in the order of these values."""
    return [
        _Group(
            at=at,
            mean=float(scores.mean()),
            std=float(scores.std(ddof=1)),
            runs=len(scores),
            failed=int(scores.isna().sum()),
        )
        for at, scores in runs.groupby(keys)["score"]
    ]


def _score_limits(scores: pd.Series) -> tuple[float, float]:
    """Frame the finite scores with room above for numbers and below for the crosses of failed runs."""
    if scores.isna().all():
        return 0.0, 100.0
    pad = max(0.18 * float(scores.max() - scores.min()), 0.5)
    return float(scores.min()) - 1.4 * pad, float(scores.max()) + pad


def _set_key_axis(axes: Axes, values: npt.NDArray[np.float64]) -> bool:
    """Scale the axis of a numeric key (`values` sorted); say whether each value got its own tick."""
    places = np.log10(values) if is_log(values) else values
    if is_log(values):
        log_scale(axes, "x")
    if len(values) == 1:
        axes.set_xlim(values[0] - 1, values[0] + 1)
    roomy = len(values) <= FEW and bool((np.diff(places) >= 0.04 * np.ptp(places)).all())
    if roomy:
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.set_xticks([], minor=True)
    return roomy


def _write(axes: Axes, text: str, at: tuple[float, float], colour: str = INK) -> None:
    """Write above a point, on a white outline that keeps the text readable over lines and bands."""
    axes.annotate(
        text, at, (0, 9), textcoords="offset points", ha="center", fontsize=9.5, weight="bold", color=colour,
        path_effects=[withStroke(linewidth=3, foreground="white")],
    )  # fmt: skip


def _colour_bar(axes: Axes, colours: Normalize, score_label: str) -> None:
    bar = axes.figure.colorbar(ScalarMappable(colours, COLOURS), ax=axes, pad=0.02, aspect=25)
    bar.outline.set_visible(False)
    bar.set_label(score_label)


def _ink_on(face: tuple[float, float, float, float]) -> str:
    luminance = 0.299 * face[0] + 0.587 * face[1] + 0.114 * face[2]  # ITU-R BT.601
    return INK if luminance > 0.5 else "white"


# ---- three keys or more: parallel coordinates


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
