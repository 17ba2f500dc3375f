"""Re-ranking: the published numbers, a dense reference of its own, and what has to hold for any data."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import pytest
import torch
from torch import Tensor

from reid.retrieval import Embeddings, evaluate, rerank, rerank_bytes
from reid.retrieval.nearest import BLOCK, nearest_images
from reid.retrieval.sparse import SparseRows, row_chunks

Floats = npt.NDArray[np.float64]
GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "rerank.npz")


def golden(name: str) -> Tensor:
    return torch.from_numpy(GOLDEN[f"c0_{name}"])


def dense(query: Floats, gallery: Floats, k1: int, k2: int, lambda_value: float) -> Floats:
    """The definition, set by set, with every matrix in full."""
    images = np.concatenate([query, gallery])
    n, q = len(images), len(query)
    distance = ((images[:, None] - images[None]) ** 2).sum(axis=2)
    farthest = distance.max(axis=1, keepdims=True)
    distance = distance / np.where(farthest > 0, farthest, 1)

    ranking = [sorted(range(n), key=lambda j: (j != i, distance[i, j], j)) for i in range(n)]

    def reciprocal(i: int, k: int) -> set[int]:
        return {j for j in ranking[i][: k + 1] if i in ranking[j][: k + 1]}

    weights = np.zeros((n, n))
    for i in range(n):
        unexpanded = reciprocal(i, k1)
        expanded = set(unexpanded)
        for j in unexpanded:
            candidates = reciprocal(j, int(np.around(k1 / 2)))
            if 3 * len(candidates & unexpanded) > 2 * len(candidates):
                expanded |= candidates
        members = sorted(expanded)
        weights[i, members] = np.exp(-distance[i, members])
        weights[i] /= weights[i].sum()
    weights = np.stack([weights[ranking[i][:k2]].mean(axis=0) for i in range(n)])
    shared = np.minimum(weights[:q, None], weights[None, q:]).sum(axis=2)
    return (1 - lambda_value) * (1 - shared / (2 - shared)) + lambda_value * distance[:q, q:]


def check(query: Tensor, gallery: Tensor, k1: int = 20, k2: int = 6, lambda_value: float = 0.3) -> Tensor:
    """`rerank`, compared with the definition."""
    result = rerank(query, gallery, k1, k2, lambda_value)
    expected = dense(query.double().numpy(), gallery.double().numpy(), k1, k2, lambda_value)
    assert result.shape == (len(query), len(gallery))
    np.testing.assert_allclose(
        result.numpy(), expected, atol=1e-5 if result.dtype == torch.float32 else 1e-12
    )
    return result


def people(
    seed: int, pids: int = 8, each: int = 9, dimensions: int = 6, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Clusters that overlap somewhat, in random order."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(pids, dimensions, generator=generator, dtype=torch.float64)
    noise = 0.6 * torch.randn(pids, each, dimensions, generator=generator, dtype=torch.float64)
    features = (centres[:, None] + noise).flatten(0, 1)
    return features[torch.randperm(len(features), generator=generator)].to(dtype)


def integers(count: int, seed: int) -> Tensor:
    """Few small integers: exact distances, most of them tied, and many images that are the same."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 3, (count, 3), generator=generator).double()


# ---- the published numbers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_golden(dtype: torch.dtype) -> None:
    k1, k2, lambda_value = GOLDEN["c0_param"].tolist()
    query, gallery = golden("q_feat").to(dtype), golden("g_feat").to(dtype)
    distance = rerank(query, gallery, int(k1), int(k2), lambda_value)
    assert distance.dtype == dtype
    np.testing.assert_allclose(distance.numpy(), GOLDEN["c0_distance_exact"], atol=1e-5)
    np.testing.assert_allclose(distance.numpy(), GOLDEN["c0_distance"], atol=5e-3)

    scores = evaluate(
        Embeddings(query, golden("q_pid"), golden("q_cam")),
        Embeddings(gallery, golden("g_pid"), golden("g_cam")),
        distance=distance,
    )
    assert scores.mAP == pytest.approx(float(GOLDEN["c0_mAP_exact"]), abs=1e-9)
    np.testing.assert_allclose(scores.cmc.numpy(), GOLDEN["c0_cmc_exact"], atol=1e-7)


def test_the_published_values_are_the_defaults() -> None:
    query, gallery = golden("q_feat"), golden("g_feat")
    assert torch.equal(rerank(query, gallery), rerank(query, gallery, 20, 6, 0.3))


