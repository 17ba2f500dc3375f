"""The network that a benchmark trains: the published recipe around any backbone, and its bare counterpart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from reid.data.batches import Batch
from reid.engine.loop import EpochTotals, train_epoch
from reid.engine.objective import Objective
from reid.engine.optimizers import build_optimizer
from reid.engine.runtime import autocast, set_up_backend
from reid.engine.scaling import gradient_scaler
from reid.engine.stop import StopSignals
from reid.losses import RankedListLoss
from reid.models import ReidModel, build_backbone

#: Small, since what is trained on teaches nothing and must not make the network diverge.
OPTIMIZER = {
    "_target_": "torch.optim.Adam",
    "lr": 1e-6,
    "weight_decay": 5e-4,
    "bias_lr_factor": 1.0,
    "bias_weight_decay": 5e-4,
}
#: The five networks of the published table.
BACKBONES = ("resnet34", "resnet50", "se_resnet50", "se_resnext50", "resnet50_ibn_a")


@dataclass
class Trainee:
    """A model with its optimizer, and two ways to train it on `device`."""

    model: ReidModel
    forward: nn.Module
    optimizer: torch.optim.Optimizer
    device: torch.device
    precision: str = "float32"

    @classmethod
    def build(
        cls,
        backbone: str,
        identities: int,
        device: torch.device,
        precision: str = "float32",
        compiled: bool = False,
    ) -> Trainee:
        """The network from random weights, with channels last in memory, and the optimizer of a run there."""
        set_up_backend(device, precision)
        torch.manual_seed(0)
        model = ReidModel(build_backbone(backbone), identities).to(device)
        model.to(memory_format=torch.channels_last)
        forward = cast(nn.Module, torch.compile(model)) if compiled else model
        return cls(model, forward, build_optimizer(model, OPTIMIZER, device=device), device, precision)

    def suite(self, batches: Iterable[Batch]) -> EpochTotals:
        """The suite's own loop over these batches, with both losses and all that it watches."""
        totals = EpochTotals()
        objective = Objective(1.0, 0.4, 0.1, RankedListLoss())
        with StopSignals() as stop:
            train_epoch(
                self.forward, self.optimizer, objective, batches, totals, stop,
                device=self.device, precision=self.precision,
                scaler=gradient_scaler(self.device, self.precision),
            )  # fmt: skip
        return totals

    def bare(self, batch: Batch, steps: int) -> None:
        """Network, cross entropy and optimizer on one batch that lies there, and nothing else."""
        self.forward.train()
        for _ in range(steps):
            with autocast(self.device, self.precision):
                _, logits = self.forward(batch.images)
            functional.cross_entropy(logits.float(), batch.labels).backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
