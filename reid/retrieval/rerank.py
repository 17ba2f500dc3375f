"""Re-ranking by k-reciprocal neighbours, without a matrix of all images by all images.

Each image is described by the weights of its k-reciprocal neighbours, and two descriptions are compared by
their Jaccard distance (Zhong et al., CVPR 2017, arXiv 1701.08398), see `reid.retrieval.jaccard`. The one
dense matrix is the result. Everything else is sparse or computed in chunks.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from reid.retrieval.jaccard import check_features, check_neighbours, encode, overlaps
from reid.retrieval.nearest import CHUNK_BYTES, nearest_images

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
    encoding = encode(features, near, farthest, k1, k2, chunk_bytes)
    inverted = encoding.transposed(first_row=queries, columns=images)
    for rows, overlap in overlaps(queries, gallery, encoding, inverted, chunk_bytes):
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


def _check_arguments(query: Tensor, gallery: Tensor, k1: int, k2: int, lambda_value: float) -> None:
    check_neighbours(k1, k2)
    if not 0 <= lambda_value <= 1:
        raise ValueError(f"lambda_value is {lambda_value}; it must lie between 0 and 1")
    for name, features in (("query", query), ("gallery", gallery)):
        check_features(name, features)
    if query.shape[1] != gallery.shape[1] or query.device != gallery.device:
        raise ValueError(
            f"query features have {query.shape[1]} dimensions on {query.device}, gallery features "
            f"{gallery.shape[1]} on {gallery.device}; both must come from one model and lie on one device"
        )
