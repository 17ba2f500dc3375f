"""Tracklets: the frames of one person whom one camera followed for a while, compared as one.

A single frame may be blurred or hide the person; the mean over the frames of a tracklet hardly is or does
(Zheng et al., "MARS: A Video Benchmark for Large-Scale Person Re-identification", ECCV 2016).
"""

from __future__ import annotations

import torch
from torch import Tensor

from reid.people import NO_TRACKLET
from reid.retrieval.embeddings import Embeddings

#: How the features of the frames of a tracklet become one.
POOLINGS = ("mean", "max", "quality")


def pool_tracklets(
    images: Embeddings, pooling: str = "mean", weights: Tensor | None = None, *, normalised: bool = True
) -> Embeddings:
    """One row for each tracklet, in the order of their first frames; an image of none stays as it is.

    The sums are taken in float64. A pooled feature is a mean, and shorter than the features that it is made
    of: `normalised` brings it back to unit length.

    Args:
        images: N frames, of features that were normalised where pooled ones are to be.
        pooling: `mean` over the frames; `max`, the largest of each component; `quality`, the mean weighted by
            `weights`.
        weights: (N,) floats above 0, for `quality`, such as the norms of the features before they were
            normalised.
        normalised: whether the result has unit L2 norm.

    Raises:
        ValueError: no such pooling; weights are missing, not above 0 or of another length; or a tracklet
            shows two people or was seen by two cameras.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling is {pooling!r}; allowed: {', '.join(POOLINGS)}")
    if (weights is None) == (pooling == "quality"):
        raise ValueError(
            f"pooling={pooling} with weights={weights is not None}: quality needs them, no other"
        )
    if images.tracklets is None or len(images) == 0:
        return images
    group, first = _groups(images.tracklets)
    for name, values in (("people", images.pids), ("cameras", images.camids)):
        if not torch.equal(values, values[first][group]):
            bad = int(images.tracklets[(values != values[first][group]).nonzero()[0, 0]])
            raise ValueError(
                f"tracklet {bad} holds images of two {name}; a tracklet is one person by one camera"
            )
    features = images.features
    if pooling == "max":
        pooled = features.new_full((len(first), features.shape[1]), -torch.inf)
        pooled = pooled.scatter_reduce_(0, group[:, None].expand_as(features), features, "amax")
    else:
        if weights is None:
            weights = torch.ones(len(images), dtype=torch.float64, device=features.device)
        if weights.shape != images.pids.shape or not bool((weights > 0).all()):
            raise ValueError(f"weights {tuple(weights.shape)}: expected {len(images)} numbers above 0")
        share = weights.double()
        whole = torch.zeros(len(first), dtype=torch.float64, device=features.device).index_add_(
            0, group, share
        )
        sums = torch.zeros(len(first), features.shape[1], dtype=torch.float64, device=features.device)
        sums.index_add_(0, group, features.double() * share[:, None])
        pooled = (sums / whole[:, None]).to(features.dtype)
    result = Embeddings(pooled, images.pids[first], images.camids[first], images.tracklets[first])
    return result.normalised() if normalised else result


def middle_frames(tracklets: Tensor) -> Tensor:
    """The position of the middle frame of each tracklet (N,), in the order of `pool_tracklets`: (T,) int64.

    Of an even number it is the later one of the two in the middle.
    """
    group, first = _groups(tracklets)
    order = torch.argsort(group, stable=True)
    counts = torch.bincount(group, minlength=len(first))
    return order[counts.cumsum(0) - counts + counts // 2]


def same_tracklet(first: Tensor | None, second: Tensor | None) -> Tensor | bool:
    """Which pairs of images (N,) and (M,) are frames of one tracklet: (N, M) bool, or False for all."""
    if first is None or second is None:
        return False
    return (first[:, None] == second) & (first != NO_TRACKLET)[:, None]


def junk(query: Embeddings, gallery: Embeddings, protocol: str) -> Tensor:
    """Which gallery images are left out of the ranking of each query: (Q, G) bool.

    Those of its pid that its own camera saw (`cross_camera`), or that are frames of its own tracklet.
    """
    left_out = torch.zeros(len(query), len(gallery), dtype=torch.bool, device=query.pids.device)
    if protocol == "cross_camera":
        left_out |= query.camids[:, None] == gallery.camids
    left_out |= same_tracklet(query.tracklets, gallery.tracklets)
    return left_out & (query.pids[:, None] == gallery.pids)


def _groups(tracklets: Tensor) -> tuple[Tensor, Tensor]:
    """The group of each image (N,), counted in the order of their first images, and where these stand
    (T,)."""
    position = torch.arange(len(tracklets), device=tracklets.device)
    # An image of no tracklet is a group of its own.
    own = torch.where(tracklets == NO_TRACKLET, -1 - position, tracklets)
    group = torch.unique(own, return_inverse=True)[1]
    first = torch.full((int(group.max()) + 1 if len(group) else 0,), len(tracklets), device=group.device)
    first = first.scatter_reduce_(0, group, position, "amin")
    rank = torch.argsort(torch.argsort(first))
    return rank[group], first.sort().values
