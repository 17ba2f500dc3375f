"""Error rates of a threshold: worked by hand, against scikit-learn, against one loop over all pairs."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_curve

from reid.retrieval import TARGETS, EvaluationError, Verification, verify, verify_counts


def test_by_hand() -> None:
    """Genuine 1 2 3 6, impostor 4 5 7 8: threshold 3 accepts 3/4 and 0/4, threshold 6 accepts 4/4 and 2/4."""
    verification = verify([1.0, 2.0, 3.0, 6.0], [4.0, 5.0, 7.0, 8.0], target="eer")
    assert (verification.genuine, verification.impostor) == (4, 4)
    assert verification.thresholds[1:].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert verification.tar.tolist() == [0, 0.25, 0.5, 0.75, 0.75, 0.75, 1, 1, 1]
    assert verification.far.tolist() == [0, 0, 0, 0, 0.25, 0.5, 0.5, 0.75, 1]
    # From 4 on, and up to 5, FAR = 1/4 = FRR.
    assert verification.eer == 0.25
    assert verification.threshold == 4.5
    assert verification.points["eer"].frr == 0.25
    # F1: 2 x 3 / (4 + 3 + 0) at 3; at 6 it is 2 x 4 / (4 + 4 + 2) = 0.8.
    assert verification.best_f1 == 6 / 7
    assert verification.points["f1"].threshold == 3.5


def test_the_equal_error_rate_lies_between_two_points_of_the_roc() -> None:
    """From (FAR 0, FRR 1/2) to (1/2, 0): half way, at 1/4; no threshold has equal rates."""
    verification = verify([1.0, 3.0], [3.0, 4.0])
    assert verification.eer == pytest.approx(0.25)
    # |0 - 1/2| from 1 on is |1/2 - 0| from 3 on: the stricter of the two, and its middle.
    assert verification.points["eer"].threshold == 2


def gap(count: int = 41) -> tuple[np.ndarray, np.ndarray]:
    """Genuine pairs from 0.2 to 0.6, impostor pairs from 1.0 to 1.4: every threshold between is as good."""
    return np.linspace(0.2, 0.6, count), np.linspace(1.0, 1.4, count)


@pytest.mark.parametrize("target", ["eer", "f1"])
def test_of_equally_good_thresholds_the_middle_is_taken(target: str) -> None:
    genuine, impostor = gap()
    assert verify(genuine, impostor, target).threshold == pytest.approx(0.8)
    edges = np.linspace(0, 2, 2001)
    below = [np.searchsorted(side, edges, side="right") for side in (genuine, impostor)]
    counted = verify_counts(edges, below[0], below[1], target)
    assert counted.threshold == pytest.approx(0.8, abs=1e-3)
    assert (counted.points[target].far, counted.points[target].tar) == (0, 1)


@pytest.mark.parametrize("target", ["eer", "f1"])
def test_no_threshold_of_a_grid_lies_where_the_distances_are_not_told_apart(target: str) -> None:
    """0.29 and 0.21 are both counted at 0.3: what 0.25 would accept, the counts do not say."""
    edges = np.array([0.1, 0.2, 0.3, 0.4])
    counted = verify_counts(edges, np.array([1, 4, 4, 4]), np.array([0, 0, 1, 2]), target)
    assert counted.threshold == 0.2


def test_a_threshold_that_accepts_all_is_no_larger_than_the_largest_distance() -> None:
    verification = verify([1.0, 3.0, 3.0, 3.0], [2.0], target="f1")
    assert (verification.threshold, verification.best_f1) == (3, 8 / 9)
    edges = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    counted = verify_counts(edges, np.array([1, 1, 4, 4, 4]), np.array([0, 1, 1, 1, 1]), "f1")
    assert counted.threshold == 3


def test_the_middle_of_neighbouring_floats_is_the_lower_one() -> None:
    low = 1.0
    assert verify([low], [np.nextafter(low, 2)], target="f1").threshold == low


@pytest.mark.parametrize("wanted", [1e-2, 1e-3, 1e-4])
def test_the_threshold_for_a_far_is_conservative(wanted: float) -> None:
    """Impostors at 1 … n: n x FAR of them may be accepted, and the largest such threshold is taken."""
    count = round(2 / wanted)
    impostor = np.arange(1.0, count + 1)
    verification = verify([0.5, 2.0, 2.5, 3.0], impostor, target=f"far_1e-{round(-math.log10(wanted))}")
    # Two impostors, at 1 and 2, are within the rate; 2.5 accepts no third one.
    assert verification.threshold == 2.5
    assert verification.tar_at_far[wanted] == 0.75
    point = verification.points[verification.target]
    assert point.far == wanted
    assert point.f1 == 2 * 3 / (4 + 3 + 2)


def test_a_tie_over_the_rate_is_not_accepted_in_part() -> None:
    impostor = np.concatenate([np.full(3, 1.0), np.arange(2.0, 199.0)])
    verification = verify([0.5, 1.0, 1.5], impostor, target="far_1e-2")
    # Of 200, two may be accepted, but three lie at 1 together.
    assert (verification.threshold, verification.points["far_1e-2"].far) == (0.5, 0)
    assert verification.tar_at_far[1e-2] == 1 / 3


def test_a_genuine_and_an_impostor_pair_at_one_distance_are_accepted_together() -> None:
    verification = verify([1.0], [1.0, 2.0])
    assert verification.tar.tolist() == [0, 1, 1]
    assert verification.far.tolist() == [0, 0.5, 1]


@pytest.mark.parametrize(("impostors", "known"), [(99, 0), (100, 1), (999, 1), (1000, 2), (10000, 3)])
def test_too_few_impostors_for_a_rate_give_nan(impostors: int, known: int) -> None:
    verification = verify([0.5], np.arange(1.0, impostors + 1), target="far_1e-4")
    assert [math.isfinite(rate) for rate in verification.tar_at_far.values()] == [True] * known + [False] * (
        3 - known
    )
    assert math.isfinite(verification.threshold) == (known == 3)


def test_nothing_may_be_acceptable() -> None:
    """The two nearest of 100 pairs are impostors: for FAR 1e-2 no pair may be accepted."""
    verification = verify([3.0], np.concatenate([[1.0, 1.0], np.arange(2.0, 100.0)]), target="far_1e-2")
    assert verification.tar_at_far[1e-2] == 0
    assert verification.threshold < 1


def test_perfect_and_hopeless() -> None:
    assert verify([1.0, 2.0], [3.0, 4.0]).eer == 0
    assert verify([1.0, 2.0], [3.0, 4.0]).best_f1 == 1
    assert verify([3.0, 4.0], [1.0, 2.0]).eer == 1
    assert verify([1.0, 1.0], [1.0]).eer == 0.5


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("decimals", [1, 6])
def test_against_scikit_learn(seed: int, decimals: int) -> None:
    """One decimal: most distances are tied."""
    verification, genuine, impostor = drawn(seed, decimals)
    labels = np.concatenate([np.ones(len(genuine)), np.zeros(len(impostor))])
    scores = -np.concatenate([genuine, impostor])
    far, tar, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    assert np.array_equal(verification.far, far)
    assert np.array_equal(verification.tar, tar)
    assert np.array_equal(verification.thresholds[1:], -thresholds[1:])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("decimals", [1, 6])
def test_every_point_does_what_it_says(seed: int, decimals: int) -> None:
    verification, genuine, impostor = drawn(seed, decimals)
    for name, point in verification.points.items():
        true, false = (genuine <= point.threshold).sum(), (impostor <= point.threshold).sum()
        if name == "far_1e-4":
            assert math.isnan(point.threshold)
            continue
        assert point.tar == true / len(genuine)
        assert point.far == false / len(impostor)
        assert point.f1 == pytest.approx(2 * true / (len(genuine) + true + false))
    # No threshold with more accepted pairs keeps the rate; none does better than the best.
    for name, wanted in (("far_1e-2", 1e-2), ("far_1e-3", 1e-3)):
        larger = verification.thresholds > verification.points[name].threshold
        assert (verification.far[larger] > wanted).all()
    difference = abs(verification.points["eer"].far - verification.points["eer"].frr)
    assert (np.abs(verification.far + verification.tar - 1) >= difference - 1e-12).all()


def test_rates_do_not_depend_on_order_scale_or_container() -> None:
    verification, genuine, impostor = drawn(0, 3)
    other = verify(torch.from_numpy(genuine[::-1].copy()).view(-1, 2), list(impostor[::-1]))
    stretched = verify(4 * genuine, 4 * impostor)
    for same in (other, stretched):
        assert np.array_equal(same.far, verification.far)
        assert (same.eer, same.best_f1) == (verification.eer, verification.best_f1)
    assert stretched.threshold == 4 * verification.threshold


def test_swapping_the_kinds_mirrors_the_equal_error_rate() -> None:
    verification, genuine, impostor = drawn(1, 6)
    assert verify(-impostor, -genuine).eer == pytest.approx(verification.eer, abs=2e-3)


def test_counts_give_the_same_as_distances() -> None:
    verification, genuine, impostor = drawn(2, 2)
    grid = np.arange(0, 4, 0.01)
    counted = verify_counts(
        grid + 1e-9,
        np.array([(genuine <= edge + 1e-9).sum() for edge in grid]),
        np.array([(impostor <= edge + 1e-9).sum() for edge in grid]),
    )
    assert counted.eer == pytest.approx(verification.eer)
    assert counted.tar_at_far == pytest.approx(verification.tar_at_far, nan_ok=True)
    assert counted.best_f1 == verification.best_f1


def test_what_cannot_be_measured_is_refused_in_words() -> None:
    with pytest.raises(EvaluationError, match=r"no genuine pair: .*eval\.protocol=ignore_camera"):
        verify([], [1.0])
    with pytest.raises(EvaluationError, match=r"no impostor pair: .*two people"):
        verify([1.0], [])
    with pytest.raises(EvaluationError, match="1 of 2 genuine distances are NaN or infinite"):
        verify([1.0, math.nan], [1.0])
    with pytest.raises(ValueError, match="target is 'far_1e-5'; allowed: far_1e-2"):
        verify([1.0], [1.0], target="far_1e-5")
    assert TARGETS == ("far_1e-2", "far_1e-3", "far_1e-4", "eer", "f1")


def drawn(seed: int, decimals: int) -> tuple[Verification, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    genuine = np.abs(generator.normal(0.8, 0.25, 300)).round(decimals)
    impostor = np.abs(generator.normal(1.3, 0.15, 5000)).round(decimals)
    return verify(genuine, impostor), genuine, impostor
