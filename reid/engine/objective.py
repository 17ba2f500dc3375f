"""What is minimised: cross entropy and a metric loss, each with its own weight."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from reid.checks import ConfigError, trusted_target
from reid.config import OWN_KEYS
from reid.losses import pair_statistics


@dataclass(frozen=True)
class Objective:
    """id_weight * cross entropy (label-smoothed) + metric_weight * metric loss.

    `metric_loss` maps (features (N, C), labels (N,)) to a scalar, or is None for cross entropy alone.
    """

    id_weight: float
    metric_weight: float
    label_smoothing: float
    metric_loss: nn.Module | None

    def __call__(
        self, features: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Scalars by name: `loss` to go backward from, `id_loss` and `metric_loss` unweighted."""
        id_loss = functional.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)
        losses = {"loss": self.id_weight * id_loss, "id_loss": id_loss}
        if self.metric_loss is not None:
            metric_loss = self.metric_loss(features.float(), labels)
            losses["metric_loss"] = metric_loss
            losses["loss"] = losses["loss"] + self.metric_weight * metric_loss
        return losses

    @torch.no_grad()
    def watch(
        self, features: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """What tells a healthy batch from a sick one: accuracy and the state of the pairs, as scalars."""
        told = {"accuracy": (logits.argmax(1) == labels).float().mean()}
        told |= pair_statistics(features.float(), labels)
        active = getattr(self.metric_loss, "active_fraction", None)
        if active is not None:
            told["active_fraction"] = active(features.float(), labels)
        return told


def build_metric_loss(options: dict[str, Any]) -> nn.Module | None:
    """The loss that `_target_` names, given the options that are not the suite's own.

    Raises:
        ConfigError: the class refuses a value.
    """
    if options["_target_"] is None:
        return None
    target = trusted_target("loss", options["_target_"])
    arguments = {key: value for key, value in options.items() if key not in OWN_KEYS["loss"]}
    try:
        loss = target(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"loss.{error}" if str(error).split(" ")[0] in arguments else f"loss: {error}"
        ) from error
    assert isinstance(loss, nn.Module)
    return loss
