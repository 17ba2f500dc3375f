"""The network that a benchmark trains: the published recipe around any backbone, and its bare counterpart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from reid.data.batches import Batch
from reid.engine.compute import Compute
from reid.engine.loop import EpochTotals, train_epoch
from reid.engine.objective import Objective
from reid.engine.optimizers import Optimizers, build_optimizer, gradient_scaler
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
    """A model with its optimizers, and two ways to train it."""

    model: ReidModel
    network: nn.Module
    optimizers: Optimizers
    compute: Compute

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
        compute = Compute.set_up(str(device), precision, compile=compiled)
        torch.manual_seed(0)
        model = compute.place(ReidModel(build_backbone(backbone), identities))
        optimizers = Optimizers(
            build_optimizer(model, OPTIMIZER, device=device), scaler=gradient_scaler(device, precision)
        )
        return cls(model, compute.network(model), optimizers, compute)

    def suite(self, batches: Iterable[Batch]) -> EpochTotals:
        """The suite's own loop over these batches, with both losses and all that it watches."""
        totals = EpochTotals()
        objective = Objective(1.0, 0.4, 0.1, RankedListLoss())
        with StopSignals() as stop:
            train_epoch(self.network, objective, batches, totals, self.optimizers, self.compute, stop)
        return totals

    def bare(self, batch: Batch, steps: int) -> None:
        """Network, cross entropy and optimizer on one batch that lies there, and nothing else."""
        self.network.train()
        for _ in range(steps):
            with self.compute.autocast():
                _, logits = self.network(batch.images)
            functional.cross_entropy(logits.float(), batch.labels).backward()
            self.optimizers.network.step()
            self.optimizers.drop_gradients()
