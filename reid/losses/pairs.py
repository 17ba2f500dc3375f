"""The pairs of a batch: which are positive, and how far apart the hard ones lie."""

from __future__ import annotations

import torch
from torch import Tensor

from reid.distance import euclidean, normalise


def pair_masks(pids: Tensor) -> tuple[Tensor, Tensor]:
    """Which ordered pairs (anchor, other) of a batch are positive and which negative.

    Args:
        pids: (N,) integers.

    Returns:
        Two (N, N) boolean masks: same pid without the anchor itself; other pid.
    """
    same = pids[:, None] == pids[None, :]
    itself = torch.eye(len(pids), dtype=torch.bool, device=pids.device)
    return same & ~itself, ~same


def check_batch(features: Tensor, pids: Tensor) -> None:
    """Raise ValueError unless features are (N, D) with N > 0 and pids are (N,)."""
    if features.ndim != 2 or pids.ndim != 1 or len(features) != len(pids) or len(pids) == 0:
        raise ValueError(
            f"features have shape {tuple(features.shape)} and pids {tuple(pids.shape)}; "
            "expected (N, D) and (N,) with the same N > 0"
        )


@torch.no_grad()
def pair_statistics(features: Tensor, pids: Tensor) -> dict[str, Tensor]:
    """How well a batch is separated, for monitoring; nothing is copied to the host.

    An image that stands in the batch twice, since its person has fewer than K, was augmented differently each
    time: the two are a positive pair to the loss, and so they are here.  Where all K are one image, its
    hardest positive is as near as two augmentations of it.

    Args:
        features: (N, D) embeddings, L2-normalised here.
        pids: (N,) integers.

    Returns:
        0-d tensors on the device of the features:

        - `hardest_positive`: distance to the farthest image of the same pid, mean over the anchors
          that have one; in [0, 2]. NaN when no anchor has one.
        - `hardest_negative`: distance to the nearest image of another pid, likewise.
        - `embedding_std`: root of the mean squared distance to the batch's mean embedding, in
          [0, 1]. Near 0 the embeddings have collapsed to one point.

    Raises:
        ValueError: the shapes do not fit.
    """
    check_batch(features, pids)
    embeddings = normalise(features)
    distance = euclidean(embeddings, embeddings)
    positive, negative = pair_masks(pids)
    # masked_fill with numbers: a tensor made of one would be copied to a GPU while the host waits.
    farthest = distance.masked_fill(~positive, -torch.inf).amax(dim=1)
    nearest = distance.masked_fill(~negative, torch.inf).amin(dim=1)
    return {
        "hardest_positive": farthest.masked_fill(~positive.any(dim=1), torch.nan).nanmean(),
        "hardest_negative": nearest.masked_fill(~negative.any(dim=1), torch.nan).nanmean(),
        "embedding_std": embeddings.var(dim=0, correction=0).sum().sqrt(),
    }
