"""Which pairs count, and how many lie at or below a distance: against a loop over all pairs."""

import itertools
import math

import numpy as np
import pytest
import torch

from reid.retrieval import (
    Embeddings,
    EvaluationError,
    count_pairs,
    hardest_pairs,
    pair_totals,
    require_pairs,
    verify,
    verify_counts,
)
from reid.retrieval.pairs import GRID, pair_blocks


def people(
    count: int = 60, pids: int = 8, cams: int = 3, seed: int = 0, spread: float = 0.6, dim: int = 8
) -> Embeddings:
    """Clusters on the unit sphere; pid 0, the first, is the distractors'."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(pids, dim, generator=generator)
    pid = torch.randint(0, pids, (count,), generator=generator)
    features = centres[pid] + spread * torch.randn(count, dim, generator=generator)
    return Embeddings(features, pid, torch.randint(0, cams, (count,), generator=generator)).normalised()


def naive_pairs(images: Embeddings, metric: str, protocol: str) -> tuple[list[float], list[float]]:
    genuine, impostor = [], []
    features = images.features.double().numpy()
    pids, camids = images.pids.tolist(), images.camids.tolist()
    for i, j in itertools.combinations(range(len(images)), 2):
        a, b = features[i], features[j]
        distance = math.dist(a, b) if metric == "euclidean" else 1 - a @ b / math.sqrt((a @ a) * (b @ b))
        if pids[i] != pids[j]:
            impostor.append(distance)
        elif pids[i] > 0 and (protocol == "ignore_camera" or camids[i] != camids[j]):
            genuine.append(distance)
    return genuine, impostor


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("protocol", ["cross_camera", "ignore_camera"])
@pytest.mark.parametrize("chunk_bytes", [1, 5000, 2**26])
def test_the_pairs_of_the_protocol_each_once(metric: str, protocol: str, chunk_bytes: int) -> None:
    images = people()
    found: tuple[list[float], list[float]] = [], []
    for block in pair_blocks(images, metric, protocol, chunk_bytes):
        for kind, chosen in zip(found, (block.genuine, block.impostor), strict=True):
            kind.extend(block.distance[chosen].tolist())
    for measured, expected in zip(found, naive_pairs(images, metric, protocol), strict=True):
        assert sorted(measured) == pytest.approx(sorted(expected), abs=2e-6)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_counting_on_a_grid_gives_the_rates_of_the_distances(metric: str) -> None:
    images = people(200, pids=20)
    counts = count_pairs(images, metric, "cross_camera", chunk_bytes=100_000)
    genuine, impostor = naive_pairs(images, metric, "cross_camera")
    assert len(counts.thresholds) == GRID + 1
    assert (counts.genuine[-1], counts.impostor[-1]) == (len(genuine), len(impostor))
    exact = verify(genuine, impostor)
    counted = verify_counts(counts.thresholds, counts.genuine, counts.impostor)
    step = counts.thresholds[1] - counts.thresholds[0]
    assert counted.eer == pytest.approx(exact.eer, abs=1e-3)
    assert counted.best_f1 == pytest.approx(exact.best_f1, abs=1e-3)
    for name in ("far_1e-2", "far_1e-3"):
        # The same pairs, less those of the last step; the grid may go on to just before the next impostor.
        threshold = counted.points[name].threshold
        assert threshold > exact.points[name].threshold - step
        assert threshold < min(distance for distance in impostor if distance > exact.points[name].threshold)
        assert counted.points[name].far <= {"far_1e-2": 1e-2, "far_1e-3": 1e-3}[name]
        assert counted.points[name].far == pytest.approx(exact.points[name].far, abs=2e-4)


@pytest.mark.parametrize("protocol", ["cross_camera", "ignore_camera"])
def test_pairs_are_known_before_any_feature(protocol: str) -> None:
    images = people()
    expected = tuple(len(kind) for kind in naive_pairs(images, "cosine", protocol))
    assert pair_totals(images.pids, images.camids, protocol) == expected


def test_too_few_pairs_for_a_target_are_refused() -> None:
    require_pairs(1, 1000, "far_1e-3")
    require_pairs(1, 1, "eer")
    with pytest.raises(
        EvaluationError, match=r"far_1e-3 needs at least 1,000 .* there are 999\. .*far_1e-2, eer"
    ):
        require_pairs(1, 999, "far_1e-3")
    with pytest.raises(EvaluationError, match="no genuine pair"):
        require_pairs(0, 999, "eer")


def test_features_of_any_length_fit_on_the_grid() -> None:
    images = people()
    long = Embeddings(images.features * 250, images.pids, images.camids)
    counts = count_pairs(long, "euclidean", "cross_camera")
    assert counts.thresholds[-1] == pytest.approx(500, rel=1e-3)
    assert counts.impostor[-2] == counts.impostor[-1]  # none had to be squeezed in at the end


def test_memory_stays_near_what_is_asked() -> None:
    images = people(2000, pids=100)
    largest = max(block.distance.numel() for block in pair_blocks(images, "euclidean", "cross_camera", 2**20))
    assert largest * 24 <= 2**20


def test_an_image_drawn_twice_is_no_positive_of_itself() -> None:
    line = Embeddings(
        torch.tensor([[0.0], [1.0], [5.0], [9.0]]), torch.tensor([1, 1, 2, 3]), torch.zeros(4).long()
    )
    # Person 1 has two images, 2 and 3 one each; four of each are drawn.
    batch = torch.tensor([0, 1, 1, 0, 2, 2, 2, 2, 3, 3, 3, 3])
    positive, negative = hardest_pairs(line, "euclidean", batch)
    assert positive[:4].tolist() == pytest.approx([1.0, 1.0, 1.0, 1.0])
    assert positive[4:].isnan().all()
    assert negative.tolist() == pytest.approx([5.0, 4.0, 4.0, 5.0, *[4.0] * 8])


def test_hardest_pairs_by_hand() -> None:
    line = Embeddings(
        torch.tensor([[0.0], [1.0], [3.0], [10.0], [11.0], [50.0]]),
        torch.tensor([1, 1, 1, 2, 2, 3]),
        torch.zeros(6, dtype=torch.int64),
    )
    positive, negative = hardest_pairs(line, "euclidean")
    assert positive[:5].tolist() == [3, 2, 3, 1, 1]
    assert math.isnan(positive[5])  # the only image of its person
    assert negative.tolist() == [10, 9, 7, 7, 8, 39]


def test_two_people_are_needed_for_a_hardest_negative() -> None:
    alone = people(6, pids=2).select(torch.tensor([0, 1]))
    same = Embeddings(alone.features, torch.tensor([1, 1]), alone.camids)
    assert np.isnan(hardest_pairs(same, "cosine")[1].numpy()).all()
