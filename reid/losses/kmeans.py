"""K-means of one batch: on its device, the same clusters for the same batch."""

from __future__ import annotations

import torch
from torch import Tensor

from reid.distance import full_products


@torch.no_grad()
def kmeans(squared_distances: Tensor, draws: Tensor, iterations: int = 15) -> Tensor:
    r"""Lloyd's algorithm from k-means++ seeds, several times at once; the tightest clustering wins.

    It needs no coordinates: with D the squared Euclidean distances, the one of point i to the mean of the
    cluster C is

        mean_{j in C} D_ij - 1/2 mean_{j, l in C} D_jl.

    So an iteration costs N^2 instead of N x dimension, and all restarts are one batched product. The number
    of iterations is fixed, since asking whether the assignment still moves would make a GPU wait; a batch
    of 64 settles within seven.

    Args:
        squared_distances: (N, N) between the points.
        draws: (restarts, clusters, trials), uniform in [0, 1): all the randomness that there is. Each seed
            of a restart is drawn `trials` times, in proportion to the squared distance from the seeds
            before it, and the draw that leaves least distance is kept (Arthur and Vassilvitskii,
            "k-means++", 2007, section 7; scikit-learn makes 2 + log(clusters) trials).
        iterations: how often assignment and means are updated.

    Returns:
        (N,) integers in [0, clusters). Where there are fewer distinct points than clusters, some of the
        clusters are empty.
    """
    with torch.autocast(squared_distances.device.type, enabled=False), full_products():
        distances = squared_distances.clamp(min=0)
        # A mean is a column of weights over the points; a seed weighs one point.
        means = torch.eye(len(distances), dtype=distances.dtype, device=distances.device)[
            _seeds(distances, draws)
        ].mT
        each = torch.arange(draws.shape[1], device=distances.device)
        for _ in range(iterations):
            assignment = _to_means(distances, means).argmin(dim=2, keepdim=True)
            members = (assignment == each).to(distances.dtype)
            size = members.sum(dim=1, keepdim=True)
            # An empty cluster keeps the mean that it had.
            means = torch.where(size > 0, members / size.clamp(min=1), means)
        nearest = _to_means(distances, means).min(dim=2)
        best = nearest.values.sum(dim=1).argmin(dim=0, keepdim=True)
        return nearest.indices.index_select(0, best).squeeze(0)


def _seeds(distances: Tensor, draws: Tensor) -> Tensor:
    """Points to start from, (restarts, clusters)."""
    chosen = [(draws[:, 0, 0] * len(distances)).long()]
    nearest = distances[chosen[0]]
    for step in range(1, draws.shape[1]):
        cumulated = nearest.cumsum(dim=1)
        target = draws[:, step].to(distances.dtype) * cumulated[:, -1:]
        # Beyond the last where every point is a seed already and nothing is left to draw from.
        tried = torch.searchsorted(cumulated, target, right=True).clamp(max=len(distances) - 1)
        left = torch.minimum(nearest[:, None], distances[tried])  # (restarts, trials, N)
        best = left.sum(dim=2).argmin(dim=1, keepdim=True)
        chosen.append(tried.gather(1, best).squeeze(1))
        nearest = torch.minimum(nearest, distances[chosen[-1]])
    return torch.stack(chosen, dim=1)


def _to_means(distances: Tensor, means: Tensor) -> Tensor:
    """Squared distance of each point to each mean, (restarts, N, clusters)."""
    to_members = distances @ means
    spread = (means * to_members).sum(dim=1, keepdim=True) / 2
    return to_members - spread
