"""What is minimised: cross entropy and a metric loss, each with its own weight."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from reid.config.mix import construct_loss
from reid.engine.teacher import Distillation
from reid.losses import Mix, pair_statistics
from reid.models.classifiers import Margin


@dataclass(frozen=True)
class Objective:
    """id_weight * cross entropy (label-smoothed) + metric_weight * metric loss + what a teacher adds.

    `metric_loss` maps (features (N, C), labels (N,)) to a scalar, or is None for cross entropy alone. One
    that knows what share of the pairs it still moves has a method `measured(features, labels)` -> (that
    scalar, the share), both of the same distances. `margin` is the head's; with one the logits are cosines.
    """

    id_weight: float
    metric_weight: float
    label_smoothing: float
    metric_loss: nn.Module | None
    margin: Margin | None = None
    distillation: Distillation | None = None

    @property
    def criterion(self) -> nn.Module | None:
        """That of the distillation, where there is a teacher."""
        return None if self.distillation is None else self.distillation.criterion

    @property
    def learning(self) -> list[nn.Module]:
        """What learns beside the model."""
        return [module for module in (self.metric_loss, self.criterion) if module is not None]

    def __call__(
        self,
        features: torch.Tensor,
        logits: torch.Tensor,
        labels: torch.Tensor,
        taught: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Scalars by name: `loss` to go backward from, `id_loss`, `metric_loss`, `teacher_loss` unweighted.

        Of a loss that has `measured`, also `active_fraction`; of a mix, each part of it unweighted, as
        `<part>_loss`.

        features: (N, D); of a mix (N, 2 D).
        logits: (N, classes), or (N, S, classes) of S parts, over which the cross entropy is averaged.
        labels: (N,).
        taught: (N, E), the teacher's features of the same images, where there is a teacher.
        """
        if logits.ndim == 3:
            scores, answers = logits.flatten(0, 1), labels.repeat_interleave(logits.shape[1])
        else:
            scores, answers = logits, labels
        scores = scores.float() if self.margin is None else self.margin(scores.float(), answers)
        id_loss = functional.cross_entropy(scores, answers, label_smoothing=self.label_smoothing)
        losses = {"loss": self.id_weight * id_loss, "id_loss": id_loss}
        if self.metric_loss is not None:
            measured = getattr(self.metric_loss, "measured", None)
            if isinstance(self.metric_loss, Mix):
                terms = self.metric_loss.terms(features.float(), labels)
                metric_loss = self.metric_loss.total(terms)
                losses |= {f"{name}_loss": term for name, term in terms.items()}
            elif measured is not None:
                metric_loss, losses["active_fraction"] = measured(features.float(), labels)
            else:
                metric_loss = self.metric_loss(features.float(), labels)
            losses["metric_loss"] = metric_loss
            losses["loss"] = losses["loss"] + self.metric_weight * metric_loss
        if self.distillation is not None:
            seen = self._one_feature(features)
            losses["teacher_loss"] = self.distillation.criterion(seen.float(), taught)
            losses["loss"] = losses["loss"] + self.distillation.weight * losses["teacher_loss"]
        return losses

    @torch.no_grad()
    def watch(
        self, features: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """What tells a healthy batch from a sick one, as scalars: accuracy without a margin, and the state of
        the pairs."""
        values = pair_statistics(self._one_feature(features).float(), labels)
        if self.id_weight > 0:  # else nobody trains the classifier
            scores = logits.mean(1) if logits.ndim == 3 else logits
            values["accuracy"] = (scores.argmax(1) == labels).float().mean()
        return values

    def _one_feature(self, features: torch.Tensor) -> torch.Tensor:
        """The feature that the metric loss sees; of a mix, which sees two, the one after the neck."""
        if isinstance(self.metric_loss, Mix):
            return self.metric_loss.seen(features)["after"]
        return features


def build_metric_loss(options: dict[str, Any], num_classes: int, embedding_size: int) -> nn.Module | None:
    """The metric loss of a config's loss group; None for cross entropy alone.

    A loss that learns something of each identity, such as a centre, gets `num_classes` and `embedding_size`.

    Raises:
        ConfigError: its class refuses a value.
    """
    sizes = {"num_classes": num_classes, "embedding_size": embedding_size}
    loss: nn.Module | None = construct_loss(options, sizes)
    return loss
