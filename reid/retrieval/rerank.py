"""Re-ranking by k-reciprocal neighbours, without a matrix of all images by all images.

Two images of one person have neighbours in common. So each image is described by the weights of its
k-reciprocal neighbours, and two descriptions are compared by their Jaccard distance (Zhong et al., CVPR 2017,
arXiv 1701.08398). A description has some tens of entries, hence is kept sparse; the one dense matrix is the
result. Everything else is computed in chunks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from reid.distance import squared_norms
from reid.retrieval.nearest import CHUNK_BYTES, nearest_images
from reid.retrieval.sparse import SparseRows, row_chunks

log = logging.getLogger(__name__)


@torch.no_grad()
def rerank(
    query_features: Tensor,
    gallery_features: Tensor,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    chunk_bytes: int = CHUNK_BYTES,
) -> Tensor:
    """Distances re-ranked by k-reciprocal encoding, as published.

    Q queries and G gallery images together are N. The squared Euclidean distances of each image to all N
    are divided by their maximum. Its neighbours are the first k1 + 1 by that distance, itself first, then
    equal distances in the order of query and gallery. R(i) are the neighbours that have i among theirs; it
    is joined by the like set, with k1 / 2 (half to even) for k1, of each of its members, where more than
    2/3 of that set lie in R(i). The weights of the joined set are exp(-distance) over their sum, then the
    mean over the first k2 neighbours. The result is

        (1 - lambda) (1 - m / (2 - m)) + lambda distance,   m = sum of the minima of two images' weights

    On a GPU sums are not in a fixed order: results of two calls may differ in the last digits.

    Args:
        query_features: (Q, D) floats; unit L2 norm for the published protocol.
        gallery_features: (G, D) floats on the same device.
        k1: neighbours that may be reciprocal.
        k2: neighbours that a description is averaged over; 1 for none but the image itself.
        lambda_value: share of the original distance, 0 to 1.
        chunk_bytes: memory that a step aims to use at once; `rerank_bytes` is the whole.

    Returns:
        (Q, G), float32 or the float64 of the input; for `evaluate(distance=…)`.

    Raises:
        ValueError: k1 or k2 below 1, lambda_value outside 0 to 1, or features that do not fit together.
    """
    _check_arguments(query_features, gallery_features, k1, k2, lambda_value)
    features = torch.cat([query_features, gallery_features])
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    queries, gallery, images = len(query_features), len(gallery_features), len(features)
    needed = rerank_bytes(queries, gallery, features.shape[1], k1, k2, features.element_size(), chunk_bytes)
    log.info(
        "re-ranking %s queries in a gallery of %s: about %.2f GiB, %.2f of them the result",
        f"{queries:,}", f"{gallery:,}", needed / 2**30, queries * gallery * features.element_size() / 2**30,
    )  # fmt: skip

    result = features.new_empty(queries, gallery)
    near, farthest = nearest_images(features, max(k1 + 1, k2), chunk_bytes, result)
    encoding = _encode(features, near[:, : k1 + 1], farthest, k1, chunk_bytes)
    encoding = _average(encoding, near[:, :k2], chunk_bytes)
    inverted = encoding.transposed(first_row=queries, columns=images)
    for rows, overlap in _overlaps(queries, gallery, encoding, inverted, chunk_bytes):
        distance = result[rows].clamp_(min=0).mul_(lambda_value / farthest[rows, None])
        distance.add_(overlap.div_(2 - overlap), alpha=lambda_value - 1).add_(1 - lambda_value)
    return result


def rerank_bytes(
    queries: int,
    gallery: int,
    dimensions: int,
    k1: int = 20,
    k2: int = 6,
    itemsize: int = 4,
    chunk_bytes: int = CHUNK_BYTES,
) -> int:
    """About how many bytes `rerank` takes beyond its features.

    The length of the sparse rows depends on the data; what is counted here is more than people in a benchmark
    have: each image's description shares no entry with those of its k2 neighbours.
    """
    images = queries + gallery
    neighbours = min(images, max(k1 + 1, k2))
    result = queries * gallery * itemsize
    copied = images * dimensions * itemsize
    listed = images * neighbours * 8 * 2
    described = images * min(images, neighbours * (k2 + 1)) * (8 + itemsize) * 2
    return result + copied + listed + described + 4 * chunk_bytes


def _encode(features: Tensor, near: Tensor, farthest: Tensor, k1: int, chunk_bytes: int) -> SparseRows:
    """The weights of each image's expanded k-reciprocal neighbours: N sparse rows that sum to 1."""
    images, neighbours = near.shape
    half = near[:, : round(k1 / 2) + 1]
    mutual, half_mutual = _mutual(near), _mutual(half)
    row_bytes = images + 4 * 8 * neighbours * (half.shape[1] + 1)
    key = torch.cat(
        [
            _expanded(rows, near, mutual, half, half_mutual)
            for rows in torch.arange(images, device=near.device).split(max(1, chunk_bytes // row_bytes))
        ]
    )
    owner, column = key // images, key % images
    encoding = SparseRows.of_sorted(owner, column, features.new_empty(len(key)), images)
    norms = squared_norms(features)
    distance = (norms[owner] + norms[column]).sub_(encoding.products(features), alpha=2).clamp_(min=0)
    weight = distance.div_(farthest[owner]).neg_().exp_()
    total = weight.new_zeros(images).index_add_(0, owner, weight)
    return replace(encoding, values=weight.div_(total[owner]))


def _mutual(near: Tensor) -> Tensor:
    """(N, K), which of the neighbours `near` (N, K) have the image among theirs."""
    own = torch.arange(len(near), device=near.device)[:, None]
    return torch.isin(near * len(near) + own, own * len(near) + near, assume_unique=True)


def _expanded(rows: Tensor, near: Tensor, mutual: Tensor, half: Tensor, half_mutual: Tensor) -> Tensor:
    """The expanded k-reciprocal neighbours of `rows`, as rising keys `row * N + neighbour`."""
    own = rows[:, None] * len(near)
    neighbours = near[rows]
    member = torch.zeros(len(rows), len(near), dtype=torch.bool, device=near.device)
    member.scatter_(1, neighbours, mutual[rows])
    candidates = half[neighbours]
    listed = half_mutual[neighbours] & mutual[rows][:, :, None]
    inside = member.gather(1, candidates.flatten(1)).view_as(listed) & listed
    taken = 3 * inside.sum(dim=2) > 2 * listed.sum(dim=2)
    reciprocal = (own + neighbours)[mutual[rows]]
    return torch.cat([reciprocal, (own[:, :, None] + candidates)[listed & taken[:, :, None]]]).unique()


def _average(encoding: SparseRows, near: Tensor, chunk_bytes: int) -> SparseRows:
    """Each row replaced by the mean of the rows of its first neighbours, `near` (N, k2)."""
    images, count = near.shape
    if count == 1:
        return encoding
    keys, values = [], []
    costs = encoding.lengths[near].sum(dim=1)
    for rows in row_chunks(costs, chunk_bytes // 64):
        place, column, weight = encoding.of(near[rows].flatten())
        owner = place // count + rows.start
        distinct, entry = (owner * images + column).unique(return_inverse=True)
        keys.append(distinct)
        values.append(weight.new_zeros(len(distinct)).index_add_(0, entry, weight).div_(count))
    key = torch.cat(keys)
    return SparseRows.of_sorted(key // images, key % images, torch.cat(values), images)


def _overlaps(
    queries: int, gallery: int, encoding: SparseRows, inverted: SparseRows, chunk_bytes: int
) -> Iterator[tuple[slice, Tensor]]:
    """Runs of queries (B), each with the sums of the minima of their weights and each gallery image's (B, G).

    `inverted` lists for each image the gallery images that have it among their entries.
    """
    place, column, weight = encoding.of(torch.arange(queries, device=encoding.starts.device))
    costs = torch.zeros(queries, dtype=torch.int64, device=column.device)
    costs.index_add_(0, place, 64 * inverted.lengths[column]).add_(4 * gallery * weight.element_size())
    for rows in row_chunks(costs, chunk_bytes):
        entries = slice(int(encoding.starts[rows.start]), int(encoding.starts[rows.stop]))
        which, partner, other = inverted.of(column[entries])
        shared = torch.minimum(weight[entries][which], other)
        cell = (place[entries][which] - rows.start) * gallery + partner
        overlap = weight.new_zeros(rows.stop - rows.start, gallery)
        overlap.view(-1).index_add_(0, cell, shared)
        yield rows, overlap


def _check_arguments(query: Tensor, gallery: Tensor, k1: int, k2: int, lambda_value: float) -> None:
    for name, value in (("k1", k1), ("k2", k2)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    if not 0 <= lambda_value <= 1:
        raise ValueError(f"lambda_value is {lambda_value}; it must lie between 0 and 1")
    for name, features in (("query", query), ("gallery", gallery)):
        if features.ndim != 2 or not features.is_floating_point() or len(features) == 0:
            raise ValueError(
                f"{name} features are {features.dtype} of shape {tuple(features.shape)}; expected floats of "
                "shape (N, D), one row an image and at least one"
            )
        if not bool(features.sum(dtype=torch.float64).isfinite()):
            raise ValueError(f"{name} features hold NaN or infinity; ranks exist for finite distances only")
    if query.shape[1] != gallery.shape[1] or query.device != gallery.device:
        raise ValueError(
            f"query features have {query.shape[1]} dimensions on {query.device}, gallery features "
            f"{gallery.shape[1]} on {gallery.device}; both must come from one model and lie on one device"
        )
