"""Ranked list loss, as the published re-ID implementation computes it, and its two halves."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn

from reid.distance import unit_euclidean
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
        temperature: how much more the nearest negatives weigh; 0 weighs all in N* the same, as the
            paper has it for its T = 0.
        positive_radius: the radius itself, instead of `margin` (which then is alpha - positive_radius).

    Shapes: features (N, D), pids (N,) integers -> scalar, in float32 or the float64 of the features.
    Raises ValueError: alpha not positive, temperature negative, margin or positive_radius not finite; in the
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
        self.positive_radius = checked_radius(alpha, margin, temperature, positive_radius)
        self.alpha, self.temperature = alpha, temperature
        self.margin = alpha - self.positive_radius

    def forward(self, features: Tensor, pids: Tensor) -> Tensor:
        return self.measured(features, pids)[0]

    def measured(self, features: Tensor, pids: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and the fraction of the N (N - 1) ordered pairs that it still moves: positives beyond
        the radius and negatives nearer than alpha. 0-d tensors on the device; 0 for a single image."""
        check_batch(features, pids)
        distance = unit_euclidean(features)
        positive, negative = pair_masks(pids)
        near_negative = negative & (distance < self.alpha)
        pulled = pull(distance, positive, self.positive_radius)
        pushed = push(distance, near_negative, self.alpha, self.temperature)
        active = (positive & (distance > self.positive_radius)) | near_negative
        return (pulled + pushed).mean(), active.sum() / max(1, len(pids) * (len(pids) - 1))

    def extra_repr(self) -> str:
        return f"alpha={self.alpha:g}, margin={self.margin:g}, temperature={self.temperature:g}"


def pull(distance: Tensor, positive: Tensor, radius: float) -> Tensor:
    """L_P of each anchor: sum_P max(0, d - radius) / (|P| + 1e-5), for (N, N) distances and mask -> (N,)."""
    violation = torch.where(positive, distance - radius, 0).clamp(min=0)
    return violation.sum(dim=1) / (positive.sum(dim=1, dtype=distance.dtype) + EPSILON)


def push(distance: Tensor, near_negative: Tensor, alpha: float, temperature: float) -> Tensor:
    """L_N of each anchor: sum w (alpha - d) / (sum w + 1e-5) with w = exp(temperature (alpha - d)).

    Args:
        distance: (N, N).
        near_negative: (N, N) mask of the negatives that count, all of them nearer than alpha.

    Returns:
        (N,); 0 for an anchor without such a negative. The weights carry gradient; at temperature 0 all are 1.
    """
    # exp overflows float32 from 88 on. Both sides of the fraction are divided by the largest
    # weight, which changes neither its value nor its gradient.
    exponent = torch.where(near_negative, temperature * (alpha - distance), -torch.inf)
    largest = exponent.detach().amax(dim=1, keepdim=True).clamp(min=0)
    weight = torch.exp(exponent - largest)
    norm = weight.sum(dim=1) + EPSILON * torch.exp(-largest.squeeze(1))
    return (weight * (alpha - distance)).sum(dim=1) / norm


def checked_radius(alpha: float, margin: float, temperature: float, positive_radius: float | None) -> float:
    """The distance inside which positives are left alone: positive_radius, or else alpha - margin.

    Raises ValueError: alpha not positive (no negative would count), temperature negative (the farthest
    would weigh most), margin or positive_radius not finite. Warns when the radius is not above 0: every
    positive is always pulled.
    """
    if not (alpha > 0 and math.isfinite(alpha)):
        raise ValueError(f"alpha is {alpha}; a finite number greater than 0 is expected")
    if not (temperature >= 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature is {temperature}; a finite number from 0 on is expected")
    radius = alpha - margin if positive_radius is None else positive_radius
    if not math.isfinite(radius):
        raise ValueError(
            f"margin is {margin}, positive_radius {positive_radius}; finite numbers are expected"
        )
    if radius <= 0:
        warnings.warn(
            f"the positive radius alpha - margin is {radius:g} (alpha {alpha:g}, margin "
            f"{alpha - radius:g}): every positive is always pulled, however near. For a radius above 0 "
            "lower margin, or set positive_radius.",
            stacklevel=3,
        )
    return radius
