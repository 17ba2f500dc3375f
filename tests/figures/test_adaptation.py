"""The picture of an adaptation: what is drawn, and what is left out where there are no labels."""

import numpy as np
import pytest

from reid.figures import adaptation_rounds

SCORES = ({"test/mAP": 0.1, "test/rank-1": 0.2}, {"test/mAP": 0.2}, {"test/mAP": 0.3, "test/rank-1": 0.4})
GROUPS: tuple[dict[str, float], ...] = (
    {},
    {"clusters/count": 40.0, "clusters/outliers": 0.5},
    {"clusters/count": 50.0, "clusters/outliers": 0.3, "clusters/agreement": 0.9},
)
ROWS = [
    {"round": float(number), **groups, **scores}
    for number, (scores, groups) in enumerate(zip(SCORES, GROUPS, strict=True))
]


def test_scores_clusters_and_shares_are_drawn_by_round() -> None:
    figure = adaptation_rounds(ROWS, people=60)
    scores, clusters, shares = figure.axes
    lines = {line.get_label(): line for line in scores.get_lines()}
    assert np.asarray(lines["mAP"].get_xdata()).tolist() == [0, 1, 2]
    assert np.asarray(lines["mAP"].get_ydata()).tolist() == [10, 20, 30]
    assert "people, by the labels: 60" in [line.get_label() for line in clusters.get_lines()]
    assert len(shares.get_lines()) == 2


def test_without_labels_no_score_and_no_number_of_people_is_drawn() -> None:
    figure = adaptation_rounds([{key: row[key] for key in row if "test" not in key} for row in ROWS])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Clusters", "Agreement and outliers"]
    assert len(figure.axes[0].get_lines()) == 1


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="no round holds"):
        adaptation_rounds([{"round": 0.0}])
