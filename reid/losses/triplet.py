"""Batch-hard triplet loss, as the strong baseline computes it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from reid.distance import euclidean, normalise
from reid.losses.pairs import check_batch, pair_masks


class TripletLoss(nn.Module):
    r"""The farthest positive of each anchor has to be nearer than its nearest negative, by a margin.

    d is the Euclidean distance of the features as they are. For anchor i, P holds the other images of its
    pid and N the images of other pids:

        gap_i = max_P d - min_N d
        loss  = mean over anchors of max(0, margin + gap),    or of log(1 + exp(gap)) without a margin

    Anchors without a P or N count in no mean; a batch without any anchor gives 0.

    Source: Hermans et al., "In Defense of the Triplet Loss for Person Re-Identification" (arXiv
    1703.07737), equation 5; margin 0.3 and unnormalised features as in the strong baseline (Luo et al.,
    arXiv 1903.07071).

    Args:
        margin: at least 0; None for the soft margin, which goes on pulling what is right already.
        normalise: scale the features to length 1 first, so that no distance exceeds 2.

    Shapes: features (N, D), pids (N,) integers -> scalar, in float32 or the float64 of the features.
    Raises ValueError: margin negative or not finite; in the call, shapes that do not fit.
    """

    def __init__(self, margin: float | None = 0.3, normalise: bool = False) -> None:
        super().__init__()
        if margin is not None and not (margin >= 0 and math.isfinite(margin)):
            raise ValueError(
                f"margin is {margin}; a finite number from 0 on, or none (soft margin), is expected"
            )
        self.margin, self.normalise = margin, normalise

    def forward(self, features: Tensor, pids: Tensor) -> Tensor:
        return self.measured(features, pids)[0]

    def measured(self, features: Tensor, pids: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and the fraction of the anchors whose triplet violates the margin (0 for the soft one).
        0-d tensors on the device; both 0 where no anchor has both a positive and a negative."""
        gap, counted = self._gaps(features, pids)
        anchors = counted.sum().clamp(min=1)
        penalty = softplus(gap) if self.margin is None else (self.margin + gap).clamp(min=0)
        violating = counted & (gap > -(self.margin or 0.0))
        return torch.where(counted, penalty, 0).sum() / anchors, violating.sum() / anchors

    def _gaps(self, features: Tensor, pids: Tensor) -> tuple[Tensor, Tensor]:
        """Farthest positive less nearest negative of each anchor, and whether it has both."""
        check_batch(features, pids)
        embeddings = normalise(features) if self.normalise else features
        distance = euclidean(embeddings, embeddings)
        positive, negative = pair_masks(pids)
        farthest = distance.masked_fill(~positive, 0).amax(dim=1)
        nearest = distance.masked_fill(~negative, torch.inf).amin(dim=1)
        return farthest - nearest, positive.any(dim=1) & negative.any(dim=1)

    def extra_repr(self) -> str:
        return f"margin={self.margin}, normalise={self.normalise}"
