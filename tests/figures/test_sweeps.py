from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.text import Text

from reid.figures import Against, difference_figure, sweep_figure
from reid.figures.style import WRONG

pytestmark = pytest.mark.filterwarnings("error")

LABEL = "mAP on test (%)"


def sweep(keys: list[str], **columns: Any) -> Figure:
    table = pd.DataFrame({name.replace("__", "."): values for name, values in columns.items()})
    figure = sweep_figure(table, keys, "mAP", score_label=LABEL)
    figure.draw_without_rendering()
    return figure


def written(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def ticks(labels: Iterable[Text]) -> list[str]:
    return [label.get_text() for label in labels]


def legend(axes: Axes) -> list[str]:
    box = axes.get_legend()
    return [] if box is None else ticks(box.get_texts())


def points(line: Line2D) -> np.ndarray:
    return np.asarray(line.get_xydata(), dtype=np.float64)


def corners(path: Path) -> np.ndarray:
    return np.asarray(path.vertices, dtype=np.float64)


def crosses(axes: Axes) -> list[tuple[float, float]]:
    lines = [line for line in axes.get_lines() if line.get_marker() == "x" and line.get_color() == WRONG]
    return [(float(x), float(y)) for line in lines for x, y in points(line)]


def test_one_numeric_key_is_a_line_in_percent() -> None:
    (axes,) = sweep(["loss.alpha"], loss__alpha=["2.0", "1.0", "1.2"], mAP=[0.765, 0.71, 0.732]).axes
    (line,) = axes.get_lines()
    np.testing.assert_allclose(points(line), [[1.0, 71.0], [1.2, 73.2], [2.0, 76.5]])
    assert written(axes) == ["71.0", "73.2", "76.5"]
    assert ticks(axes.get_xticklabels()) == ["1", "1.2", "2"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("loss.alpha", LABEL)
    assert axes.get_title(loc="left") == "mAP against loss.alpha"


def test_repeated_runs_give_mean_band_and_failures() -> None:
    figure = sweep(
        ["lr"], lr=[1e-4, 1e-4, 1e-3, 1e-3, 1e-2], seed=[0, 1, 0, 1, 0], mAP=[0.6, 0.7, 0.8, None, None]
    )
    (axes,), (below,) = figure.axes, figure.legends
    mean = next(line for line in axes.get_lines() if line.get_label() == "mean")
    np.testing.assert_allclose(points(mean), [[1e-4, 65.0], [1e-3, 80.0]])
    band = corners(axes.collections[0].get_paths()[0])
    assert np.ptp(band[np.isclose(band[:, 0], 1e-4), 1]) == pytest.approx(2 * np.std([60, 70], ddof=1))
    assert [x for x, _ in crosses(axes)] == [1e-3, 1e-2]
    assert written(axes) == ["65.0", "80.0", "1 of 2"]
    assert axes.get_xscale() == "log"
    assert ticks(below.get_texts()) == ["± standard deviation", "one run", "mean", "unfinished"]


@pytest.mark.parametrize("score", [0.5, float("nan")])
def test_a_single_run_is_a_point_or_a_cross(score: float) -> None:
    (axes,) = sweep(["loss.alpha"], loss__alpha=[1.2], mAP=[score]).axes
    assert len(crosses(axes)) == (1 if np.isnan(score) else 0)
    assert len(axes.get_lines()) == 1
    assert ticks(axes.get_xticklabels()) == ["1.2"]


def test_crowded_values_leave_the_ticks_to_matplotlib() -> None:
    (axes,) = sweep(["decay"], decay=[0.0, 0.0001, 0.01], mAP=[0.5, 0.6, 0.7]).axes
    assert written(axes) == []


def test_one_categorical_key_is_sorted_dots() -> None:
    (axes,) = sweep(
        ["backbone"],
        backbone=["resnet18", "resnet50", "se", "resnet18", "resnet50", "ibn", "ibn"],
        mAP=[0.7, 0.76, None, 0.72, None, 0.8, 0.82],
    ).axes
    assert ticks(axes.get_yticklabels()) == ["ibn", "resnet50", "resnet18", "se"]
    assert written(axes) == ["81.0 ± 1.4", "76.0 (1 of 2 unfinished)", "71.0 ± 1.4", "unfinished"]
    assert [y for _, y in crosses(axes)] == [3]
    top, bottom = sorted(axes.get_ylim())
    assert top < 0 < 3 < bottom
    assert axes.yaxis_inverted()
    assert axes.get_xlabel() == LABEL


@pytest.mark.parametrize("values", [[True, False], ["true", "1.0"], [None, 1.0]])
def test_flags_and_mixed_values_are_choices(values: list[Any]) -> None:
    (axes,) = sweep(["tricks.warmup"], tricks__warmup=pd.Series(values, dtype="object"), mAP=[0.6, 0.5]).axes
    expected = ["none" if value is None else str(value) for value in values]
    assert ticks(axes.get_yticklabels()) == expected


def test_two_keys_are_a_heat_map_with_values_written() -> None:
    axes, bar = sweep(
        ["loss.alpha", "loss.margin"],
        loss__alpha=[2.0, 1.0, 1.0, 2.0, 2.0],
        loss__margin=[0.4, 0.4, 1.3, 0.4, 0.9],
        mAP=[0.7, 0.6, np.nan, 0.72, 0.5],
    ).axes
    assert ticks(axes.get_yticklabels()) == ["1", "2"]
    assert ticks(axes.get_xticklabels()) == ["0.4", "0.9", "1.3"]
    assert written(axes) == ["60.0", "not run", "unfinished", "71.0\n± 1.4", "50.0", "not run"]
    hatched = [patch for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_hatch()]
    assert [patch.get_xy() for patch in hatched] == [(1.5, -0.5)]
    assert bar.get_ylabel() == LABEL


@pytest.mark.parametrize("score", [0.5, float("nan")])
def test_a_heat_map_of_one_cell(score: float) -> None:
    axes, _ = sweep(["a", "b"], a=["x"], b=[1], mAP=[score]).axes
    assert written(axes) == ["unfinished" if np.isnan(score) else "50.0"]


def test_three_keys_are_parallel_coordinates() -> None:
    rng = np.random.default_rng(0)
    lr = 10 ** rng.uniform(-5, -3, 16)
    scores = np.where(np.arange(16) % 8 == 3, np.nan, rng.uniform(0.5, 0.8, 16))
    (axes,) = sweep(
        ["loss.alpha", "lr", "backbone"],
        loss__alpha=rng.choice([1.0, 2.0], 16),
        lr=lr,
        backbone=rng.choice(["resnet50", "mobilenet_v2"], 16),
        mAP=scores,
    ).axes
    runs = [patch for patch in axes.patches if isinstance(patch, PathPatch)]
    assert len(runs) == 16
    assert sum(to_hex(run.get_edgecolor()) == WRONG.lower() for run in runs) == 2
    assert crosses(axes) == [(3, 0), (3, 0)]
    best = max(runs, key=lambda run: run.get_linewidth())
    assert corners(best.get_path())[-1] == pytest.approx([3, 1])
    best_lr = lr[np.nanargmax(scores)]
    height = np.log(best_lr / lr.min()) / np.log(lr.max() / lr.min())
    assert corners(best.get_path())[3] == pytest.approx([1, height])
    assert ticks(axes.get_xticklabels()) == ["loss.alpha", "lr", "backbone", LABEL]
    assert legend(axes) == ["14 finished (widest: the best)", "2 unfinished"]
    assert axes.get_title(loc="left") == "mAP against 3 keys"


@pytest.mark.parametrize("score", [0.5, float("nan")])
def test_parallel_coordinates_of_one_run(score: float) -> None:
    (axes,) = sweep(["a", "b", "c"], a=["x"], b=[1], c=[True], mAP=[score]).axes
    assert len([patch for patch in axes.patches if isinstance(patch, PathPatch)]) == 1


ONE_SEED = "One run a setting (one seed): no spread of the seeds is known."
ONCE: dict[str, list[Any]] = {"a": ["x", "y"], "b": [1, 2], "c": [1, 1], "mAP": [0.5, 0.6]}


def below(figure: Figure) -> str:
    """The small print below the axes."""
    return figure.get_supxlabel()


@pytest.mark.parametrize("keys", [["a"], ["b"], ["a", "b"], ["a", "b", "c"]])
def test_a_sweep_with_one_seed_says_that_it_has_no_spread(keys: list[str]) -> None:
    figure = sweep(keys, **ONCE)
    assert below(figure) == ONE_SEED
    box = figure._supxlabel.get_window_extent()  # type: ignore[attr-defined]
    assert not any(box.overlaps(axes.get_tightbbox()) for axes in figure.axes)
    twice = {key: values * 2 for key, values in ONCE.items()}
    assert below(sweep(keys, **twice)) == ""
    # A repeat that did not finish is none.
    assert below(sweep(keys, **{**twice, "mAP": [0.5, 0.6, None, None]})) == ONE_SEED


def test_differences_of_single_seeds_say_so_too() -> None:
    row = Against("b", 50.0, 1.0, 0.5, 2.0)
    assert below(difference_figure([row], ("a", 49.0), "loss")) == ""
    assert below(difference_figure([row], ("a", 49.0), "loss", one_seed=True)) == ONE_SEED


def test_sweep_refuses_tables_it_cannot_draw() -> None:
    table = pd.DataFrame({"loss.alpha": [1.0], "mAP": [76.5]})
    with pytest.raises(ValueError, match=r"lacks \['loss.margin', 'rank-1'\]"):
        sweep_figure(table, ["loss.margin"], "rank-1")
    with pytest.raises(ValueError, match="at least one key"):
        sweep_figure(table, [], "mAP")
    with pytest.raises(ValueError, match=r"'mAP' holds \[76.5\]"):
        sweep_figure(table, ["loss.alpha"], "mAP")
    with pytest.raises(ValueError, match="no row"):
        sweep_figure(table.head(0), ["loss.alpha"], "mAP")