# ---- the definition


@pytest.mark.parametrize("k1", [1, 2, 5, 6, 20])
@pytest.mark.parametrize("k2", [1, 3, 6])
def test_follows_the_definition(k1: int, k2: int) -> None:
    images = people(seed=k1 + 10 * k2)
    check(images[:20], images[20:], k1, k2)


@pytest.mark.parametrize("lambda_value", [0, 0.3, 1])
def test_float32_features(lambda_value: float) -> None:
    images = people(seed=3, dtype=torch.float32)
    assert check(images[:20], images[20:], 6, 3, lambda_value).dtype == torch.float32


@pytest.mark.parametrize("seed", range(4))
def test_ties_and_duplicates_are_taken_in_the_order_of_the_images(seed: int) -> None:
    images = integers(60, seed)
    check(images[:15], images[15:], k1=4, k2=3)


@pytest.mark.parametrize("queries", [1, 2, 5])
@pytest.mark.parametrize("gallery", [1, 3])
def test_fewer_images_than_neighbours(queries: int, gallery: int) -> None:
    images = people(seed=queries, pids=2, each=5)
    check(images[:queries], images[queries : queries + gallery])


@pytest.mark.parametrize("images", [10 * BLOCK - 1, 10 * BLOCK, 10 * BLOCK + 1])
@pytest.mark.parametrize("distinct", [3, 10_000], ids=["tied", "apart"])
def test_the_nearest_are_those_of_a_full_sort(images: int, distinct: int) -> None:
    generator = torch.Generator().manual_seed(images)
    features = torch.randint(0, distinct, (images, 4), generator=generator).double()
    squared = ((features[:, None] - features) ** 2).sum(dim=2)
    kept = torch.empty(7, images - 7, dtype=torch.float64)
    near, farthest = nearest_images(features, 5, chunk_bytes=images * 1000, kept=kept)
    assert torch.equal(farthest, squared.amax(dim=1))
    assert torch.equal(kept, squared[:7, 7:])
    itself_first = squared.fill_diagonal_(-1)
    assert torch.equal(near, itself_first.sort(dim=1, stable=True).indices[:, :5])


def test_more_duplicates_than_neighbours() -> None:
    images = torch.ones(50, 4, dtype=torch.float64)
    result = check(images[:5], images[5:])
    assert bool((result > -1e-12).all() & (result <= 1).all())


def test_one_image_on_each_side() -> None:
    # They are neighbours of each other with weights 1 / (1 + e) and e / (1 + e), averaged to 1/2 each.
    result = rerank(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]))
    assert result.item() == pytest.approx(0.3)


# ---- what has to hold for any data


def test_lambda_one_is_the_distance_over_its_maximum() -> None:
    images = people(seed=5)
    distance = torch.cdist(images[:10], images) ** 2
    expected = distance[:, 10:] / distance.amax(dim=1, keepdim=True)
    torch.testing.assert_close(rerank(images[:10], images[10:], lambda_value=1), expected)


def test_the_scale_of_the_features_does_not_count() -> None:
    images = people(seed=6)
    torch.testing.assert_close(
        rerank(images[:10], images[10:]), rerank(1000 * images[:10], 1000 * images[10:])
    )


def test_the_order_of_the_images_does_not_count() -> None:
    images, order = people(seed=7), torch.randperm(52, generator=torch.Generator().manual_seed(0))
    result = rerank(images[:20], images[20:], 5, 3)
    torch.testing.assert_close(rerank(images[:20], images[20:][order], 5, 3), result[:, order])


@pytest.mark.parametrize("chunk_bytes", [1, 5_000])
def test_small_chunks_change_nothing(chunk_bytes: int) -> None:
    images = integers(60, seed=9)
    whole = rerank(images[:15], images[15:], 6, 3)
    assert torch.equal(rerank(images[:15], images[15:], 6, 3, chunk_bytes=chunk_bytes), whole)


def test_the_features_are_not_touched() -> None:
    images = people(seed=8)
    kept = images.clone()
    rerank(images[:20], images[20:])
    assert torch.equal(images, kept)


