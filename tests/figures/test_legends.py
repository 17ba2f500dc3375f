"""No legend lies on what is drawn: each stands outside of every axes, and on no title."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from reid.figures import (
    Rate,
    cmc_curves,
    hardest_bands,
    pair_distances,
    search_history,
    sweep_figure,
    training_curves,
    verification_roc,
)

pytestmark = pytest.mark.filterwarnings("error")

EPOCHS = np.arange(1, 31)
SHARE = np.linspace(0, 1, 50)


def roc(curve: np.ndarray) -> Figure:
    rates = [
        Rate(
            f"FAR 1e-{n} (d ≤ 0.987)", 10.0**-n, float(np.interp(10.0**-n, SHARE, curve)), (0.0, 1.0), n == 2
        )
        for n in range(1, 5)
    ]
    return verification_roc(
        SHARE, curve, rates, impostor_pairs=10**5, legend_title="EER 50.00 % [40.00, 60.00]; best F1 9.9 %",
        note="In brackets: 95 % intervals",
    )  # fmt: skip


def training(score: float, splits: int = 1) -> Figure:
    history = {f"train/{name}": 1 + EPOCHS / 30 for name in ("loss", "id_loss", "metric_loss")}
    history |= {f"train/{name}": EPOCHS / 30 for name in ("accuracy", "active_fraction")}
    history |= {f"train/hardest_{kind}": 1.3 - EPOCHS / 30 for kind in ("positive", "negative")}
    for split in ("test", "val")[:splits]:
        history |= {f"{split}/{name}": np.full(30, score) for name in ("mAP", "rank-1")}
    return training_curves(pd.DataFrame({"epoch": EPOCHS, **history}))


def swept() -> Figure:
    runs = {"lr": [1.0, 1, 2, 2, 3, 3], "mAP": [0.5, 0.52, 0.6, 0.61, 0.5, None]}
    return sweep_figure(pd.DataFrame(runs), ["lr"], "mAP")


def searched() -> Figure:
    status = ["FINISHED"] * 4 + ["PRUNED", "FAILED"]
    scores = [0.5, 0.5, 0.5, 0.4, 0.3, np.nan]
    return search_history(pd.DataFrame({"trial": range(6), "mAP": scores, "status": status}), "mAP")


COUNTS = np.cumsum(np.ones(50, np.int64))
FIGURES: dict[str, Callable[[], Figure]] = {
    "a perfect ROC": lambda: roc(np.ones(50)),
    "a random ROC": lambda: roc(SHARE),
    "a useless ROC": lambda: roc(np.where(SHARE < 1, 0.0, 1.0)),
    "distances": lambda: pair_distances(2 * SHARE + 0.01, COUNTS, COUNTS, 0.02),
    "hardest pairs": lambda: hardest_bands(np.full((4, 6), 0.9), np.full((4, 6), 0.1)),
    "a flat CMC": lambda: cmc_curves({"a": [0.02] * 50, "b": [0.01] * 50}),
    "a training": lambda: training(0.5),
    "a training without scores": lambda: training(0.0),
    "a training on two splits": lambda: training(0.99, splits=2),
    "a sweep": swept,
    "a search": searched,
}


@pytest.mark.parametrize("kind", FIGURES)
def test_no_legend_lies_on_what_is_drawn(kind: str) -> None:
    figure = FIGURES[kind]()
    figure.draw_without_rendering()
    legends = [*figure.legends, *(legend for axes in figure.axes if (legend := axes.get_legend()))]
    assert legends
    page = figure.bbox
    for legend in legends:
        box = legend.get_window_extent()
        assert page.x0 <= box.x0 <= box.x1 <= page.x1
        assert page.y0 <= box.y0 <= box.y1 <= page.y1
        for axes in figure.axes:
            assert not box.overlaps(axes.bbox), (
                f"{axes.get_title(loc='left')}: the legend hides what is drawn"
            )
            for text in (axes.title, axes._left_title, axes.xaxis.label):  # type: ignore[attr-defined]
                assert not text.get_text() or not box.overlaps(text.get_window_extent())


def test_the_point_that_was_chosen_is_ringed_and_named() -> None:
    figure = roc(SHARE)
    (axes,), (legend,) = figure.axes, figure.legends
    (ring,) = [line for line in axes.get_lines() if line.get_markersize() > 10]
    np.testing.assert_allclose(ring.get_xydata(), [[0.01, 1.0]])  # type: ignore[arg-type]
    named = [text.get_text() for text in legend.get_texts() if "chosen" in text.get_text()]
    assert named == ["FAR 1e-2 (d ≤ 0.987), chosen: TAR 1.0 % [0.0, 100.0]"]
    assert legend.get_title().get_text() == (
        "EER 50.00 % [40.00, 60.00]; best F1 9.9 %\nIn brackets: 95 % intervals"
    )


@pytest.mark.parametrize("threshold", [0.05, 1.95])
def test_the_name_of_the_threshold_lies_on_no_histogram(threshold: float) -> None:
    figure = pair_distances(2 * SHARE + 0.01, COUNTS, COUNTS, threshold, threshold_label="threshold for EER")
    figure.draw_without_rendering()
    (text,) = figure.axes[0].texts
    box = text.get_window_extent()
    assert not box.overlaps(figure.axes[0].bbox)
    assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1
    assert not box.overlaps(figure._suptitle.get_window_extent())  # type: ignore[attr-defined]
