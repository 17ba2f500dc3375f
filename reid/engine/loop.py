"""One epoch of training: plain PyTorch, nothing on the way that makes a GPU wait."""

import time
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import nn

from reid.data.batches import Batch
from reid.engine.distributed import ALONE, LostRankError, World
from reid.engine.finite import FiniteGuard
from reid.engine.objective import Objective
from reid.engine.runtime import autocast
from reid.engine.stop import StopSignals


@dataclass
class EpochTotals:
    """Sums over the steps of an epoch, kept on the device and read once, at its end."""

    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    steps: int = 0
    images: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def add(self, values: Mapping[str, torch.Tensor], images: int) -> None:
        for name, value in values.items():
            value = value.detach().double()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.steps += 1
        self.images += images

    def means(self) -> dict[str, float]:
        """The mean of each value over the steps, images per second, and the share of time spent waiting."""
        if not self.steps:
            return {}
        told = dict(
            zip(self.sums, (torch.stack(list(self.sums.values())) / self.steps).tolist(), strict=True)
        )
        told["images_per_second"] = self.images / max(self.seconds, 1e-9)
        told["data_wait"] = self.waited / max(self.seconds, 1e-9)
        return told

    def state(self) -> dict[str, object]:
        """Plain data and tensors, for a checkpoint in mid-epoch."""
        return {**vars(self), "sums": dict(self.sums)}

    @classmethod
    def from_state(cls, state: Mapping[str, object], device: torch.device) -> "EpochTotals":
        totals = cls(**state)  # type: ignore[arg-type]
        totals.sums = {name: value.to(device) for name, value in totals.sums.items()}
        return totals


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    batches: Iterable[Batch],
    totals: EpochTotals,
    stop: StopSignals,
    *,
    device: torch.device,
    precision: str = "float32",
    channels_last: bool = True,
    clip_norm: float | None = None,
    accumulate: int = 1,
    loss_optimizer: torch.optim.Optimizer | None = None,
    world: World = ALONE,
) -> None:
    """Run the steps of `batches`, adding to `totals`; SIGTERM and Ctrl-C wait for the end of a step.

    With `accumulate` > 1 the optimizer moves once every so many batches, by the mean of their gradients;
    each batch is a P x K of its own for the metric loss.  `loss_optimizer` moves with it, where the metric
    loss brings one for parameters of its own; their gradients are not clipped, nor do they count in the norm
    that the network's are clipped by.

    Where several ranks train together, `model` is what `world.parallel` made of it, and the loss and all that
    is watched are those of the whole batch on each of them.

    Raises:
        NonFiniteError: before the optimizer moved on the CPU, within a few steps on a GPU.
        Stopped: asked to stop, or another rank was; every step counted in `totals` is complete.
        LostRankError: another rank is gone.
    """
    model.train()
    guard = FiniteGuard(in_step=world.size > 1)
    optimizers = [optimizer] if loss_optimizer is None else [optimizer, loss_optimizer]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    learnt_by_loss = [] if objective.metric_loss is None else list(objective.metric_loss.parameters())
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    iterator = iter(batches)
    # A rank that stopped between two steps would leave the others waiting within the next one.
    together = nullcontext() if world.size == 1 else stop.deferred(world.largest)
    try:
        with together:
            while True:
                began = time.perf_counter()
                batch = next(iterator, None)
                waited = time.perf_counter() - began
                if batch is None:
                    break
                with stop.deferred(world.largest), world.talking():
                    images = batch.images.contiguous(memory_format=memory_format)
                    with autocast(device, precision):
                        features, logits = model(images)
                    features, logits = world.gather(features), world.gather(logits)
                    losses = objective(features, logits, batch.labels)
                    (losses["loss"] / accumulate).backward()
                    world.average(parameter.grad for parameter in learnt_by_loss)
                    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
                    guard.watch(totals.steps, batch.indices, losses["loss"], norm)
                    if (totals.steps + 1) % accumulate == 0:
                        if clip_norm is not None:
                            torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
                        for each in optimizers:
                            each.step()
                            each.zero_grad(set_to_none=True)
                    watched = objective.watch(features, logits, batch.labels)
                    totals.add({**losses, **watched, "grad_norm": norm}, len(batch.labels))
                    totals.seconds += time.perf_counter() - began
                    totals.waited += waited
    except LostRankError:
        guard.forget()  # a GPU may wait for the lost one for ever
        raise
    finally:
        # Also when asked to stop: what is saved then must be finite too.
        guard.flush()
    # What an epoch's last, incomplete accumulation gathered must not leak into the next one.
    for each in optimizers:
        each.zero_grad(set_to_none=True)
