"""Error against rejection, by hand and by a naive loop."""

import math

import numpy as np
import pytest

from reid.retrieval.rejection import SHARES, area_left, rejection

PIDS = np.repeat(np.arange(25), 4)
VALUES = np.random.default_rng(0).uniform(size=100)


def test_a_score_that_knows_the_values_is_the_oracle() -> None:
    found = rejection(VALUES, VALUES, PIDS, replicates=50)
    assert found.gain == pytest.approx(1.0)
    assert found.gain_interval == pytest.approx((1.0, 1.0))
    np.testing.assert_allclose(found.left, found.oracle)
    ordered = np.sort(VALUES)
    np.testing.assert_allclose(found.left, [ordered[round(100 * share) :].mean() for share in SHARES])
    assert found.random == pytest.approx(VALUES.mean())
    assert all(low <= left <= high for left, (low, high) in zip(found.left, found.intervals, strict=True))


def test_the_wrong_way_round_is_worse_than_chance() -> None:
    assert rejection(-VALUES, VALUES, PIDS, replicates=20).gain < -0.9


def test_chance_gains_nothing() -> None:
    values = np.random.default_rng(1).uniform(size=20_000)
    scores = np.random.default_rng(2).uniform(size=20_000)
    assert rejection(scores, values, np.arange(20_000), replicates=2).gain == pytest.approx(0.0, abs=0.05)


def test_the_area_is_the_mean_over_all_shares() -> None:
    values, weights = np.array([0.2, 0.9, 0.4]), np.array([1.0, 2.0, 0.0])
    # Worst first, with the second twice: 0.2, 0.9, 0.9; of the third there is none.
    expected = ((0.2 + 0.9 + 0.9) / 3 + 2 * 0.9) / 3
    assert area_left(values, weights) == pytest.approx(expected)


def test_where_all_values_are_equal_nothing_is_to_be_gained() -> None:
    found = rejection(VALUES, np.ones(100), PIDS, replicates=5)
    assert math.isnan(found.gain)
    assert math.isnan(found.gain_interval.low)
    one = rejection(VALUES, VALUES, np.zeros(100, int), replicates=5)
    assert math.isnan(one.intervals[0].low)
    assert math.isnan(one.gain_interval.low)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="99 scores, 100 values"):
        rejection(VALUES[1:], VALUES, PIDS)
    with pytest.raises(ValueError, match="NaN"):
        rejection(np.where(VALUES < 0.1, np.nan, VALUES), VALUES, PIDS)
