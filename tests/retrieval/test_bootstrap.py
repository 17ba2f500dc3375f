"""Intervals over identities: against resampling for real, and against what is known without it."""

import itertools

import numpy as np
import pytest
import torch

from reid.retrieval import Embeddings, Verification, bootstrap, count_pairs, verify, verify_counts
from reid.retrieval.bootstrap import (
    count_by_group,
    identities_of,
    interval,
    mean_intervals,
    replicate_counts,
    spread_thresholds,
)


def people(identities: int, each: int = 6, spread: float = 0.9, seed: int = 0) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)
    pids = torch.arange(1, identities + 1).repeat_interleave(each)
    centres = torch.randn(identities, 12, generator=generator)
    noise = torch.randn(identities * each, 12, generator=generator)
    # Some people are harder than others: that is what resampling people is for.
    hardness = torch.rand(identities, 1, generator=generator) + 0.5
    features = centres[pids - 1] + spread * hardness[pids - 1] * noise
    return Embeddings(features, pids, torch.arange(len(pids)) % 3).normalised()


def measured(images: Embeddings, target: str = "eer") -> Verification:
    counts = count_pairs(images, "euclidean", "cross_camera")
    return verify_counts(counts.thresholds, counts.genuine, counts.impostor, target)


def resampled(images: Embeddings, people_drawn: np.ndarray) -> Verification:
    """What a replicate is, spelt out: each drawn person with all images, as often as drawn."""
    distance = torch.cdist(images.features.double(), images.features.double()).numpy()
    times = np.bincount(people_drawn, minlength=int(images.pids.max()) + 1)
    pids, camids = images.pids.tolist(), images.camids.tolist()
    genuine, impostor = [], []
    for i, j in itertools.combinations(range(len(images)), 2):
        a, b = pids[i], pids[j]
        if a != b:
            impostor += [distance[i, j]] * int(times[a] * times[b])
        elif camids[i] != camids[j]:
            genuine += [distance[i, j]] * int(times[a])
    return verify(genuine, impostor)


def test_a_replicate_is_the_set_of_the_people_drawn() -> None:
    images = people(12)
    verification = measured(images)
    thresholds = spread_thresholds(verification)
    group = torch.from_numpy(identities_of(images.pids.numpy()))
    counts = count_by_group(images, group, 12, torch.from_numpy(thresholds), "euclidean", "cross_camera")
    generator = np.random.default_rng(3)
    for _ in range(3):
        people_drawn = generator.integers(1, 13, size=12)
        drawn = torch.from_numpy(np.bincount(people_drawn - 1, minlength=12))[None]
        genuine, impostor = replicate_counts(counts, drawn)
        expected = resampled(images, people_drawn)
        assert genuine[0, -1] == expected.genuine
        assert impostor[0, -1] == expected.impostor
        at = np.searchsorted(expected.thresholds, thresholds, side="right") - 1
        # Pairs at a threshold within rounding of it may fall on either side.
        assert np.abs(impostor[0] / expected.impostor - expected.far[at]).max() < 2e-3
        assert np.abs(genuine[0] / expected.genuine - expected.tar[at]).max() < 2e-2


def test_intervals_are_those_of_resampling_for_real() -> None:
    images = people(15, each=4)
    verification = bootstrap(images, measured(images), "euclidean", "cross_camera", replicates=2000, seed=1)
    generator = np.random.default_rng(2)
    rates = np.array([resampled(images, generator.integers(1, 16, size=15)).eer for _ in range(300)])
    low, high = interval(rates)
    width = high - low
    assert abs(verification.eer.low - low) < 0.15 * width
    assert abs(verification.eer.high - high) < 0.15 * width


def test_every_interval_holds_its_estimate() -> None:
    images = people(60, each=8)
    verification = measured(images, "far_1e-2")
    sure = bootstrap(images, verification, "euclidean", "cross_camera", replicates=300)
    assert sure.eer.low < verification.eer < sure.eer.high
    assert sure.best_f1.low < verification.best_f1 < sure.best_f1.high
    for wanted, range_ in sure.tar_at_far.items():
        assert range_.low < verification.tar_at_far[wanted] < range_.high
    assert set(sure.far) == {"far_1e-2", "far_1e-3", "far_1e-4", "eer", "f1"}
    for name, point in verification.points.items():
        assert sure.far[name].low <= point.far <= sure.far[name].high
        assert sure.tar[name].low <= point.tar <= sure.tar[name].high
    assert (sure.identities, sure.groups, sure.replicates) == (60, 60, 300)


def test_more_people_make_it_surer() -> None:
    def width(identities: int) -> float:
        images = people(identities, each=6)
        sure = bootstrap(images, measured(images), "euclidean", "cross_camera", replicates=200)
        return sure.eer.high - sure.eer.low

    assert width(160) < 0.7 * width(40)


def test_groups_of_people_give_about_the_same_as_people() -> None:
    images = people(160, each=6)
    verification = measured(images)
    one = bootstrap(images, verification, "euclidean", "cross_camera", replicates=400)
    many = bootstrap(images, verification, "euclidean", "cross_camera", replicates=400, max_groups=40)
    assert (many.groups, many.identities) == (40, 160)
    assert many.eer.high - many.eer.low == pytest.approx(one.eer.high - one.eer.low, rel=0.4)


def test_the_seed_decides() -> None:
    images = people(20)
    verification = measured(images)

    def drawn(seed: int) -> object:
        return bootstrap(images, verification, "euclidean", "cross_camera", replicates=50, seed=seed)

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)


def test_each_distractor_is_a_person_of_its_own() -> None:
    assert identities_of(np.array([5, 0, 5, 7, 0])).tolist() == [2, 1, 2, 3, 0]
    images = people(10)
    with_distractors = Embeddings(
        images.features, torch.where(images.pids > 8, 0, images.pids), images.camids
    )
    verification = measured(with_distractors)
    sure = bootstrap(with_distractors, verification, "euclidean", "cross_camera", replicates=20)
    assert sure.identities == 8 + 12


def test_few_impostors_have_no_interval_for_a_small_rate() -> None:
    images = people(4, each=4)
    verification = measured(images)
    assert verification.impostor == 96
    sure = bootstrap(images, verification, "euclidean", "cross_camera", replicates=20)
    assert sure.tar_at_far == {}
    assert set(sure.far) == {"eer", "f1"}


def test_no_replicate_is_refused() -> None:
    images = people(4)
    with pytest.raises(ValueError, match="replicates is 0"):
        bootstrap(images, measured(images), "euclidean", "cross_camera", replicates=0)


def test_the_interval_of_a_mean_resamples_people_with_all_their_queries() -> None:
    generator = np.random.default_rng(0)
    pids = np.repeat(np.arange(1, 41), generator.integers(1, 6, 40))
    values = generator.random(len(pids)) * generator.random(41)[pids]
    drawn = np.random.default_rng(3).integers(1, 41, (4000, 40))
    naive = [np.concatenate([values[pids == person] for person in people]).mean() for people in drawn]
    found = mean_intervals({"mAP": values}, pids, replicates=4000)["mAP"]
    assert found == pytest.approx(np.percentile(naive, [2.5, 97.5]), abs=0.01)
    assert mean_intervals({"mAP": values}, pids) == mean_intervals({"mAP": values}, pids)
    in_groups = mean_intervals({"mAP": values}, pids, max_groups=20)["mAP"]
    assert in_groups == pytest.approx(found, abs=0.08)
    assert mean_intervals({"mAP": values[:1]}, pids[:1]) == {}
