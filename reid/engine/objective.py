"""What is minimised: cross entropy and a metric loss, each with its own weight."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from reid.config.checks import construct
from reid.config.schema import OWN_KEYS
from reid.losses import pair_statistics


@dataclass(frozen=True)
class Objective:
    """id_weight * cross entropy (label-smoothed) + metric_weight * metric loss.

    `metric_loss` maps (features (N, C), labels (N,)) to a scalar, or is None for cross entropy alone. One
    that knows what share of the pairs it still moves has a method `measured(features, labels)` -> (that
    scalar, the share), both of the same distances.
    """

    id_weight: float
    metric_weight: float
    label_smoothing: float
    metric_loss: nn.Module | None

    def __call__(
        self, features: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Scalars by name: `loss` to go backward from, `id_loss` and `metric_loss` unweighted; of a loss that
        has `measured`, also `active_fraction`.

        features: (N, D).
        logits: (N, classes), or (N, S, classes) of S stripes, over which the cross entropy is averaged.
        labels: (N,).
        """
        if logits.ndim == 3:
            scores, answers = logits.flatten(0, 1), labels.repeat_interleave(logits.shape[1])
        else:
            scores, answers = logits, labels
        id_loss = functional.cross_entropy(scores.float(), answers, label_smoothing=self.label_smoothing)
        losses = {"loss": self.id_weight * id_loss, "id_loss": id_loss}
        if self.metric_loss is not None:
            measured = getattr(self.metric_loss, "measured", None)
            if measured is not None:
                metric_loss, losses["active_fraction"] = measured(features.float(), labels)
            else:
                metric_loss = self.metric_loss(features.float(), labels)
            losses["metric_loss"] = metric_loss
            losses["loss"] = losses["loss"] + self.metric_weight * metric_loss
        return losses

    @torch.no_grad()
    def watch(
        self, features: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """What tells a healthy batch from a sick one: accuracy and the state of the pairs, as scalars."""
        values = pair_statistics(features.float(), labels)
        if self.id_weight > 0:  # else nobody trains the classifier
            scores = logits.mean(1) if logits.ndim == 3 else logits
            values["accuracy"] = (scores.argmax(1) == labels).float().mean()
        return values


def build_metric_loss(options: dict[str, Any], num_classes: int, embedding_size: int) -> nn.Module | None:
    """The metric loss of a config's loss group; None for cross entropy alone.

    A loss that learns something of each identity, such as a centre, gets `num_classes` and `embedding_size`.

    Raises:
        ConfigError: its class refuses a value.
    """
    sizes = {"num_classes": num_classes, "embedding_size": embedding_size}
    loss: nn.Module | None = construct("loss", options, OWN_KEYS["loss"], sizes)
    return loss