def test_two_people_that_a_bad_photo_mixes_up_are_told_apart() -> None:
    """A gallery image of the other person is nearer, but its neighbours are others than the query's."""
    mine = torch.tensor([[0.0, 0.0], [0.4, 0.0], [0.8, 0.0], [1.2, 0.0], [1.6, 0.0]])
    others = torch.tensor([[0.0, 0.7], [0.0, 0.9], [0.0, 1.0], [0.0, 1.1], [0.0, 1.2]])
    gallery = torch.cat([mine[1:], others]).double()
    query = mine[:1].double()
    assert ((gallery - query) ** 2).sum(dim=1).argsort()[:3].tolist() == [0, 4, 1]
    assert rerank(query, gallery, k1=4, k2=2)[0].argsort()[:2].tolist() == [0, 1]


# ---- memory


def test_says_what_it_will_need(caplog: pytest.LogCaptureFixture) -> None:
    images = people(seed=1)
    with caplog.at_level(logging.INFO, "reid.retrieval.rerank"):
        rerank(images[:20], images[20:])
    assert caplog.messages == [
        "re-ranking 20 queries in a gallery of 52: about 0.25 GiB, 0.00 of them the result"
    ]


def test_market_takes_less_than_a_gibibyte_and_a_half() -> None:
    assert 3_368 * 15_913 * 4 < rerank_bytes(3_368, 15_913, 512) < 1.5 * 2**30


@pytest.mark.slow
def test_what_it_says_covers_what_it_takes() -> None:
    images = people(seed=2, pids=500, each=12, dimensions=64, dtype=torch.float32)
    query, gallery = images[:1000], images[1000:]
    process = psutil.Process()
    before = process.memory_info().rss
    result = rerank(query, gallery, chunk_bytes=2**20)
    kept = process.memory_info().rss - before
    estimate = rerank_bytes(1000, 5000, 64, chunk_bytes=2**20)
    assert result.nbytes < estimate < 4 * result.nbytes
    assert kept < estimate


# ---- what it refuses


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k1": 0}, "k1 is 0"),
        ({"k2": 0}, "k2 is 0"),
        ({"lambda_value": 1.5}, "between 0 and 1"),
        ({"gallery_features": torch.ones(3, 5)}, "4 dimensions"),
        ({"gallery_features": torch.ones(0, 4)}, "at least one"),
        ({"query_features": torch.ones(3, 4, dtype=torch.int64)}, "expected floats"),
        ({"query_features": torch.tensor([[1, 2, float("nan"), 0]])}, "NaN"),
    ],
)
def test_refuses(change: dict[str, object], message: str) -> None:
    arguments = {"query_features": torch.ones(2, 4), "gallery_features": torch.ones(3, 4), **change}
    with pytest.raises(ValueError, match=message):
        rerank(**arguments)  # type: ignore[arg-type]


# ---- sparse rows

MATRIX = torch.tensor([[0.0, 2, 0, 1], [0, 0, 0, 0], [5, 0, 0, 3]])


def sparse(matrix: Tensor) -> SparseRows:
    rows, columns = matrix.nonzero(as_tuple=True)
    return SparseRows.of_sorted(rows, columns, matrix[rows, columns], len(matrix))


def test_rows_may_be_asked_for_in_any_order_and_twice() -> None:
    place, columns, values = sparse(MATRIX).of(torch.tensor([2, 1, 0, 2]))
    assert place.tolist() == [0, 0, 2, 2, 3, 3]
    assert columns.tolist() == [0, 3, 1, 3, 0, 3]
    assert values.tolist() == [5, 3, 2, 1, 5, 3]


@pytest.mark.parametrize("first_row", [0, 1, 2])
def test_transposed(first_row: int) -> None:
    found, expected = (
        sparse(MATRIX).transposed(first_row, columns=4),
        sparse(MATRIX[first_row:].T.contiguous()),
    )
    for part in ("starts", "columns", "values"):
        assert torch.equal(getattr(found, part), getattr(expected, part)), part


def test_row_chunks_keep_the_budget_and_every_row() -> None:
    chunks = list(row_chunks(torch.tensor([3, 4, 0, 9, 1, 7]), budget=7))
    assert chunks == [slice(0, 3), slice(3, 4), slice(4, 5), slice(5, 6)]


def test_products_of_the_entries_rows_and_columns() -> None:
    features = torch.tensor([[1.0, 2], [3, 4], [5, 6], [7, 8]], dtype=torch.float64)
    square = torch.cat([MATRIX, torch.zeros(1, 4)]).double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = sparse(square).products(features)
    assert found.tolist() == [3 + 8, 7 + 16, 5 + 12, 35 + 48]
