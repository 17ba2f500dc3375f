"""Query expansion: a query joined by what it finds."""

from __future__ import annotations

import torch
from torch import Tensor

from reid.distance import squared_euclidean, squared_norms

CHUNK_BYTES = 64 * 2**20


@torch.no_grad()
def expand_queries(query_features: Tensor, gallery_features: Tensor, count: int) -> Tensor:
    """Average query expansion (Chum et al., ICCV 2007): each query's mean with its nearest gallery images.

    Neighbours are found by the squared Euclidean distance among all of the gallery: no pid is looked at, so
    images of the query's own camera may be among them. Equal distances take any.

    Args:
        query_features: (Q, D) floats; unit L2 norm for neighbours by cosine.
        gallery_features: (G, D) floats on the same device.
        count: gallery images to average with; a smaller gallery is taken whole.

    Returns:
        (Q, D), not normalised.

    Raises:
        ValueError: count is below 1.
    """
    if count < 1:
        raise ValueError(f"count is {count}; it must be at least 1")
    nearest = min(count, len(gallery_features))
    norms = squared_norms(gallery_features)
    expanded = []
    for queries in query_features.split(max(1, CHUNK_BYTES // (8 * len(gallery_features)))):
        distance = squared_euclidean(queries, gallery_features, norms)
        found = gallery_features[distance.topk(nearest, dim=1, largest=False).indices]
        expanded.append((queries + found.sum(dim=1)) / (1 + nearest))
    return torch.cat(expanded)
