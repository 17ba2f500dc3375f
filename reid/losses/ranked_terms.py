"""The two halves of a ranked list loss, one value an anchor, and the check of its settings."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

EPSILON = 1e-5


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
