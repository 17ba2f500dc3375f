"""Clustered ranked list loss: negatives are pushed within the k-means clusters of the batch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from reid.distance import SMALLEST_DISTANCE, unit_euclidean
from reid.losses.kmeans import kmeans
from reid.losses.pairs import check_batch, pair_masks
from reid.losses.ranked import checked_radius, pull, push

SMALLEST_CLUSTER = 4
SEED_TRIALS = 4  # of k-means++


class ClusteredRankedListLoss(nn.Module):
    r"""Ranked list loss whose negatives are those of the anchor's cluster; see `RankedListLoss`.

    d is the Euclidean distance of L2-normalised features; k-means parts these, detached, into clusters. For
    anchor i of pid p and cluster c, P holds all images of p, i itself included at distance 1e-6, and N* the
    images of other pids in c with d < alpha, strictly:

        L_P(i) = sum_P max(0, d - (alpha - margin)) / (|P| + 1e-5)
        L_N(i) = sum_N* w (alpha - d) / (sum_N* w + 1e-5),    w = exp(temperature (alpha - d))
        loss   = sum over pids of mean_{i in p} L_P(i)
               + sum over clusters of more than 3 members of mean_{i in c} L_N(i)

    Source: the published re-ID implementation (`cranked_loss`). Being a sum, it is several times the plain
    loss, so that one metric_weight means more here; `reduction="mean"` takes means over pids and clusters.

    Args:
        alpha, margin, temperature, positive_radius: as for `RankedListLoss`.
        clusters: how many, k; fewer where the batch has fewer distinct points.
        restarts: how many times k-means starts; the tightest clustering counts.
        reduction: `sum`, as published, or `mean`.
        seed: of the k-means. The loss depends on the batch and the seed alone, on no earlier call.

    Shapes: features (N, D), pids (N,) integers, assignment (N,) integers or None, in place of k-means
    -> scalar. Raises ValueError: as `RankedListLoss`; clusters or restarts below 1; another reduction.
    """

    draws: Tensor

    def __init__(
        self,
        alpha: float = 2.0,
        margin: float = 1.3,
        temperature: float = 1.0,
        clusters: int = 8,
        restarts: int = 10,
        reduction: Literal["sum", "mean"] = "sum",
        seed: int = 0,
        positive_radius: float | None = None,
    ) -> None:
        super().__init__()
        self.positive_radius = checked_radius(alpha, margin, temperature, positive_radius)
        self.alpha, self.temperature, self.reduction = alpha, temperature, reduction
        if clusters < 1 or restarts < 1:
            raise ValueError(f"clusters is {clusters}, restarts {restarts}; 1 or more are expected")
        if reduction not in ("sum", "mean"):
            raise ValueError(f"reduction is {reduction!r}; sum or mean is expected")
        draws = torch.rand(restarts, clusters, SEED_TRIALS, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("draws", draws, persistent=False)

    def forward(self, features: Tensor, pids: Tensor, assignment: Tensor | None = None) -> Tensor:
        return self.measured(features, pids, assignment)[0]

    def measured(
        self, features: Tensor, pids: Tensor, assignment: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The loss, and the fraction of the N (N - 1) ordered pairs that it still moves: of one k-means,
        which costs more than all the rest of it."""
        distance, positive, near_negative, cluster_size = self._pairs(features, pids, assignment)
        itself = torch.eye(len(pids), dtype=torch.bool, device=pids.device)
        distance = distance.masked_fill(itself, SMALLEST_DISTANCE)
        same = positive | itself
        # The sum of 1 / size over the members of a group is 1: this sums the means of the groups.
        per_pid = 1 / same.sum(dim=1, dtype=distance.dtype)
        per_cluster = (cluster_size >= SMALLEST_CLUSTER) / cluster_size
        pulled = (per_pid * pull(distance, same, self.positive_radius)).sum()
        pushed = (per_cluster * push(distance, near_negative, self.alpha, self.temperature)).sum()
        if self.reduction == "mean":
            pulled, pushed = pulled / per_pid.sum(), pushed / per_cluster.sum().clamp(min=1)
        moved = near_negative & (cluster_size >= SMALLEST_CLUSTER)[:, None]
        active = (positive & (distance > self.positive_radius)) | moved
        return pulled + pushed, active.sum() / max(1, len(pids) * (len(pids) - 1))

    def _pairs(self, features: Tensor, pids: Tensor, assignment: Tensor | None) -> tuple[Tensor, ...]:
        check_batch(features, pids)
        distance = unit_euclidean(features)
        if assignment is None:
            assignment = kmeans(distance.detach().square(), self.draws.to(distance.device))
        together = assignment[:, None] == assignment[None, :]
        positive, negative = pair_masks(pids)
        near_negative = negative & together & (distance < self.alpha)
        return distance, positive, near_negative, together.sum(dim=1, dtype=distance.dtype)
