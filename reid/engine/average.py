"""The moving average of the weights that a training leads to, which is judged and saved in their place."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from reid.models import ReidModel


class WeightAverage:
    """The exponential moving average of a model's parameters and buffers over the moves of its optimizer.

    With w_n the weights after move n, which counts from 0, and a_n their average,

        a_0 = w_0,    a_n = d_n a_(n-1) + (1 - d_n) w_n,    d_n = min(decay, (1 + n) / (10 + n))

    (Polyak and Juditsky, SIAM J. Control Optim. 30, 1992; the warm-up by n is that of TensorFlow's
    ExponentialMovingAverage). Without the warm-up d_n = decay, and the average is, bit for bit, that of
    torch.optim.swa_utils.AveragedModel with `get_ema_multi_avg_fn(decay)` and `use_buffers=True`. That class
    moves its count to the device in each step, for which a GPU's host has to wait; here it stays on the host.

    Running means and variances of batch norms are averaged as weights are. Buffers of whole numbers, such as
    the count of batches, are those of the model. A move that fp16 skips counts as one that changed nothing.

    decay: above 0 and below 1. The average looks back over about 1 / (1 - decay) moves.
    warmup: let the average of the first moves look back over a tenth of them, since the untrained weights
        would otherwise stay in it for about 5 / (1 - decay) moves.
    """

    def __init__(self, model: ReidModel, decay: float, warmup: bool = True) -> None:
        """Begin with a copy of `model`, which is placed on its device already."""
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay
        self.warmup = warmup
        self.moves = 0
        # All that a checkpoint holds, tensors that two layers share once. The rest are constants.
        both = zip(self.model.state_dict().values(), model.state_dict().values(), strict=True)
        pairs = {mine.data_ptr(): (mine, its) for mine, its in both}.values()
        self._floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._others = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights that the model has after a move."""
        if self.moves:
            decay = min(self.decay, (1 + self.moves) / (10 + self.moves)) if self.warmup else self.decay
            torch._foreach_lerp_(
                [mine for mine, _ in self._floats], [its for _, its in self._floats], 1 - decay
            )
        for mine, its in self._others if self.moves else self._floats + self._others:
            mine.copy_(its)
        self.moves += 1

    def restore(self, averaged: Mapping[str, Tensor], moves: Any) -> None:
        """Go on from the state dict of `model` after so many moves."""
        self.model.load_state_dict(dict(averaged))
        self.moves = int(moves)
