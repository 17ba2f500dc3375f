"""SIGTERM and Ctrl-C, turned into one exception at a moment when nothing is half done."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch is not needed to stop
    from reid.engine.distributed import Processes


class Stopped(BaseException):
    """Somebody asked the process to stop; `.exit_code` is what a shell expects then (143 or 130).

    A BaseException, so that no `except Exception` on the way takes it for a failure.  `.clean` is False where
    a second signal cut a block in two that is `in_one_piece`, and where other processes may stand elsewhere.
    """

    def __init__(self, signum: int, clean: bool = True) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum
        self.exit_code = 128 + signum
        self.clean = clean

    def __reduce__(self) -> tuple[type["Stopped"], tuple[int, bool]]:
        """A worker of a launcher sends it to the launcher."""
        return type(self), (self.signum, self.clean)


class StopSignals:
    """While active, SIGTERM and SIGINT raise `Stopped`: at once, or at the end of a block `in_one_piece`.

    Outside the main thread no handler can be set; then this does nothing.

    once: only the first signal counts. A person who asks twice means now; torchrun, a batch system and the
    launcher of a sweep tell every process, and end what takes too long by themselves.
    together: other processes train the same model, and may stand elsewhere.
    more: further signals that mean the same, such as a batch system's warning before the end.
    first: called once, before a signal is raised that nothing defers.
    """

    def __init__(
        self,
        once: bool = False,
        together: bool = False,
        more: Sequence[int] = (),
        first: Callable[[], None] = lambda: None,
    ) -> None:
        self._once = once
        self._together = together
        self._signals = (signal.SIGTERM, signal.SIGINT, *more)
        self._first = first
        self._deferring = False
        self._signal: int | None = None
        self._before: dict[int, signal.Handlers | object] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for signum in self._signals:
                self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            if signal.getsignal(signum) == self._handle:  # or another has set one since, which stays
                signal.signal(signum, handler)  # type: ignore[arg-type]

    def _handle(self, signum: int, _: FrameType | None) -> None:
        first = self._signal is None
        if self._once and not first:
            return
        waits = self._deferring and first  # a second signal does not wait
        # Kept, since what is raised within a finaliser is only printed by Python: the next block raises it.
        self._signal = signum
        if not waits:
            notify, self._first = self._first, lambda: None
            notify()
            raise Stopped(signum, clean=not self._deferring and not self._together)

    @contextmanager
    def in_one_piece(self, processes: "Processes | None" = None, of_steps: bool = False) -> Iterator[None]:
        """A block that a first signal does not cut in two: `Stopped` is raised at its end instead.

        processes: those that train together come here together. A signal to one of them counts for all, which
        stop at the end of the same block, within another such block too; where one is gone, it ends with
        LostProcessError.
        of_steps: the block consists of such blocks. Between two of them one process alone stops at once, but
        several would leave the others waiting within the next.
        """
        together = processes is not None and processes.count > 1
        if of_steps and not together:
            yield
            return
        within, self._deferring = self._deferring, True
        try:
            if processes is None:
                yield
            else:
                with processes.talking():
                    yield
        finally:
            self._deferring = within
        signum = self._signal or 0
        if processes is not None:
            signum = processes.largest(signum)
        if signum and (together or not within):
            self._signal = signum
            raise Stopped(signum)
