"""One epoch of training: plain PyTorch, nothing on the way that makes a GPU wait."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from reid.data.batches import Batch
from reid.engine.compute import Compute
from reid.engine.distributed import LostProcessError
from reid.engine.finite import FiniteGuard
from reid.engine.objective import Objective
from reid.engine.optimizers import Optimizers, set_learning_rate
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
    taught: float = 0.0

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
        """The mean of each value over the steps, the seconds that they took, images per second, and the
        shares of the time spent waiting and, where there is a teacher, in its forward passes.

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
        means["seconds"] = self.seconds
        means["images_per_second"] = self.images / max(self.seconds, 1e-9)
        means["data_wait"] = self.waited / max(self.seconds, 1e-9)
        if self.taught:
            means["teacher_share"] = self.taught / max(self.seconds, 1e-9)
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
    network: nn.Module,
    objective: Objective,
    batches: Iterable[Batch],
    totals: EpochTotals,
    optimizers: Optimizers,
    compute: Compute,
    stop: StopSignals,
    rates: Sequence[float] = (),
) -> None:
    """Run the steps of `batches`, adding to `totals`; SIGTERM and Ctrl-C wait for the end of a step.

    rates: the learning rate of every step of the epoch, which `totals.steps` counts; (): as they are.

    Where several processes train together, `network` is what `compute.network` made of the model, and the
    loss and all that is watched are those of the whole batch in each of them.

    In fp16 a step whose gradient overflows is skipped and counted; a run that goes on overflowing has
    diverged (see `FiniteGuard`).

    Raises:
        NonFiniteError: before the optimizer moved on the CPU, within a few steps on a GPU.
        Stopped: a signal came to this process or to another; every step counted in `totals` is complete.
        LostProcessError: another process is gone.
    """
    network.train()
    guard = FiniteGuard(in_step=compute.processes.count > 1)
    iterator = iter(batches)
    try:
        with stop.in_one_piece(compute.processes, of_steps=True):
            while True:
                began = time.perf_counter()
                batch = next(iterator, None)
                waited = time.perf_counter() - began
                if batch is None:
                    break
                with stop.in_one_piece(compute.processes):
                    if rates:
                        set_learning_rate(optimizers.network, rates[totals.steps])
                    _step(network, objective, batch, totals, optimizers, compute, guard)
                    totals.seconds += time.perf_counter() - began
                    totals.waited += waited
    except LostProcessError:
        guard.forget()  # a GPU may wait for the lost one for ever
        raise
    finally:
        # Also when a signal came: what is saved then must be finite too.
        guard.flush()
        if objective.distillation is not None:
            totals.taught += objective.distillation.teacher.take_seconds()
    # What an epoch's last, incomplete accumulation gathered must not leak into the next one.
    optimizers.drop_gradients()


def _step(
    network: nn.Module,
    objective: Objective,
    batch: Batch,
    totals: EpochTotals,
    optimizers: Optimizers,
    compute: Compute,
    guard: FiniteGuard,
) -> None:
    processes = compute.processes
    images = batch.images.contiguous(memory_format=compute.memory_format)
    with compute.autocast():
        features, logits = network(images) if batch.camids is None else network(images, batch.camids)
    features, logits = processes.gather_rows(features), processes.gather_rows(logits)
    taught = None
    if objective.distillation is not None:
        taught = processes.gather_rows(objective.distillation.teacher(images, compute, batch.camids))
    losses = objective(features, logits, batch.labels, taught)
    optimizers.backward(losses["loss"])
    for module in objective.learning:
        processes.average(parameter.grad for parameter in module.parameters())
    moves = (totals.steps + 1) % optimizers.accumulate == 0
    scale = optimizers.unscale() if moves else None
    norm = optimizers.gradient_norm()
    finite = skipped = None
    if optimizers.scaler is None:
        guard.watch(totals.steps, batch.indices, losses["loss"], norm)
    else:
        guard.watch_scaled(totals.steps, batch.indices, losses["loss"], scale)
        finite, skipped = losses["loss"].isfinite(), ~norm.isfinite()
    if moves:
        optimizers.step(norm)
    watched = objective.watch(features, logits, batch.labels)
    totals.add({**losses, **watched}, len(batch.labels), finite)
    if moves:
        totals.add_move(norm, skipped)
