"""Re-ranking by k-reciprocal neighbours, without a matrix of all images by all images.

Two images of one person have neighbours in common. So each image is described by the weights of its
k-reciprocal neighbours, and two descriptions are compared by their Jaccard distance (Zhong et al., CVPR 2017,
arXiv 1701.08398). A description has some tens of entries, hence is kept sparse; the one dense matrix is the
result. Everything else is computed in chunks.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from reid.distance import squared_distances, squared_euclidean, squared_norms
from reid.retrieval.sparse import SparseRows, row_chunks

log = logging.getLogger(__name__)

CHUNK_BYTES = 64 * 2**20


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
        chunk_bytes: memory that a step aims to use at once; `rerank_bytes` tells the whole.

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

    near, farthest = nearest_images(features, max(k1 + 1, k2), chunk_bytes)
    encoding = _encode(features, near[:, : k1 + 1], farthest, k1, chunk_bytes)
    encoding = _average(encoding, near[:, :k2], chunk_bytes)
    inverted = encoding.transposed(first_row=queries, columns=images)
    result = features.new_zeros(queries, gallery)
    _add_overlaps(result, encoding, inverted, chunk_bytes)
    norms = squared_norms(features[queries:])
    for rows in torch.arange(queries).split(max(1, chunk_bytes // (2 * gallery * features.element_size()))):
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        distance = squared_euclidean(features[part], features[queries:], norms)
        distance = distance.clamp_(min=0).div_(farthest[part, None])
        overlap = result[part]
        overlap.div_(2 - overlap).mul_(lambda_value - 1).add_(1 - lambda_value)
        overlap.add_(distance, alpha=lambda_value)
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
    """About how many bytes `rerank` takes beyond the features that it is given.

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


def nearest_images(features: Tensor, count: int, chunk_bytes: int = CHUNK_BYTES) -> tuple[Tensor, Tensor]:
    """Neighbours of each image among all: (N, min(count, N)) int64, and the largest squared distance, (N,).

    An image is its own first neighbour; equal distances keep the order of the rows. Where all distances of an
    image are 0 the largest is said to be 1, for what divides by it.
    """
    images = len(features)
    norms = squared_norms(features)
    near = torch.empty(images, min(count, images), dtype=torch.int64, device=features.device)
    farthest = features.new_empty(images)
    for rows in torch.arange(images, device=features.device).split(
        max(1, chunk_bytes // (2 * images * features.element_size()))
    ):
        distance = squared_euclidean(features[rows], features, norms)
        farthest[rows] = distance.amax(dim=1)
        distance[torch.arange(len(rows), device=rows.device), rows] = -torch.inf
        near[rows] = _smallest(distance, near.shape[1])
    return near, torch.where(farthest > 0, farthest, 1)


def _smallest(distance: Tensor, count: int) -> Tensor:
    """Columns (B, count) of the smallest values of each row, rising; equal ones in the order of columns."""
    if count == distance.shape[1]:
        return distance.sort(dim=1, stable=True).indices
    values, columns = distance.topk(count + 1, dim=1, largest=False)
    tied_at_the_end = values[:, -1] == values[:, -2]
    columns, by_column = columns[:, :count].sort(dim=1)
    by_value = values[:, :count].gather(1, by_column).sort(dim=1, stable=True).indices
    columns = columns.gather(1, by_value)
    # `topk` takes any of the equal ones: where some were left out, the whole row is sorted.
    for row in tied_at_the_end.nonzero().flatten().tolist():
        columns[row] = distance[row].sort(stable=True).indices[:count]
    return columns


def _encode(features: Tensor, near: Tensor, farthest: Tensor, k1: int, chunk_bytes: int) -> SparseRows:
    """The weights of each image's expanded k-reciprocal neighbours: N sparse rows that sum to 1."""
    images, neighbours = near.shape
    half = near[:, : round(k1 / 2) + 1]
    mutual, half_mutual = _mutual(near), _mutual(half)
    owners, columns, weights = [], [], []
    row_bytes = 6 * 8 * neighbours * (half.shape[1] + 1)
    for rows in torch.arange(images, device=near.device).split(max(1, chunk_bytes // row_bytes)):
        keys = _expanded(rows, near, mutual, half, half_mutual)
        owner, column = keys // images, keys % images
        distance = torch.cat(
            [
                squared_distances(features[a], features[b])
                for a, b in zip(*(_pieces(x, features, chunk_bytes) for x in (owner, column)), strict=True)
            ]
        )
        weight = torch.exp(-distance / farthest[owner])
        total = weight.new_zeros(len(rows)).index_add_(0, owner - rows[0], weight)
        owners.append(owner)
        columns.append(column)
        weights.append(weight / total[owner - rows[0]])
    return SparseRows.of_sorted(torch.cat(owners), torch.cat(columns), torch.cat(weights), images)


def _pieces(index: Tensor, features: Tensor, chunk_bytes: int) -> tuple[Tensor, ...]:
    """`index` in parts that pick `chunk_bytes` of features at most, three copies of them."""
    return index.split(max(1, chunk_bytes // (3 * features.shape[1] * features.element_size())))


def _mutual(near: Tensor) -> Tensor:
    """(N, K), which of the neighbours `near` (N, K) have the image among theirs."""
    own = torch.arange(len(near), device=near.device)[:, None]
    return torch.isin(near * len(near) + own, own * len(near) + near, assume_unique=True)


def _expanded(rows: Tensor, near: Tensor, mutual: Tensor, half: Tensor, half_mutual: Tensor) -> Tensor:
    """The expanded k-reciprocal neighbours of `rows`, as rising keys `row * N + neighbour`."""
    own = rows[:, None] * len(near)
    neighbours = near[rows]
    reciprocal = (own + neighbours)[mutual[rows]]
    candidates = own[:, :, None] + half[neighbours]
    listed = half_mutual[neighbours] & mutual[rows][:, :, None]
    inside = torch.isin(candidates, reciprocal) & listed
    taken = 3 * inside.sum(dim=2) > 2 * listed.sum(dim=2)
    return torch.cat([reciprocal, candidates[listed & taken[:, :, None]]]).unique()


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


def _add_overlaps(result: Tensor, encoding: SparseRows, inverted: SparseRows, chunk_bytes: int) -> None:
    """Add to `result` (Q, G) the sum of the minima of the weights of each query and each gallery image.

    `inverted` lists for each image the gallery images that have it among their entries.
    """
    queries, gallery = result.shape
    place, column, weight = encoding.of(torch.arange(queries, device=result.device))
    costs = result.new_zeros(queries, dtype=torch.int64).index_add_(0, place, inverted.lengths[column])
    for rows in row_chunks(costs, chunk_bytes // 64):
        entries = slice(int(encoding.starts[rows.start]), int(encoding.starts[rows.stop]))
        which, partner, other = inverted.of(column[entries])
        shared = torch.minimum(weight[entries][which], other)
        cell = place[entries][which] * gallery + partner
        result.view(-1).index_add_(0, cell, shared)


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
