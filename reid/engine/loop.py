"""One epoch of training: plain PyTorch, nothing on the way that makes a GPU wait."""

import math
import time
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.amp import GradScaler

from reid.data.batches import Batch
from reid.engine.distributed import ALONE, LostRankError, World
from reid.engine.finite import FiniteGuard
from reid.engine.objective import Objective
from reid.engine.runtime import autocast
from reid.engine.scaling import backward, move, unscale
from reid.engine.stop import StopSignals

# Names among the sums of an epoch.
_NORM, _SKIPPED, _UNCOUNTED = "grad_norm", "skipped_steps", "uncounted_steps"


@dataclass
class EpochTotals:
    """Sums over the steps of an epoch, kept on the device and read once, at its end."""

    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    steps: int = 0
    moves: int = 0
    images: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def add(
        self, values: Mapping[str, torch.Tensor], images: int, counted: torch.Tensor | None = None
    ) -> None:
        """The values of a step; none of one that overflowed, where `counted` (0-d bool) is false."""
        self._sum(values, counted)
        if counted is not None:
            self._sum({_UNCOUNTED: ~counted})
        self.steps += 1
        self.images += images

    def add_move(self, norm: torch.Tensor, skipped: torch.Tensor | None = None) -> None:
        """The norm of the gradient that the optimizer moves by, unless it skips this step (0-d bool)."""
        self._sum({_NORM: norm}, None if skipped is None else ~skipped)
        if skipped is not None:
            self._sum({_SKIPPED: skipped})
        self.moves += 1

    def _sum(self, values: Mapping[str, torch.Tensor], counted: torch.Tensor | None = None) -> None:
        for name, value in values.items():
            value = value.detach().double()
            if counted is not None:
                value = torch.where(counted, value, 0.0)
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def means(self) -> dict[str, float]:
        """The mean of each value over the steps, images per second, and the share of time spent waiting.

        `grad_norm` is a mean over the moves of the optimizer, `skipped_steps` how many of them it skipped.
        """
        if not self.steps:
            return {}
        sums = dict(zip(self.sums, torch.stack(list(self.sums.values())).tolist(), strict=True))
        skipped, uncounted = sums.get(_SKIPPED, 0.0), sums.pop(_UNCOUNTED, 0.0)
        times = {_NORM: self.moves - skipped, _SKIPPED: 1.0}
        means = {}
        for name, total in sums.items():
            count = times.get(name, self.steps - uncounted)
            means[name] = total / count if count else math.nan
        means["images_per_second"] = self.images / max(self.seconds, 1e-9)
        means["data_wait"] = self.waited / max(self.seconds, 1e-9)
        return means

    def state(self) -> dict[str, object]:
        """Plain data and tensors, for a checkpoint in mid-epoch."""
        return {**vars(self), "sums": dict(self.sums)}

    @classmethod
    def from_state(cls, state: Mapping[str, object], device: torch.device) -> "EpochTotals":
        # One without `moves` is older: within an epoch those were saved only where every step moved.
        totals = cls(**{"moves": state["steps"], **state})  # type: ignore[arg-type]
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
    scaler: GradScaler | None = None,
    world: World = ALONE,
) -> None:
    """Run the steps of `batches`, adding to `totals`; SIGTERM and Ctrl-C wait for the end of a step.

    With `accumulate` > 1 the optimizer moves once every so many batches, by the mean of their gradients;
    each batch is a P x K of its own for the metric loss.  `loss_optimizer` moves with it, where the metric
    loss brings one for parameters of its own; their gradients are not clipped, nor do they count in the norm
    that the network's are clipped by.

    Where several ranks train together, `model` is what `world.parallel` made of it, and the loss and all that
    is watched are those of the whole batch on each of them.

    `scaler` scales the loss of a run in fp16.  A step whose gradient overflows is skipped and counted; a run
    that goes on overflowing has diverged (see `FiniteGuard`).

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
                    backward(losses["loss"] / accumulate, scaler)
                    world.average(parameter.grad for parameter in learnt_by_loss)
                    moves = (totals.steps + 1) % accumulate == 0
                    scale = unscale(optimizers, scaler) if moves else None
                    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
                    finite = skipped = None
                    if scaler is None:
                        guard.watch(totals.steps, batch.indices, losses["loss"], norm)
                    else:
                        guard.watch_scaled(totals.steps, batch.indices, losses["loss"], scale)
                        finite, skipped = losses["loss"].isfinite(), ~norm.isfinite()
                    if moves:
                        if clip_norm is not None:
                            torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
                        move(optimizers, scaler)
                    watched = objective.watch(features, logits, batch.labels)
                    totals.add({**losses, **watched}, len(batch.labels), finite)
                    if moves:
                        totals.add_move(norm, skipped)
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
