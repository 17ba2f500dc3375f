from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from reid.figures import cmc_curves, save, training_curves

pytestmark = pytest.mark.filterwarnings("error")


def points(line: Line2D) -> np.ndarray:
    return np.asarray(line.get_xydata(), dtype=np.float64)


def labels(axes: Axes) -> list[str]:
    legend = axes.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def test_cmc_shows_percent_over_rank_and_scores_in_the_legend() -> None:
    figure = cmc_curves({"ranked": [0.856, 0.9, 0.95], "softmax": [0.8, 0.85]}, mean_ap={"ranked": 0.765})
    figure.draw_without_rendering()
    (axes,) = figure.axes
    ranked, softmax = axes.get_lines()
    np.testing.assert_allclose(points(ranked), [[1.0, 85.6], [2.0, 90.0], [3.0, 95.0]])
    assert len(points(softmax)) == 2
    (below,) = figure.legends
    assert [text.get_text() for text in below.get_texts()] == [
        "ranked: mAP 76.5 %, rank-1 85.6 %",
        "softmax: rank-1 80.0 %",
    ]
    assert axes.get_xlabel() == "Rank"
    assert axes.get_ylabel() == "Matching rate (%)"
    assert "CMC" in axes.get_title(loc="left")


@pytest.mark.slow
def test_a_name_that_is_no_formula_is_drawn_as_it_is(history: pd.DataFrame, tmp_path: Path) -> None:
    name = "a $x_{$ b"
    assert save(cmc_curves({name: [0.5, 1.0]}), tmp_path / "cmc.png").exists()
    assert save(training_curves(history, name), tmp_path / "curves.png").exists()


def test_cmc_stops_at_max_rank() -> None:
    (axes,) = cmc_curves({"ours": np.linspace(0.1, 1, 80).tolist()}, max_rank=20).axes
    assert points(axes.get_lines()[0])[-1, 0] == 20


@pytest.mark.parametrize("length", [1, 60])
def test_cmc_of_any_length_has_ticks_on_whole_ranks(length: int) -> None:
    figure = cmc_curves({"ours": [0.5] * length}, max_rank=100)
    figure.draw_without_rendering()
    ticks = figure.axes[0].get_xticks()
    assert ticks[0] == 1
    assert all(float(tick).is_integer() and tick <= length for tick in ticks)


def test_many_cmc_curves_stay_apart() -> None:
    (axes,) = cmc_curves({str(i): [i / 20, 1.0] for i in range(14)}).axes
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.get_lines()}
    assert len(looks) == 14


@pytest.mark.parametrize("curve", [[], [0.5, 85.6], [float("nan")], [[0.5]]])
def test_cmc_refuses_what_is_no_curve(curve: list[float]) -> None:
    with pytest.raises(ValueError, match=r"'ours'.*fractions in 0\.\.1"):
        cmc_curves({"ours": curve})


def test_cmc_refuses_empty_input() -> None:
    with pytest.raises(ValueError, match="no CMC curve"):
        cmc_curves({})
    with pytest.raises(ValueError, match="max_rank is 0"):
        cmc_curves({"ours": [0.5]}, max_rank=0)
    with pytest.raises(ValueError, match=r"mAP of 'ours' is 76\.5"):
        cmc_curves({"ours": [0.5]}, mean_ap={"ours": 76.5})


@pytest.fixture
def history() -> pd.DataFrame:
    epoch = np.arange(1, 41)
    fall = np.exp(-epoch / 10)
    return pd.DataFrame(
        {
            "epoch": epoch,
            "train/loss": 5 * fall + 1,
            "train/id_loss": 4 * fall + 0.8,
            "train/metric_loss": fall + 0.2,
            "train/accuracy": 1 - fall,
            "train/lr": np.where(epoch < 20, 3.5e-4, 3.5e-5),
            "train/hardest_positive": 0.6 + fall,
            "train/hardest_negative": 1.2 - fall,
            "train/active_fraction": fall,
            "train/grad_norm": 8 * fall,
            "train/images_per_second": 230.0,
            "train/data_wait": 0.1,
            "test/mAP": np.where(epoch % 10 == 0, 0.765 - fall / 2, np.nan),
            "test/rank-1": np.where(epoch % 10 == 0, 0.856 - fall / 2, np.nan),
        }
    )


def test_training_draws_six_panels(history: pd.DataFrame) -> None:
    figure = training_curves(history, title="market_split")
    figure.draw_without_rendering()
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert list(panels) == [
        "Losses",
        "Training batches",
        "Hardest pairs of a batch",
        "Learning rate",
        "Gradient norm",
        "Scores on test",
    ]
    assert labels(panels["Losses"]) == ["total", "identity", "metric"]
    assert panels["Learning rate"].get_yscale() == "log"
    assert all(axes.get_xlabel() == "Epoch" and axes.get_ylabel() for axes in figure.axes)
    assert figure.get_suptitle() == "market_split"


def test_training_scores_are_sparse_percent_with_their_last_value(history: pd.DataFrame) -> None:
    axes = training_curves(history).axes[-1]
    mean_ap = points(axes.get_lines()[0])
    assert mean_ap[:, 0].tolist() == [10, 20, 30, 40]
    last = 100 * history["test/mAP"].iloc[-1]
    assert mean_ap[-1, 1] == pytest.approx(last)
    assert labels(axes)[0] == f"mAP, last {last:.1f}"


def test_training_names_several_splits(history: pd.DataFrame) -> None:
    axes = training_curves(history.assign(**{"val/mAP": 0.5})).axes[-1]
    assert axes.get_title(loc="left") == "Scores on test, val"
    assert [label.split(",")[0] for label in labels(axes)] == ["test mAP", "test rank-1", "val mAP"]


def test_training_of_one_epoch_shows_a_point(history: pd.DataFrame) -> None:
    figure = training_curves(history.head(1)[["train/loss", "train/lr"]])
    figure.draw_without_rendering()
    losses, rate = figure.axes
    assert losses.get_lines()[0].get_marker() == "o"
    assert [tick for tick in losses.get_xticks() if 0.5 <= tick <= 1.5] == [1]
    low, high = rate.get_ylim()
    assert low < 1e-4 < 1e-3 < high


def test_training_leaves_out_what_is_not_finite_or_unknown() -> None:
    history = pd.DataFrame(
        {
            "epoch": [2, 1, 3],
            "train/loss": [2.0, 1.0, np.inf],
            "train/lr": [0.0, 0.0, 0.0],
            "notes": ["a"] * 3,
        }
    )
    figure = training_curves(history)
    figure.draw_without_rendering()
    losses, rate = figure.axes
    np.testing.assert_allclose(points(losses.get_lines()[0]), [[1, 1], [2, 2]])
    assert rate.get_yscale() == "linear"


def test_training_refuses_a_history_with_nothing_to_draw() -> None:
    with pytest.raises(ValueError, match=r"no finite value.*'epoch', 'train/loss'"):
        training_curves(pd.DataFrame({"epoch": [1], "train/loss": [np.nan]}))
