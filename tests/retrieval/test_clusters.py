"""Jaccard distances of a set with itself, and the clusters that they give, against the definition in full."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import DBSCAN
from torch import Tensor

from reid.distance import normalise
from reid.retrieval import rerank
from reid.retrieval.clusters import OUTLIER, Clusters, agreement, centred_by_camera, cluster
from reid.retrieval.jaccard import jaccard_neighbours


def people(seed: int, count: int = 9, each: int = 8, noise: float = 0.5) -> Tensor:
    """Features of unit length around so many centres, in random order."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(count, 1, 12, generator=generator, dtype=torch.float64)
    spread = noise * torch.randn(count, each, 12, generator=generator, dtype=torch.float64)
    order = torch.randperm(count * each, generator=generator)
    return normalise((centres + spread).flatten(0, 1)[order])


def naive(features: Tensor, k1: int, k2: int) -> np.ndarray:
    """(N, N): the definition, image by image and set by set."""
    images = features.double().numpy()
    n = len(images)
    squared = ((images[:, None] - images[None]) ** 2).sum(axis=2)
    squared = squared / squared.max(axis=1, keepdims=True)
    ranking = [sorted(range(n), key=lambda j: (j != i, squared[i, j], j)) for i in range(n)]

    def reciprocal(i: int, k: int) -> set[int]:
        return {j for j in ranking[i][: k + 1] if i in ranking[j][: k + 1]}

    weights = np.zeros((n, n))
    for i in range(n):
        members = reciprocal(i, k1)
        for j in reciprocal(i, k1):
            more = reciprocal(j, round(k1 / 2))
            if 3 * len(more & reciprocal(i, k1)) > 2 * len(more):
                members |= more
        for j in members:
            weights[i, j] = np.exp(-squared[i, j])
        weights[i] /= weights[i].sum()
    weights = np.stack([weights[ranking[i][:k2]].mean(axis=0) for i in range(n)])
    shared = np.array([[np.minimum(weights[i], weights[j]).sum() for j in range(n)] for i in range(n)])
    distance = 1 - shared / (2 - shared)
    np.fill_diagonal(distance, 0)
    return distance


def dense(features: Tensor, limit: float, **options: int | bool) -> np.ndarray:
    """What `jaccard_neighbours` lists, as a matrix; NaN where it lists nothing."""
    near = jaccard_neighbours(features, limit, **options)  # type: ignore[arg-type]
    found = np.full((len(features), len(features)), np.nan)
    rows = torch.repeat_interleave(torch.arange(len(features)), near.lengths)
    found[rows.numpy(), near.columns.numpy()] = near.values.numpy()
    return found


@pytest.mark.parametrize(("k1", "k2"), [(8, 3), (5, 1), (30, 6)])
@pytest.mark.parametrize("chunk_bytes", [2**26, 2**12])
def test_jaccard_neighbours_are_those_of_the_definition(k1: int, k2: int, chunk_bytes: int) -> None:
    features = people(0)
    found, expected = dense(features, 0.7, k1=k1, k2=k2, chunk_bytes=chunk_bytes), naive(features, k1, k2)
    assert (np.isnan(found) == (expected > 0.7)).all()
    listed = ~np.isnan(found)
    np.testing.assert_allclose(found[listed], expected[listed], atol=1e-12)
    assert listed.sum() > 3 * len(features)


def test_rerank_is_the_same_jaccard_distance() -> None:
    features = people(1)
    half = len(features) // 2
    reranked = rerank(features[:half], features[half:], 8, 3, lambda_value=0.0).numpy()
    found = dense(features, 0.8, k1=8, k2=3)[:half, half:]
    listed = ~np.isnan(found)
    assert listed.any()
    np.testing.assert_allclose(found[listed], reranked[listed], atol=1e-12)


def test_the_distance_is_symmetric_and_equal_images_have_none() -> None:
    features = people(2).repeat_interleave(2, dim=0)[:60]
    found = dense(features, 0.6, k1=8, k2=1)
    np.testing.assert_allclose(found, found.T, atol=1e-12)
    assert (np.diag(found) == 0).all()


@pytest.mark.parametrize(("limit", "k1", "k2"), [(1.0, 8, 3), (-0.1, 8, 3), (0.5, 0, 3), (0.5, 8, 0)])
def test_wrong_arguments_are_refused(limit: float, k1: int, k2: int) -> None:
    with pytest.raises(ValueError, match=r"must be at least"):
        jaccard_neighbours(people(0), limit, k1, k2)


