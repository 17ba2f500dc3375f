"""Curves of one run or of several: CMC, and what training looked like epoch by epoch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reid.figures.style import (
    BLUE,
    GREEN,
    LINE_STYLES,
    ORANGE,
    PALETTE,
    SMALL,
    headline,
    log_scale,
    new_figure,
    styled,
    whole_number_axis,
)

Floats = npt.NDArray[np.float64]


@styled
def cmc_curves(
    curves: Mapping[str, Sequence[float]],
    max_rank: int = 50,
    *,
    mean_ap: Mapping[str, float] | None = None,
    title: str = "Cumulative matching characteristic (CMC)",
) -> Figure:
    """Draw CMC curves: the share of queries with a match among their first r gallery images, over r.

    Args:
        curves: label -> matching rates at rank 1, 2, ..., each in 0..1. A curve shorter than `max_rank`
            (a small gallery) is drawn as far as it goes.
        max_rank: the last rank shown.
        mean_ap: label -> mAP in 0..1, written in the legend; labels without one are left out of it.
        title: the figure's title.

    Raises:
        ValueError: if there is nothing to draw, `max_rank` is under 1, or a rate or mAP is not in 0..1.
    """
    if not curves:
        raise ValueError("no CMC curve to draw; expected a mapping of label -> matching rates")
    if max_rank < 1:
        raise ValueError(f"max_rank is {max_rank}; expected at least 1")
    rates = {label: _checked_rates(label, curve)[:max_rank] for label, curve in curves.items()}

    figure = new_figure(height=4.4 + 0.2 * len(rates))
    axes = figure.add_subplot()
    handles, names = [], []
    for i, (label, curve) in enumerate(rates.items()):
        marked = [rank - 1 for rank in (1, 5, 10) if rank <= len(curve)]
        handles += axes.plot(
            np.arange(1, len(curve) + 1),
            100 * curve,
            color=PALETTE[i % len(PALETTE)],
            linestyle=LINE_STYLES[i // len(PALETTE) % len(LINE_STYLES)],
            marker="o",
            markevery=marked,
        )
        names.append(_cmc_label(label, curve, mean_ap or {}))
    longest = max(len(curve) for curve in rates.values())
    lowest = 100 * min(float(curve.min()) for curve in rates.values())
    whole_number_axis(axes, 1, longest)
    step = 10 if longest <= 50 else longest // 5
    axes.set_xticks(sorted({1, min(5, longest), *range(step, longest + 1, step)}))
    axes.set_ylim(max(0.0, 10 * np.floor(lowest / 10 - 0.3)), 101)
    axes.set_xlabel("Rank")
    axes.set_ylabel("Matching rate (%)")
    axes.set_title(title)
    # Below the curves, where it hides none. Named here: matplotlib leaves out a label that begins with _.
    figure.legend(handles, names, loc="outside lower left")
    return figure


def _checked_rates(label: str, curve: Sequence[float]) -> Floats:
    rates = np.asarray(curve, dtype=np.float64)
    if rates.ndim != 1 or rates.size == 0 or not bool(((rates >= 0) & (rates <= 1)).all()):
        raise ValueError(
            f"the CMC curve {label!r} has shape {rates.shape} and values {rates.ravel()[:5].tolist()}...; "
            "expected one matching rate for each rank, as fractions in 0..1 (not percent, not NaN)"
        )
    return rates


def _cmc_label(label: str, curve: Floats, mean_ap: Mapping[str, float]) -> str:
    rank_1 = f"rank-1 {100 * curve[0]:.1f} %"
    if label not in mean_ap:
        return f"{label}: {rank_1}"
    if not 0 <= mean_ap[label] <= 1:
        raise ValueError(f"the mAP of {label!r} is {mean_ap[label]}; expected a fraction in 0..1")
    return f"{label}: mAP {100 * mean_ap[label]:.1f} %, {rank_1}"


@dataclass(frozen=True)
class _Panel:
    """One of the small multiples: `lines` maps a column of the history to its name in the legend."""

    title: str
    y_label: str
    lines: Mapping[str, str]
    percent: bool = False
    log: bool = False


_PANELS = (
    _Panel(
        "Losses", "Loss", {"train/loss": "total", "train/id_loss": "identity", "train/metric_loss": "metric"}
    ),
    _Panel(
        "Training batches",
        "Share (%)",
        {"train/accuracy": "accuracy", "train/active_fraction": "active pairs"},
        percent=True,
    ),
    _Panel(
        "Hardest pairs of a batch",
        "Distance",
        {"train/hardest_positive": "positive", "train/hardest_negative": "negative"},
    ),
    _Panel("Learning rate", "Learning rate", {"train/lr": "learning rate"}, log=True),
    _Panel("Gradient norm", "L2 norm", {"train/grad_norm": "gradient norm"}),
)


@styled
def training_curves(history: pd.DataFrame, title: str = "Training") -> Figure:
    """Draw how a run went: losses, accuracy, hardest distances, learning rate, gradient norm and scores.

    Args:
        history: one row an epoch. `epoch` counts from 1 (without it, rows are numbered); the columns drawn
            are `train/loss`, `train/id_loss`, `train/metric_loss`, `train/accuracy`, `train/active_fraction`
            (fractions), `train/hardest_positive`, `train/hardest_negative`, `train/lr`, `train/grad_norm`,
            and `<split>/mAP`, `<split>/rank-1` (fractions) of any split. Absent columns and values that are
            not finite are left out, and so is a panel with nothing in it.
        title: the figure's title.

    Raises:
        ValueError: if no column that this function draws holds a finite value.
    """
    epochs = history["epoch"] if "epoch" in history else pd.Series(range(1, len(history) + 1), history.index)
    series = {
        str(name): column
        for name in history.columns
        if name != "epoch" and not (column := _finite(epochs, history[name])).empty
    }
    panels = [p for p in (*_PANELS, _score_panel(series)) if any(column in series for column in p.lines)]
    if not panels:
        known = [column for panel in _PANELS for column in panel.lines]
        raise ValueError(
            f"the history has no finite value to draw; its columns are {sorted(map(str, history.columns))}, "
            f"expected some of {known}, <split>/mAP or <split>/rank-1"
        )
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(height=0.45 + 2.5 * rows)
    headline(figure, title)
    for position, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, position)
        _draw_panel(axes, panel, {c: series[c] for c in panel.lines if c in series})
        whole_number_axis(axes, float(epochs.min()), float(epochs.max()))
    return figure


def _finite(epochs: pd.Series, column: pd.Series) -> pd.Series:
    """The finite values of a column by epoch, in the order of epochs."""
    values = pd.to_numeric(column, errors="coerce").astype("float64")
    kept = np.isfinite(values.to_numpy())
    return pd.Series(values.to_numpy()[kept], index=epochs.to_numpy()[kept]).sort_index()


def _score_panel(series: Mapping[str, pd.Series]) -> _Panel:
    found = [name for name in series if name.endswith(("/mAP", "/rank-1"))]
    splits = list(dict.fromkeys(name.rsplit("/", 1)[0] for name in found))
    ordered = [f"{split}/{score}" for split in splits for score in ("mAP", "rank-1")]
    names = {c: c.rsplit("/", 1)[1] if len(splits) == 1 else c.replace("/", " ") for c in ordered}
    lines = {c: f"{name}, last {100 * series[c].iloc[-1]:.1f}" for c, name in names.items() if c in series}
    return _Panel(f"Scores on {', '.join(splits)}", "Score (%)", lines, percent=True)


def _draw_panel(axes: Axes, panel: _Panel, series: Mapping[str, pd.Series]) -> None:
    colours = PALETTE if len(panel.lines) > 3 else (BLUE, ORANGE, GREEN)
    for i, (name, label) in enumerate(panel.lines.items()):
        if name not in series:
            continue
        values = series[name]
        axes.plot(
            values.index.to_numpy(),
            values.to_numpy() * (100 if panel.percent else 1),
            color=colours[i % len(colours)],
            marker="o" if len(values) <= 25 else None,
            markersize=3.5,
            label=label,
        )
    if panel.log:
        _decades(axes, pd.concat(list(series.values())))
    elif panel.percent:
        axes.set_ylim(-2, 102)
    axes.set_xlabel("Epoch")
    axes.set_ylabel(panel.y_label)
    if len(panel.lines) == 1:
        axes.set_title(panel.title)
        return
    # Between title and axes, where it hides no line.
    columns = 1 if len(series) > 3 else len(series)
    axes.set_title(panel.title, pad=6 + 14 * -(-len(series) // columns))
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, fontsize=SMALL,
        handlelength=1.2, handletextpad=0.5, columnspacing=1.0, borderpad=0, borderaxespad=0.3,
    )  # fmt: skip


def _decades(axes: Axes, values: pd.Series) -> None:
    """A log axis over whole decades, so that even a constant has two labelled ticks."""
    positive = values[values > 0]
    if positive.empty:
        return
    low, high = np.floor(np.log10(positive.min())), np.ceil(np.log10(positive.max()))
    log_scale(axes, "y")
    axes.set_ylim(10.0**low / 1.2, 10.0 ** max(high, low + 1) * 1.2)
