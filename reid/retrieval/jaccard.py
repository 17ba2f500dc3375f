"""The Jaccard distance of k-reciprocal neighbourhoods: what re-ranking orders by, and clustering joins by.

Two images of one person have neighbours in common. So each image is described by the weights of its
k-reciprocal neighbours, and two descriptions are compared by their Jaccard distance (Zhong et al., CVPR 2017,
arXiv 1701.08398). A description has some tens of entries, hence is kept sparse. Most pairs of a large set
share none of them and have distance 1; what lies nearer is sparse too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec

import torch
from torch import Tensor

from reid.distance import squared_norms
from reid.retrieval.nearest import CHUNK_BYTES, nearest_images
from reid.retrieval.sparse import SparseRows, row_chunks

#: Images from which on faiss looks for the neighbours, where it is installed: all pairs of so many take
#: minutes.
LARGE = 100_000


@torch.no_grad()
def jaccard_neighbours(
    features: Tensor,
    limit: float,
    k1: int = 30,
    k2: int = 6,
    chunk_bytes: int = CHUNK_BYTES,
    approximate: bool | None = None,
) -> SparseRows:
    """The images of a set that lie within a Jaccard distance of each other.

    The distance is 1 - m / (2 - m) with m the sum of the minima of two images' weights, as in `rerank`, whose
    `lambda_value` is 0 here. Both images of a pair list each other, and each lists itself at distance 0.

    Args:
        features: (N, D) floats, one row an image; of unit L2 norm, as for `rerank`.
        limit: the largest distance that is listed, at least 0 and below 1: pairs that share nothing are not.
        k1: neighbours that may be reciprocal. 30 is what clustering for adaptation takes (Ge et al., "SpCL",
            NeurIPS 2020, arXiv 2006.02713; Dai et al., "Cluster Contrast", arXiv 2103.11568), more than
            re-ranking's 20.
        k2: neighbours that a description is averaged over; 1 for none but the image itself.
        chunk_bytes: memory that a step aims to use at once.
        approximate: whether faiss looks for the neighbours, see `reid.retrieval.approximate_nearest`. None:
            where it is installed and there are `LARGE` images or more.

    Returns:
        N rows; row i holds the images within `limit` of image i, rising, and their distances.

    Raises:
        ValueError: `limit`, k1 or k2 out of range, or features that are no finite floats of shape (N, D).
    """
    if not 0 <= limit < 1:
        raise ValueError(f"limit is {limit}; it must be at least 0 and below 1, the distance of strangers")
    check_neighbours(k1, k2)
    check_features("the", features)
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    images = len(features)
    if approximate is None:
        approximate = images >= LARGE and find_spec("faiss") is not None
    if approximate:
        from reid.retrieval.approximate_nearest import approximate_nearest  # faiss is an extra

        near, farthest = approximate_nearest(features, max(k1 + 1, k2), chunk_bytes)
    else:
        near, farthest = nearest_images(features, max(k1 + 1, k2), chunk_bytes)
    encoding = encode(features, near, farthest, k1, k2, chunk_bytes)
    inverted = encoding.transposed(first_row=0, columns=images)
    owners, columns, values = [], [], []
    for rows, overlap in overlaps(images, images, encoding, inverted, chunk_bytes):
        distance = overlap.div_(2 - overlap).neg_().add_(1).clamp_(min=0)
        itself = torch.arange(rows.start, rows.stop, device=features.device)
        distance.scatter_(1, itself[:, None], 0)  # rounding would leave it beside 0
        row, column = (distance <= limit).nonzero(as_tuple=True)
        owners.append(row + rows.start)
        columns.append(column)
        values.append(distance[row, column])
    return SparseRows.of_sorted(torch.cat(owners), torch.cat(columns), torch.cat(values), images)


def encode(
    features: Tensor, near: Tensor, farthest: Tensor, k1: int, k2: int, chunk_bytes: int
) -> SparseRows:
    """The description of each image: N sparse rows of weights.

    near: (N, max(k1 + 1, k2)) int64, the neighbours of each image, itself first. farthest: (N,), the squared
    distance that those of an image are divided by. What the weights are, `rerank` says.
    """
    weights = _expand(features, near[:, : k1 + 1], farthest, k1, chunk_bytes)
    return _average(weights, near[:, :k2], chunk_bytes)


def _expand(features: Tensor, near: Tensor, farthest: Tensor, k1: int, chunk_bytes: int) -> SparseRows:
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


def overlaps(
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


def check_neighbours(k1: int, k2: int) -> None:
    """Raises ValueError where one of them is below 1."""
    for name, value in (("k1", k1), ("k2", k2)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")


def check_features(name: str, features: Tensor) -> None:
    """Raises ValueError for features that are no finite floats of shape (N, D); `name` says whose they
    are."""
    if features.ndim != 2 or not features.is_floating_point() or len(features) == 0:
        raise ValueError(
            f"{name} features are {features.dtype} of shape {tuple(features.shape)}; expected floats of "
            "shape (N, D), one row an image and at least one"
        )
    if not bool(features.sum(dtype=torch.float64).isfinite()):
        raise ValueError(f"{name} features hold NaN or infinity; ranks exist for finite distances only")
