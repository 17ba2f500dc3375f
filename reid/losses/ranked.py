"""Ranked list loss, as the published re-ID implementation computes it."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn

from reid.distance import euclidean, normalise
from reid.losses.pairs import check_batch, pair_masks

EPSILON = 1e-5


class RankedListLoss(nn.Module):
    r"""Pull positives inside a radius, push negatives beyond alpha, the nearest ones most.

    d is the Euclidean distance of L2-normalised features. For anchor i, P holds the other images of
    its pid and N* the images of other pids with d < alpha, strictly:

        L_P  = sum_P max(0, d - (alpha - margin)) / (|P| + 1e-5)
        L_N  = sum_N* w (alpha - d) / (sum_N* w + 1e-5),    w = exp(temperature (alpha - d))
        loss = mean over anchors of (L_P + L_N)

    Source: Wang et al., "Ranked List Loss for Deep Metric Learning", CVPR 2019 (arXiv 1903.03238),
    with the published code's departures: the sum over positives is divided by all positives, not by
    the violating ones; w carries gradient; L_P and L_N weigh the same; alpha 2.0, the largest
    distance of two unit vectors, makes every negative count. An empty P or N* gives 0.

    Args:
        alpha: distance beyond which negatives are left alone; > 0.
        margin: width of the gap; positives are pulled inside the radius alpha - margin.
        temperature: how much more the nearest negatives weigh; > 0.
        positive_radius: the radius itself, instead of `margin` (which then is alpha - positive_radius).

    Shapes: features (N, D), pids (N,) integers -> scalar, in float32 or the float64 of the features.
    Raises ValueError: alpha or temperature not positive, margin or positive_radius not finite; in the
    call, shapes that do not fit. Warns when the radius is not above 0: every positive is always pulled.
    """

    def __init__(
        self,
        alpha: float = 2.0,
        margin: float = 1.3,
        temperature: float = 1.0,
        positive_radius: float | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("alpha", alpha), ("temperature", temperature)):
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} is {value}; a finite number greater than 0 is expected")
        self.alpha, self.temperature = alpha, temperature
        self.positive_radius = alpha - margin if positive_radius is None else positive_radius
        self.margin = alpha - self.positive_radius
        if not math.isfinite(self.positive_radius):
            raise ValueError(
                f"margin is {margin}, positive_radius {positive_radius}; finite numbers are expected"
            )
        if self.positive_radius <= 0:
            warnings.warn(
                f"the positive radius alpha - margin is {self.positive_radius:g} (alpha {alpha:g}, margin "
                f"{self.margin:g}): every positive is always pulled, however near. For a radius above 0 "
                "lower margin, or set positive_radius.",
                stacklevel=2,
            )

    def forward(self, features: Tensor, pids: Tensor) -> Tensor:
        distance, positive, near_negative = self._pairs(features, pids)
        violation = torch.where(positive, distance - self.positive_radius, 0).clamp(min=0)
        pull = violation.sum(dim=1) / (positive.sum(dim=1, dtype=distance.dtype) + EPSILON)

        # exp overflows float32 from 88 on. Both sides of the fraction are divided by the largest
        # weight, which changes neither its value nor its gradient.
        exponent = torch.where(near_negative, self.temperature * (self.alpha - distance), -torch.inf)
        largest = exponent.detach().amax(dim=1, keepdim=True).clamp(min=0)
        weight = torch.exp(exponent - largest)
        norm = weight.sum(dim=1) + EPSILON * torch.exp(-largest.squeeze(1))
        push = (weight * (self.alpha - distance)).sum(dim=1) / norm
        return (pull + push).mean()

    @torch.no_grad()
    def active_fraction(self, features: Tensor, pids: Tensor) -> Tensor:
        """Fraction of the N (N - 1) ordered pairs that the loss still moves: positives beyond the
        radius and negatives nearer than alpha. A 0-d tensor on the device; 0 for a single image."""
        distance, positive, near_negative = self._pairs(features, pids)
        active = (positive & (distance > self.positive_radius)) | near_negative
        return active.sum() / max(1, len(pids) * (len(pids) - 1))

    def _pairs(self, features: Tensor, pids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        check_batch(features, pids)
        embeddings = normalise(features)
        distance = euclidean(embeddings, embeddings)
        positive, negative = pair_masks(pids)
        return distance, positive, negative & (distance < self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha:g}, margin={self.margin:g}, temperature={self.temperature:g}"
