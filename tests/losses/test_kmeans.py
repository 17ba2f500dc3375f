from __future__ import annotations

import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from reid.distance import squared_euclidean
from reid.losses.kmeans import kmeans


def draws(restarts: int = 10, clusters: int = 8, seed: int = 0) -> Tensor:
    return torch.rand(restarts, clusters, 4, generator=torch.Generator().manual_seed(seed))


def points(count: int, dim: int, spread: float, seed: int) -> Tensor:
    """Eight blobs; the wider the spread, the less they stand apart."""
    generator = torch.Generator().manual_seed(seed)
    centres = 5 * torch.randn(8, dim, generator=generator)
    return centres[torch.arange(count) % 8] + spread * torch.randn(count, dim, generator=generator)


def cluster(x: Tensor, chances: Tensor, iterations: int = 15) -> Tensor:
    return kmeans(squared_euclidean(x, x), chances, iterations)


def inertia(x: Tensor, assignment: Tensor) -> float:
    """Sum of the squared distances to the means, from the coordinates."""
    groups = [x[assignment == label] for label in assignment.unique()]
    return sum(((group - group.mean(dim=0)) ** 2).sum().item() for group in groups)


def partition(assignment: Tensor) -> set[frozenset[int]]:
    return {frozenset((assignment == label).nonzero().flatten().tolist()) for label in assignment.unique()}


def test_finds_blobs_that_stand_apart() -> None:
    x = points(64, 16, spread=0.1, seed=0)
    assert partition(cluster(x, draws())) == {frozenset(range(label, 64, 8)) for label in range(8)}


@pytest.mark.parametrize("seed", range(5))
def test_every_point_lies_with_its_nearest_mean(seed: int) -> None:
    """What k-means settles at: checked from coordinates, which the code never uses."""
    x = points(64, 32, spread=4.0, seed=seed).double()
    assignment = cluster(x, draws())
    means = torch.stack([x[assignment == label].mean(dim=0) for label in range(8)])
    assert torch.equal(assignment, torch.cdist(x, means).argmin(dim=1))


@pytest.mark.parametrize("seed", range(5))
def test_is_as_tight_as_that_of_scikit_learn(seed: int) -> None:
    x = points(64, 32, spread=4.0, seed=seed)
    theirs = KMeans(8, n_init=10, random_state=0).fit(x.numpy()).inertia_
    assert inertia(x, cluster(x, draws())) <= 1.03 * theirs


def test_restarts_never_make_it_worse() -> None:
    x, chances = points(64, 32, spread=4.0, seed=7), draws()
    alone = [inertia(x, cluster(x, chances[row : row + 1])) for row in range(10)]
    assert inertia(x, cluster(x, chances)) == pytest.approx(min(alone), rel=1e-6)
    assert min(alone) < max(alone)


def test_settles_well_before_the_last_iteration() -> None:
    x = points(64, 32, spread=4.0, seed=3)
    assert torch.equal(cluster(x, draws()), cluster(x, draws(), iterations=100))


@pytest.mark.parametrize("distinct", [1, 2, 5])
def test_fewer_distinct_points_than_clusters(distinct: int) -> None:
    x = points(distinct, 16, spread=1.0, seed=0).double().repeat(4, 1)
    expected = {frozenset(range(start, 4 * distinct, distinct)) for start in range(distinct)}
    assert partition(cluster(x, draws())) == expected


def test_fewer_points_than_clusters() -> None:
    x = points(3, 16, spread=1.0, seed=0)
    assert len(cluster(x, draws()).unique()) == 3
    assert cluster(x[:1], draws()).shape == (1,)


def test_same_batch_same_clusters() -> None:
    x = points(64, 32, spread=4.0, seed=1)
    assert torch.equal(cluster(x, draws()), cluster(x, draws()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(cluster(x, draws()), kmeans(squared_euclidean(x, x), draws()))
