"""Calibration against what was simulated, and its measures against loops over pairs."""

import math

import numpy as np
import pytest
import torch

from reid.retrieval import Embeddings, EvaluationError
from reid.retrieval.bootstrap import interval
from reid.retrieval.calibration import (
    SHRINK,
    Calibration,
    CameraPair,
    Curve,
    calibrated,
    fit_calibration,
    naive,
    probability,
    rates,
    reliability,
    replicated,
    score_pairs,
)


def people(count: int = 40, noise: float = 0.5, seed: int = 0, cameras: int = 3, each: int = 6) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)
    pids = torch.arange(1, count + 1).repeat_interleave(each)
    centres = torch.randn(count, 6, generator=generator).repeat_interleave(each, 0)
    features = centres + noise * torch.randn(count * each, 6, generator=generator)
    return Embeddings(features, pids, torch.arange(cameras).repeat(count * each // cameras)).normalised()


def pairs(images: Embeddings) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int]]]:
    """Distances and labels of all pairs across cameras, one by one, and the rows."""
    features = images.features.double()
    distances, labels, rows = [], [], []
    for i in range(len(images)):
        for j in range(i + 1, len(images)):
            same = bool(images.pids[i] == images.pids[j])
            if same and images.camids[i] == images.camids[j]:
                continue
            distances.append(float((features[i] - features[j]).norm()))
            labels.append(same)
            rows.append((i, j))
    return np.array(distances), np.array(labels), rows


@pytest.fixture(scope="module")
def fitted() -> Embeddings:
    return people(seed=1)


@pytest.fixture(scope="module")
def others() -> Embeddings:
    return people(count=16, seed=2)


def test_the_logistic_line_is_the_one_that_scikit_learn_fits_to_single_pairs(fitted: Embeddings) -> None:
    from sklearn.linear_model import LogisticRegression

    distances, labels, _ = pairs(fitted)
    weight = np.where(labels, 1 / labels.sum(), 1 / (~labels).sum())
    model = LogisticRegression(C=1e6, tol=1e-8, max_iter=1000)
    model.fit(distances[:, None], labels, sample_weight=weight * len(labels))
    found = fit_calibration(fitted, "euclidean", "cross_camera", camera_pairs=False)
    assert (found.genuine, found.impostor, found.people) == (labels.sum(), (~labels).sum(), 40)
    assert found.genuine_share == pytest.approx(labels.mean())
    for distance in (0.3, 0.5, 0.7):
        line = float(model.decision_function([[distance]])[0])
        assert float(found.pooled(distance)) == pytest.approx(line, abs=0.15)


def test_the_isotonic_staircase_follows_the_shares_of_a_simulation() -> None:
    # Distances of a kind are normal, so that the LLR of each distance is known.
    images = people(count=60, noise=0.8, seed=5)
    found = fit_calibration(images, "euclidean", "cross_camera", "isotonic", camera_pairs=False)
    llrs = np.array(found.pooled.llrs)
    assert (np.diff(llrs) <= 1e-12).all()
    assert (np.diff(found.pooled.distances) > 0).all()
    distances, labels, _ = pairs(images)
    low, high = np.quantile(distances[labels], [0.3, 0.7])
    inside = (distances > low) & (distances <= high)
    ratio = (labels & inside).sum() / labels.sum() / ((~labels & inside).sum() / (~labels).sum())
    mean = np.exp(found.pooled(distances[inside & ~labels])).mean()
    assert mean == pytest.approx(ratio, rel=0.15)


@pytest.mark.parametrize("method", ["logistic", "isotonic"])
def test_no_probability_is_beyond_what_the_people_support(method: str) -> None:
    images = people(count=6, noise=0.01)  # perfectly apart
    found = fit_calibration(images, "euclidean", "cross_camera", method, camera_pairs=False)
    ends = found.pooled([0.0, 2.0])
    assert ends.tolist() == pytest.approx([math.log(6 * 5 / 2 + 1), -math.log(6 + 1)])
    assert 0.9 < float(probability(ends[0], 0.5)) < 0.95
    assert float(probability(ends[1], 0.5)) == pytest.approx(1 / 8)


