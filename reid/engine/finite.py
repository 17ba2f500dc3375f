"""Stopping at the first number that is none, without making a GPU wait."""

from collections import deque

import torch


class NonFiniteError(RuntimeError):
    """The loss or the gradient of a step became NaN or infinite; `.indices` are the images of its batch."""

    def __init__(self, step: int, indices: torch.Tensor) -> None:
        super().__init__(f"the loss or its gradient became NaN or infinite at step {step}")
        self.step = step
        self.indices = indices


class FiniteGuard:
    """Checks each step's loss and gradient norm: at once on the CPU, a few steps later on a GPU.

    A GPU runs behind the host, and reading a number there would make the host wait for it.  So the flag
    travels to the host on its own and is read when it has arrived, at the latest at `flush`.
    """

    def __init__(self) -> None:
        self._pending: deque[tuple[int, torch.Tensor, torch.Tensor, torch.cuda.Event | None]] = deque()

    def watch(self, step: int, indices: torch.Tensor, loss: torch.Tensor, norm: torch.Tensor) -> None:
        """Raises NonFiniteError for this step or for one before it."""
        flag = torch.isfinite(loss.detach()) & torch.isfinite(norm)
        arrived = None
        if flag.is_cuda:
            flag = torch.empty(flag.shape, dtype=torch.bool, pin_memory=True).copy_(flag, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self._pending.append((step, indices, flag, arrived))
        while self._pending and ((event := self._pending[0][3]) is None or event.query()):
            self._check()

    def flush(self) -> None:
        """Check all that is left; called before anything is saved."""
        while self._pending:
            event = self._pending[0][3]
            if event is not None:
                event.synchronize()
            self._check()

    def _check(self) -> None:
        step, indices, flag, _ = self._pending.popleft()
        if not flag:
            raise NonFiniteError(step, indices)
