"""Ranked list loss, as the published re-ID implementation computes it."""

from __future__ import annotations

from torch import Tensor, nn

from reid.distance import unit_euclidean
from reid.losses.pairs import check_batch, pair_masks
from reid.losses.ranked_terms import checked_radius, pull, push


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
            paper says of its T.
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
