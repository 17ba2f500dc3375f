"""The figures of a closer look: what is drawn is what was measured."""

import numpy as np
import pytest

from reid.figures import GroupBar, RejectionCurve, group_differences, rejection_curves

SHARES = np.array([0.0, 0.5, 0.9])


def curve(name: str) -> RejectionCurve:
    left = np.array([0.5, 0.6, 0.7])
    return RejectionCurve(name, left, left - 0.1, left + 0.1)


def test_each_score_has_a_line_between_chance_and_oracle() -> None:
    figure = rejection_curves(SHARES, [curve("model"), curve("norm")], 0.5, np.array([0.5, 0.8, 0.9]))
    axes = figure.axes[0]
    lines = {str(line.get_label()): np.asarray(line.get_ydata()) for line in axes.lines}
    assert set(lines) == {"oracle: the accuracy itself", "chance", "model", "norm"}
    np.testing.assert_allclose(lines["model"], [50, 60, 70])
    np.testing.assert_allclose(lines["oracle: the accuracy itself"], [50, 80, 90])
    assert axes.get_ylim()[0] < 40 < 90 < axes.get_ylim()[1]  # the band and the oracle are inside
    with pytest.raises(ValueError, match="of 3 points"):
        rejection_curves(SHARES, [], 0.5, SHARES)


def test_groups_that_are_not_compared_have_no_point() -> None:
    nan = float("nan")
    bars = [
        GroupBar("size small", 40.0, -20.0, -25.0, -15.0, True),
        GroupBar("size x", 70.0, nan, nan, nan, False),
    ]
    figure = group_differences(bars, score="mAP")
    axes = figure.axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["40.0 %: -20.0 [-25.0, -15.0]", "70.0 %: too few people"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["size small", "size x"]
    assert len(axes.containers) == 1
    with pytest.raises(ValueError, match="no group"):
        group_differences([], score="mAP")
