"""Metric losses summed with weights, each on the feature before or after the neck."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

_FEATURES = ("before", "after")
#: Their losses are tracked under names of their own.
_TAKEN = ("id", "metric")


class Mix(nn.Module):
    r"""Several metric losses as one.

        loss = sum over the parts i of w_i L_i(f_i),    f_i the feature before or after the neck

    Where each is placed matters: the cross entropy shapes the directions of features after the batch norm,
    and a loss of unnormalised distances, such as the triplet loss, fits better before it (Luo et al.,
    "Bag of Tricks", CVPRW 2019, arXiv 1903.07071, section 3.5).

    Args:
        losses: two or more by name; each maps (features (N, D), pids (N,)) to a scalar.
        weights: of each, from 0 on.
        features: of each, `before` or `after`.

    Shapes: features (N, 2 D), `before` and `after` side by side, pids (N,) -> scalar.
    Raises ValueError: fewer than two losses, a name that is taken, a weight that is negative or not finite, a
    feature that is none; two losses that both bring an optimizer, since a run has room for one.
    """

    def __init__(
        self, losses: Mapping[str, nn.Module], weights: Mapping[str, float], features: Mapping[str, str]
    ) -> None:
        super().__init__()
        if len(losses) < 2:
            raise ValueError(f"a mix takes two losses or more, not {len(losses)}")
        for name in losses:
            if name in _TAKEN or hasattr(nn.ModuleDict, name) or not name.isidentifier():
                raise ValueError(f"{name!r} cannot name a loss of a mix; choose another name, such as third")
            if not (weights[name] >= 0 and math.isfinite(weights[name])):
                raise ValueError(f"the weight of {name} is {weights[name]}; a number from 0 on is expected")
            if features[name] not in _FEATURES:
                raise ValueError(f"{name} sees {features[name]!r}; before or after is expected")
        # By name: a run has the same sums whatever the order in which its config lists them.
        self.losses = nn.ModuleDict({name: losses[name] for name in sorted(losses)})
        self.weights, self.features = dict(weights), dict(features)
        self._bringing = [name for name, loss in self.losses.items() if hasattr(loss, "own_optimizer")]
        if len(self._bringing) > 1:
            raise ValueError(
                f"{' and '.join(self._bringing)} both bring an optimizer of their own; a mix takes one such "
                "loss, as triplet_center is"
            )

    def forward(self, features: Tensor, pids: Tensor) -> Tensor:
        return self.total(self.terms(features, pids))

    def terms(self, features: Tensor, pids: Tensor) -> dict[str, Tensor]:
        """The loss of each part, unweighted."""
        seen = self.seen(features)
        return {name: loss(seen[self.features[name]], pids) for name, loss in self.losses.items()}

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of `terms`."""
        return torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()

    def seen(self, features: Tensor) -> dict[str, Tensor]:
        """(N, 2 D) -> the two features by name, (N, D) each."""
        return dict(zip(_FEATURES, features.chunk(2, dim=1), strict=True))

    def own_optimizer(self) -> torch.optim.Optimizer | None:
        """The optimizer that one of the losses brings for its parameters, None where none does."""
        for name in self._bringing:
            optimizer: torch.optim.Optimizer = self.losses[name].own_optimizer()  # type: ignore[operator]
            return optimizer
        return None

    def extra_repr(self) -> str:
        return ", ".join(f"{name}: {self.weights[name]:g} x {self.features[name]}" for name in self.losses)