def test_features_that_are_not_finite_are_refused() -> None:
    features = people(0)
    features[3, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        jaccard_neighbours(features, 0.5)


def test_faiss_finds_nearly_the_same_neighbours() -> None:
    pytest.importorskip("faiss")
    from reid.retrieval.approximate_nearest import approximate_nearest
    from reid.retrieval.nearest import nearest_images

    features = people(3, count=80, each=10).float()
    exact, farthest = nearest_images(features, 9)
    found, roughly = approximate_nearest(features, 9)
    assert found.shape == exact.shape
    assert (found[:, 0] == torch.arange(len(features))).all()
    assert all(len(set(row)) == 9 for row in found.tolist())
    shared = [len({*a} & {*b}) for a, b in zip(exact.tolist(), found.tolist(), strict=True)]
    assert np.mean(shared) > 8.5
    torch.testing.assert_close(roughly, farthest)  # all of so few images are in the sample
    near = jaccard_neighbours(features, 0.5, 8, 3, approximate=True)
    assert int(near.lengths.min()) >= 1


def test_faiss_lists_an_image_first_among_equal_ones_and_fills_up_small_cells() -> None:
    pytest.importorskip("faiss")
    from reid.retrieval.approximate_nearest import approximate_nearest

    features = people(4, count=4, each=16).float().repeat(3, 1)
    found, _ = approximate_nearest(features, 150)  # more than any cell that is opened holds
    assert (found[:, 0] == torch.arange(len(features))).all()
    assert (found.sort(dim=1).values.diff(dim=1) > 0).all()


def test_clusters_are_those_of_dbscan_on_all_distances() -> None:
    features = people(5, noise=0.7)
    found = cluster(features, 0.55, 3, 8, 3)
    expected = DBSCAN(eps=0.55, min_samples=3, metric="precomputed").fit_predict(naive(features, 8, 3))
    assert found.labels.tolist() == expected.tolist()
    assert found.count == expected.max() + 1 > 1
    assert found.outliers == pytest.approx((expected == OUTLIER).mean())
    assert 0 < found.outliers < 1
    assert found.sizes.tolist() == [int((expected == label).sum()) for label in range(found.count)]


def test_means_are_of_the_crops_in_a_cluster() -> None:
    clusters = Clusters(torch.tensor([1, OUTLIER, 0, 1]))
    means = clusters.means(torch.tensor([[2.0, 0.0], [9.0, 9.0], [5.0, 1.0], [4.0, 2.0]]))
    assert means.tolist() == [[5.0, 1.0], [3.0, 1.0]]


def test_no_clusters_are_counted_as_none() -> None:
    nothing = Clusters(torch.full((5,), OUTLIER))
    assert (nothing.count, nothing.outliers, nothing.sizes.tolist()) == (0, 1.0, [])


def test_cameras_that_see_everybody_in_another_light_are_made_alike() -> None:
    features = people(6, noise=0.15)
    generator = torch.Generator().manual_seed(0)
    camids = torch.randint(0, 2, (len(features),), generator=generator)
    light = torch.randn(2, 12, generator=generator, dtype=torch.float64)
    lit = normalise(features + 1.5 * light[camids])
    centred = centred_by_camera(lit, camids)
    for camera in (0, 1):
        assert float((lit - centred)[camids == camera].mean(0).norm()) > 0.1
    torch.testing.assert_close(centred.norm(dim=1), torch.ones(len(lit), dtype=torch.float64))
    truth = cluster(features, 0.5, 4, 8, 3).labels
    apart, together = (cluster(lit, 0.5, 4, 8, 3, given).labels for given in (None, camids))
    assert agreement(truth, together) > agreement(truth, apart)


def test_agreement_knows_no_numbers_and_leaves_outliers_out() -> None:
    before = torch.tensor([0, 0, 1, 1, 2, 2, OUTLIER, 0])
    renamed = torch.tensor([2, 2, 0, 0, 1, 1, 1, OUTLIER])
    assert agreement(before, renamed) == pytest.approx(1.0)
    assert agreement(before, torch.tensor([0, 1, 0, 1, 0, 1, 0, 1])) < 0.1
    assert agreement(before, torch.full((8,), OUTLIER)) == 0.0
