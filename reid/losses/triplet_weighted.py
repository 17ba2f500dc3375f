"""Triplet loss that weighs all pairs of an anchor, as AGW does, in place of the hardest two."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from reid.distance import euclidean, normalise
from reid.losses.pairs import check_batch, pair_masks


class WeightedTripletLoss(nn.Module):
    r"""The weighted mean of an anchor's positive distances has to be below that of its negative ones.

    d is the Euclidean distance of the features as they are. For anchor i, P holds the other images of its
    pid and N the images of other pids:

        w_p  = exp(d_p) / sum_P exp(d),    w_n = exp(-d_n) / sum_N exp(-d)
        gap  = sum_P w_p d_p - sum_N w_n d_n
        loss = mean over anchors of log(1 + exp(gap))

    There is no margin. The weights, which carry gradient, are largest for the farthest positives and the
    nearest negatives. Anchors without a P or N count in no mean; a batch without any anchor gives 0.

    Source: Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook", TPAMI 2021 (arXiv
    2001.04193), the weighted regularisation triplet of its baseline AGW. Its published code counts the anchor
    itself among its positives, at distance 0; here it is left out, as in every loss of this suite.

    Args:
        normalise: scale the features to length 1 first, so that no distance exceeds 2.

    Shapes: features (N, D), pids (N,) integers -> scalar, in float32 or the float64 of the features.
    Raises ValueError: in the call, shapes that do not fit.
    """

    def __init__(self, normalise: bool = False) -> None:
        super().__init__()
        self.normalise = normalise

    def forward(self, features: Tensor, pids: Tensor) -> Tensor:
        return self.measured(features, pids)[0]

    def measured(self, features: Tensor, pids: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and the fraction of the anchors whose gap is above 0. 0-d tensors on the device; both 0
        where no anchor has both a positive and a negative."""
        check_batch(features, pids)
        embeddings = normalise(features) if self.normalise else features
        distance = euclidean(embeddings, embeddings)
        positive, negative = pair_masks(pids)
        gap = _weighted_mean(distance, distance, positive) - _weighted_mean(distance, -distance, negative)
        counted = positive.any(dim=1) & negative.any(dim=1)
        anchors = counted.sum().clamp(min=1)
        return torch.where(counted, softplus(gap), 0).sum() / anchors, (counted & (gap > 0)).sum() / anchors

    def extra_repr(self) -> str:
        return f"normalise={self.normalise}"


def _weighted_mean(distance: Tensor, exponent: Tensor, mask: Tensor) -> Tensor:
    """(N, N) distances -> (N,) means over each row's `mask`, weighted by exp(exponent); finite for none."""
    nothing = ~mask.any(dim=1, keepdim=True)
    weight = exponent.masked_fill(~mask, -torch.inf).masked_fill(nothing, 0).softmax(dim=1)
    return (weight * distance).sum(dim=1)
