"""Differences between settings: against resampling spelt out, and against what is known by hand."""

import math

import numpy as np
import pytest

from reid.retrieval import Measured, difference
from reid.retrieval.differences import people_variance

PIDS = np.array([4, 4, 4, 7, 9, 9])
RNG = np.random.default_rng(5)


def measured(seeds: int, people: int = 60, each: int = 3, shift: float = 0.0, seed: int = 0) -> Measured:
    """Average precisions in which people and seeds differ, and all queries alike are `shift` better."""
    rng = np.random.default_rng(seed)
    pids = np.arange(people).repeat(each)
    hardness = np.random.default_rng(99).uniform(0.2, 0.6, people)[pids]
    precision = hardness + shift + rng.normal(0, 0.05, (seeds, 1)) + rng.normal(0, 0.1, (seeds, len(pids)))
    return Measured(precision.mean(axis=1), precision, pids)


def test_people_are_resampled_with_all_their_queries() -> None:
    values = np.array([0.1, 0.2, 0.3, 0.8, 0.5, 0.4])
    rng = np.random.default_rng(3)
    replicates = []
    for weights in rng.multinomial(3, np.full(3, 1 / 3), size=500):
        drawn: list[float] = []
        for pid, times in zip([4, 7, 9], weights, strict=True):
            drawn += [value for value, own in zip(values, PIDS, strict=True) if own == pid] * int(times)
        replicates.append(sum(drawn) / len(drawn))
    assert people_variance(values, PIDS, 500, seed=3) == pytest.approx(np.var(replicates, ddof=1), rel=1e-12)


def test_the_bootstrap_of_the_people_is_the_textbook_variance_where_all_have_one_query() -> None:
    values = RNG.uniform(0, 1, 400)
    expected = values.var() / 400
    assert people_variance(values, np.arange(400), 8000) == pytest.approx(expected, rel=0.06)


def test_queries_of_one_person_do_not_count_as_independent() -> None:
    values = RNG.uniform(0, 1, 100)
    single = people_variance(values, np.arange(100), 4000)
    assert people_variance(values.repeat(10), np.arange(100).repeat(10), 4000) == pytest.approx(single)


def test_the_interval_of_seeds_alone_is_welchs() -> None:
    first, second = Measured(np.array([0.50, 0.52, 0.54])), Measured(np.array([0.49, 0.50]))
    found = difference(first, second)
    # variances of the means: 0.0004 / 3 with 2 degrees of freedom, 0.00005 / 2 with 1
    a, b = 0.0004 / 3, 0.00005 / 2
    freedom = (a + b) ** 2 / (a**2 / 2 + b**2 / 1)
    assert freedom == pytest.approx(2.63504, abs=1e-5)
    t = 3.44694  # the 97.5 % quantile of Student's t with 2.63504 degrees of freedom
    assert found.value == pytest.approx(0.025)
    assert found.interval.high - found.value == pytest.approx(t * math.sqrt(a + b), rel=1e-5)
    assert found.interval.low == pytest.approx(0.05 - found.interval.high)
    assert (found.people, found.seeds, found.exceeds_noise) == (False, True, False)


def test_people_and_seeds_add_up() -> None:
    first, second = measured(3, seed=1), measured(3, seed=2)
    both = difference(first, second, seed=4)
    assert first.average_precision is not None
    assert second.average_precision is not None
    assert first.pids is not None
    paired = first.average_precision.mean(axis=0) - second.average_precision.mean(axis=0)
    of_people = people_variance(paired, first.pids, 1000, seed=4)
    of_seeds = [one.scores.var(ddof=1) / 3 for one in (first, second)]
    width = both.interval.high - both.interval.low
    # Between the quantiles of the normal distribution and of Student's with 2 degrees of freedom.
    assert 1.96 < width / 2 / math.sqrt(of_people + sum(of_seeds)) < 4.31
    alone = difference(Measured(first.scores), Measured(second.scores))
    assert (both.people, both.seeds, alone.people) == (True, True, False)
    assert both.value == alone.value


def test_one_seed_leaves_the_people() -> None:
    found = difference(measured(1, shift=0.2, seed=1), measured(3, seed=2))
    assert (found.people, found.seeds, found.exceeds_noise) == (True, False, True)


def test_pairing_by_query_takes_out_what_makes_people_hard() -> None:
    """People differ by far more than the settings: unpaired, the difference would drown."""
    first, second = measured(1, shift=0.1, seed=1), measured(1, seed=2)
    found = difference(first, second)
    assert first.average_precision is not None
    unpaired = first.average_precision.var() / 60
    assert found.interval.high - found.value < 0.5 * 1.96 * math.sqrt(2 * unpaired)


def test_other_queries_are_not_paired() -> None:
    first, second = measured(2, people=60), measured(2, people=50)
    assert not difference(first, second).people


def test_nothing_known_gives_no_interval() -> None:
    found = difference(Measured(np.array([0.5])), Measured(np.array([0.4])))
    assert found.value == pytest.approx(0.1)
    assert math.isnan(found.interval.low)
    assert not found.exceeds_noise


def test_a_setting_against_itself_is_no_difference() -> None:
    one = measured(1)
    found = difference(one, one)
    assert (found.value, tuple(found.interval), found.exceeds_noise) == (0.0, (0.0, 0.0), False)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """300 pairs of equal settings, three seeds each: about 95 % of the intervals hold zero."""
    held = 0
    for trial in range(300):
        first, second = measured(3, people=30, seed=2 * trial), measured(3, people=30, seed=2 * trial + 1)
        held += not difference(first, second, replicates=200, seed=trial).exceeds_noise
    assert 0.92 <= held / 300 <= 0.99


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="without a score"):
        difference(Measured(np.array([])), measured(2))
    with pytest.raises(ValueError, match="at least two"):
        people_variance(np.zeros(6), PIDS, replicates=1)
    with pytest.raises(ValueError, match="a person for each value"):
        people_variance(np.zeros(5), PIDS)