def test_a_distance_that_says_nothing_gives_the_prior() -> None:
    images = people(count=6, noise=0.01)
    turned = Embeddings(images.features, torch.arange(36) % 6 + 1, images.camids)
    far = Embeddings(turned.features, turned.pids, torch.arange(36) // 6)
    found = fit_calibration(far, "euclidean", "cross_camera", camera_pairs=False)
    assert found.pooled.llrs == (0.0,)
    assert float(probability(found.pooled(0.3), 0.2)) == pytest.approx(0.2)


def test_the_prior_moves_the_probability_as_bayes_has_it() -> None:
    llr = math.log(9)
    assert float(probability(llr, 0.5)) == pytest.approx(0.9)
    assert float(probability(llr, 0.1)) == pytest.approx(0.5)
    assert float(probability(-30.0, 0.5)) > 0
    assert float(probability(30.0, 0.5)) < 1
    for wrong in (0, 1, 1.5, math.nan):
        with pytest.raises(ValueError, match="above 0 and below 1"):
            probability(llr, wrong)


def test_wrong_methods_and_missing_pairs_are_refused(fitted: Embeddings) -> None:
    with pytest.raises(ValueError, match="method is 'spline'; allowed: logistic, isotonic"):
        fit_calibration(fitted, "euclidean", "cross_camera", "spline")
    one_camera = Embeddings(fitted.features, fitted.pids, torch.zeros_like(fitted.camids))
    with pytest.raises(EvaluationError, match="no pair of one person"):
        fit_calibration(one_camera, "euclidean", "cross_camera")
    alone = fitted.select(fitted.pids == 1)
    with pytest.raises(EvaluationError, match="no pair of two people"):
        fit_calibration(alone, "euclidean", "cross_camera")


# ---- by camera pair


def test_a_camera_pair_has_its_own_curve_drawn_to_that_of_all() -> None:
    images = people(count=30, seed=3)
    features = images.features.clone()
    features[images.camids == 2, 0] += 0.8  # this camera shifts all that it sees
    shifted = Embeddings(features, images.pids, images.camids).normalised()
    found = fit_calibration(shifted, "euclidean", "cross_camera")
    assert set(found.pairs) == {(0, 1), (0, 2), (1, 2)}
    assert found.pairs[0, 1].people == 30
    assert found.pairs[0, 1].weight == pytest.approx(30 / (30 + SHRINK))
    # Images of one person by cameras 0 and 2 are often so far apart, those by 0 and 1 seldom.
    apart = float(found.llr(1.2, 0, 2)) - float(found.llr(1.2, 1, 0))
    assert apart > 0.2
    assert float(found.llr(0.6)) == pytest.approx(float(found.pooled(0.6)))
    assert float(found.llr(0.6, 0, 7)) == float(found.pooled(0.6))  # nobody knows camera 7
    assert found.llr(np.full((2, 2), 0.6), [[0], [2]], [[0, 1]]).shape == (2, 2)


def test_few_people_by_two_cameras_have_the_curve_of_all() -> None:
    images = people(count=4, seed=3)
    assert not fit_calibration(images, "euclidean", "cross_camera").pairs
    assert not fit_calibration(people(), "euclidean", "cross_camera", camera_pairs=False).pairs


def test_the_curve_of_a_pair_is_the_weighted_mean(fitted: Embeddings) -> None:
    own = Curve((0.2, 0.8), (2.0, -2.0))
    pooled = Curve((0.0, 1.0), (1.0, -1.0))
    from reid.retrieval.calibration import _mixed

    mixed = _mixed(own, pooled, 0.25)
    for distance in np.linspace(-0.5, 1.5, 21):
        expected = 0.25 * own(distance) + 0.75 * pooled(distance)
        assert float(mixed(distance)) == pytest.approx(float(expected))


# ---- how good it is


def by_hand(chance: np.ndarray, labels: np.ndarray, prior: float, bins: int) -> float:
    weight = np.where(labels, prior / labels.sum(), (1 - prior) / (~labels).sum())
    total = 0.0
    for number in range(bins):
        inside = [min(int(p * bins), bins - 1) == number for p in chance]
        total += abs(sum(weight[inside] * chance[inside]) - sum(weight[inside] * labels[inside]))
    return total


@pytest.mark.parametrize("prior", [0.5, 0.05])
def test_the_measures_are_those_of_a_loop_over_pairs(
    fitted: Embeddings, others: Embeddings, prior: float
) -> None:
    calibration = fit_calibration(fitted, "euclidean", "cross_camera")
    scored = score_pairs(others, "euclidean", "cross_camera", calibrated(calibration, others), prior)
    found = reliability(scored, 10, 50)
    distances, labels, rows = pairs(others)
    llr = np.array(
        [
            float(calibration.llr(d, int(others.camids[i]), int(others.camids[j])))
            for d, (i, j) in zip(distances, rows, strict=True)
        ]
    )
    one, two = scored.totals
    assert (one.sum(), two.sum()) == (labels.sum(), (~labels).sum())
    # Pairs of a cell share its bin, which moves few of them into the next one.
    assert found.ece == pytest.approx(by_hand(probability(llr, prior), labels, prior, 10), abs=0.01)
    cost = (np.log2(1 + np.exp(-llr[labels])).mean() + np.log2(1 + np.exp(llr[~labels])).mean()) / 2
    assert found.cllr == pytest.approx(cost, rel=1e-6)
    assert sum(row.mass for row in found.bins) == pytest.approx(1)
    assert sum(row.mass * row.observed for row in found.bins) == pytest.approx(prior)
    far, tar = rates(one[None], two[None])
    assert (far[0, 0], tar[0, 0], far[0, -1], tar[0, -1]) == (0, 0, 1, 1)
    assert (np.diff(far) >= 0).all()


def test_a_naive_score_is_calibrated_worse(fitted: Embeddings, others: Embeddings) -> None:
    calibration = fit_calibration(fitted, "euclidean", "cross_camera")
    after = reliability(
        score_pairs(others, "euclidean", "cross_camera", calibrated(calibration, others), 0.5), 15, 100
    )
    plain = score_pairs(others, "euclidean", "cross_camera", naive(others, "euclidean"), 0.5, shifted=False)
    before = reliability(plain, 15, 100)
    assert before.ece > 2 * after.ece
    assert before.cllr > after.cllr
    assert before.ece_interval.low > after.ece_interval.high
    assert after.corrected <= after.ece
    distances, labels, _ = pairs(others)
    assert before.ece == pytest.approx(by_hand(1 - distances**2 / 4, labels, 0.5, 15), abs=0.01)


@pytest.mark.parametrize(
    ("metric", "features", "chance"),
    [
        ("cosine", [[1.0, 0.0], [0.0, 1.0]], 0.5),
        ("euclidean", [[1.0, 0.0], [0.0, 1.0]], 0.5),
        ("euclidean", [[3.0, 0.0], [0.0, 0.0]], 0.5),
    ],
)
def test_what_naive_means(metric: str, features: list[list[float]], chance: float) -> None:
    images = Embeddings(torch.tensor(features), torch.tensor([1, 2]), torch.tensor([0, 1]))
    scored = score_pairs(images, metric, "cross_camera", naive(images, metric), 0.5, shifted=False)
    (cell,) = np.flatnonzero(scored.totals[1])
    assert scored.chance[1, cell] == pytest.approx(chance, abs=1e-3)


def test_the_bias_of_few_pairs_is_taken_off() -> None:
    """Of probabilities that are right, few pairs show an error, and the corrected one is nearer to none."""
    plain, corrected = [], []
    calibration = fit_calibration(people(count=150, seed=9), "euclidean", "cross_camera", camera_pairs=False)
    for seed in range(6):
        images = people(count=10, seed=20 + seed)
        scored = score_pairs(images, "euclidean", "cross_camera", calibrated(calibration, images), 0.5)
        found = reliability(scored, 15, 100)
        plain.append(found.ece)
        corrected.append(found.corrected)
    assert np.mean(corrected) < np.mean(plain)


def test_replicates_are_people_drawn_anew(others: Embeddings, fitted: Embeddings) -> None:
    calibration = fit_calibration(fitted, "euclidean", "cross_camera")
    scored = score_pairs(others, "euclidean", "cross_camera", calibrated(calibration, others), 0.5)
    one, two = replicated(scored, 5, seed=4)
    drawn = np.random.default_rng([4, 16]).multinomial(16, np.full(16, 1 / 16), size=5)
    groups = np.random.default_rng(0).permutation(16)
    times = {pid: drawn[:, groups[pid - 1]] for pid in range(1, 17)}
    _, labels, rows = pairs(others)
    weight = np.zeros((5, 2))
    for (i, j), same in zip(rows, labels, strict=True):
        a, b = int(others.pids[i]), int(others.pids[j])
        weight[:, 0 if same else 1] += times[a] if same else times[a] * times[b]
    np.testing.assert_allclose(np.stack([one.sum(1), two.sum(1)], 1), weight)
    found = reliability(scored, 15, 5, seed=4)
    assert found.replicates == 5
    shares = [kind / kind.sum(1, keepdims=True) for kind in (one, two)]
    costs = (shares[0] @ scored.cost[0] + shares[1] @ scored.cost[1]) / 2
    assert found.cllr_interval == pytest.approx(interval(costs))


def test_wrong_measures_are_refused(others: Embeddings) -> None:
    scored = score_pairs(others, "euclidean", "cross_camera", naive(others, "euclidean"), 0.5)
    for wrong in ((1, 10), (10, 1)):
        with pytest.raises(ValueError, match="expected two or more of both"):
            reliability(scored, *wrong)
    alone = others.select(others.pids == 1)
    with pytest.raises(EvaluationError, match="no pair of one kind"):
        reliability(score_pairs(alone, "euclidean", "cross_camera", naive(alone, "euclidean"), 0.5))


def test_a_calibration_is_applied_by_the_cameras_of_a_block() -> None:
    images = people(count=2, cameras=2, each=2)
    pooled, own = Curve((0.0,), (1.0,)), Curve((0.0,), (3.0,))
    calibration = Calibration("logistic", pooled, {(0, 1): CameraPair(9, 0.5, own)}, 1, 1, 2)
    scored = score_pairs(images, "euclidean", "cross_camera", calibrated(calibration, images), 0.5)
    one, two = scored.totals
    assert one.sum() == 2  # both by cameras 0 and 1
    assert sorted(two[two > 0].tolist()) == [2, 2]
