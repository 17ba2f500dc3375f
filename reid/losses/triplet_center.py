"""Batch-hard triplet loss plus centre loss, as the strong baseline combines them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from reid.losses.pairs import check_batch
from reid.losses.triplet import TripletLoss


class TripletCenterLoss(nn.Module):
    r"""Triplet loss, and every feature drawn to the learned centre c of its pid.

        loss = triplet + center_weight mean_i |f_i - c_pid(i)|^2

    The centres are parameters. The weight is divided out of their gradient, so that they follow the features
    at a speed that the weight does not touch; plain SGD of their own moves them (`own_optimizer`), at a
    rate that no schedule changes.

    Source: Wen et al., "A Discriminative Feature Learning Approach for Deep Face Recognition", ECCV 2016,
    equation 2, with the weight, the SGD, the rescaled gradient and no factor of 1/2 as in the strong baseline
    (Luo et al., arXiv 1903.07071, section 3.6).

    Args:
        num_classes: how many pids there are to train on.
        embedding_size: D of the features.
        margin, normalise: of the triplet loss, see `TripletLoss`; the centre loss takes features as they are.
        center_weight: 5e-4 in the strong baseline; at 0 the centres follow and draw nothing.
        center_lr: learning rate of the centres; 0.5 in the strong baseline. At 0 they stay where they began.

    Shapes: features (N, D), pids (N,) integers in [0, num_classes) -> scalar. Raises ValueError: as
    `TripletLoss`; a weight or learning rate that is negative.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float | None = 0.3,
        normalise: bool = False,
        center_weight: float = 5e-4,
        center_lr: float = 0.5,
    ) -> None:
        super().__init__()
        for name, value in (("center_weight", center_weight), ("center_lr", center_lr)):
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name} is {value}; a finite number from 0 on is expected")
        self.triplet = TripletLoss(margin, normalise)
        self.center_weight, self.center_lr = center_weight, center_lr
        self.centers = nn.Parameter(torch.randn(num_classes, embedding_size))

    def forward(self, features: Tensor, pids: Tensor) -> Tensor:
        return self.measured(features, pids)[0]

    def measured(self, features: Tensor, pids: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and the fraction of the anchors whose triplet violates the margin."""
        check_batch(features, pids)
        centers = self.centers[pids]
        drawn = _mean_squared_distance(features, centers.detach())
        # Adds nothing to the value, and to the gradient only the centres' part, without the weight.
        followed = _mean_squared_distance(features.detach(), centers)
        triplet, active = self.triplet.measured(features, pids)
        return triplet + self.center_weight * drawn + (followed - followed.detach()), active

    def own_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer of the centres; on a GPU the fused one, since fp16 makes the host wait for others."""
        return torch.optim.SGD([self.centers], lr=self.center_lr, fused=self.centers.is_cuda or None)


def _mean_squared_distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum(dim=1).mean()
