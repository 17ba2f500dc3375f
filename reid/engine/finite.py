"""Stopping at the first number that is none, without making a GPU wait."""

from collections import deque

import torch
from torch import nn

from reid.engine.distributed import ALONE, Processes
from reid.engine.optimizers import SMALLEST_SCALE
from reid.errors import RunError

#: Steps after which processes in step read a flag: a GPU is rarely as far behind its host.
LAG = 8

#: Steps in a row without a finite loss after which a run in fp16 has diverged.
PATIENCE = 20


class DivergedError(RunError, RuntimeError):
    """The model holds, or gives, numbers that are none: the training cannot go on from here."""


class NonFiniteError(DivergedError):
    """The loss or the gradient of a step became NaN or infinite; `.indices` are the images of its batch."""

    def __init__(
        self, step: int, indices: torch.Tensor, what: str = "the loss or its gradient became NaN or infinite"
    ) -> None:
        super().__init__(f"{what} at step {step}")
        self.step = step
        self.indices = indices


def check_finite(model: nn.Module, processes: Processes = ALONE) -> None:
    """Raises DivergedError if a parameter or buffer holds NaN or infinity, in any process."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    named = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    finite = torch.stack([tensor.detach().isfinite().all() for tensor in named.values()]).tolist()
    bad = [name for name, fine in zip(named, finite, strict=True) if not fine]
    if processes.largest(len(bad)):
        raise DivergedError(
            f"{len(bad)} of the model's {len(named)} tensors hold NaN or infinity after the epoch "
            f"({', '.join(bad[:3])})."
        )


class FiniteGuard:
    """Checks each step's loss and gradient norm: at once on the CPU, a few steps later on a GPU.

    A GPU runs behind the host, and reading a number there would make the host wait for it.  So the flag
    travels to the host on its own and is read when it has arrived, at the latest at `flush`.

    in_step: read it a fixed number of steps later instead, so that all processes that train together, which
    have the same gradient, stop after the same step.

    In fp16 a gradient that overflows is no trouble, since its scale is halved then.  What no scale cures is:
    a loss that is not finite for `PATIENCE` steps in a row, and a scale below `SMALLEST_SCALE`.
    """

    def __init__(self, in_step: bool = False) -> None:
        self._in_step = in_step
        self._pending: deque[tuple[int, torch.Tensor, torch.Tensor, torch.cuda.Event | None]] = deque()
        self._overflowing = 0  # steps in a row, in fp16

    def watch(self, step: int, indices: torch.Tensor, loss: torch.Tensor, norm: torch.Tensor) -> None:
        """Raises NonFiniteError for this step or for one before it."""
        self._add(step, indices, torch.isfinite(loss.detach()) & torch.isfinite(norm))

    def watch_scaled(
        self, step: int, indices: torch.Tensor, loss: torch.Tensor, scale: torch.Tensor | None
    ) -> None:
        """The same in fp16; `scale` is that of the gradient, None in a step that only accumulates it."""
        finite = torch.isfinite(loss.detach())
        usable = torch.ones_like(finite) if scale is None else scale >= SMALLEST_SCALE
        self._add(step, indices, torch.stack([finite, usable]))

    def _add(self, step: int, indices: torch.Tensor, flag: torch.Tensor) -> None:
        arrived = None
        if flag.is_cuda:
            stream = torch.cuda.current_stream(flag.device)
            flag = torch.empty(flag.shape, dtype=torch.bool, pin_memory=True).copy_(flag, non_blocking=True)
            arrived = stream.record_event()
        self._pending.append((step, indices, flag, arrived))
        while self._pending and self._due():
            self._check()

    def _due(self) -> bool:
        event = self._pending[0][3]
        if event is None:
            return True
        if not self._in_step:
            return event.query()
        late = len(self._pending) > LAG
        if late:
            event.synchronize()
        return late

    def flush(self) -> None:
        """Check all that is left; called before anything is saved."""
        while self._pending:
            event = self._pending[0][3]
            if event is not None:
                event.synchronize()
            self._check()

    def forget(self) -> None:
        """Check nothing that is left: what it waits for may never come."""
        self._pending.clear()

    def _check(self) -> None:
        step, indices, flag, _ = self._pending.popleft()
        if flag.ndim == 0:
            if not flag:
                raise NonFiniteError(step, indices)
            return
        finite, usable = flag.tolist()
        self._overflowing = 0 if finite else self._overflowing + 1
        if self._overflowing >= PATIENCE:
            raise NonFiniteError(step, indices, f"the loss was not finite for {PATIENCE} steps in a row, up")
        if not usable:
            raise NonFiniteError(step, indices, "the gradient overflowed at every scale")
