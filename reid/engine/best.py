"""The model of the epoch that scored best on the evaluation split, kept while the training goes on."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class BestModel:
    """The weights of the epoch with the highest score so far, and that epoch. Of equal ones the first stays.

    score: the name of the score that decides, such as `val/mAP`; higher is better.

    `model` is a state dict on the CPU, or None as long as no trained epoch was judged. The untrained model
    (epoch 0) is never chosen. The scores themselves stand in the history of the run, in the row of the epoch.
    """

    def __init__(self, score: str) -> None:
        self.score = score
        self.epoch = 0
        self.value = 0.0
        self.model: dict[str, Tensor] | None = None

    def is_beaten_by(self, epoch: int, values: Mapping[str, float]) -> bool:
        """Whether the model of `epoch`, with these scores, is to be kept in the place of this one.

        An epoch that a resumed run judges once more is the same model, with the score of now.
        """
        return epoch > 0 and (self.model is None or epoch == self.epoch or values[self.score] > self.value)

    @torch.no_grad()
    def take(self, epoch: int, value: float, model: nn.Module) -> None:
        """Keep a copy of `model` as it stands."""
        self.epoch, self.value = epoch, value
        self.model = {name: tensor.to("cpu", copy=True) for name, tensor in model.state_dict().items()}

    def description(self) -> dict[str, Any]:
        """What a checkpoint says of it."""
        return {"epoch": self.epoch, "score": self.score, "value": self.value}

    def restore(self, description: Mapping[str, Any], kept: Mapping[str, Tensor], like: nn.Module) -> None:
        """Take up what a checkpoint holds; `like` is a network of the same kind.

        Raises:
            ValueError: the weights are those of another network.
        """
        shapes = {name: tensor.shape for name, tensor in like.state_dict().items()}
        if {name: tensor.shape for name, tensor in kept.items()} != shapes:
            raise ValueError("the weights of the best epoch are those of another network")
        self.epoch, self.value = int(description["epoch"]), float(description["value"])
        self.model = {name: tensor.cpu() for name, tensor in kept.items()}
