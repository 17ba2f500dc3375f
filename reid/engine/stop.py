"""SIGTERM and Ctrl-C, turned into one exception at a moment when nothing is half done."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(BaseException):
    """Somebody asked the process to stop; `.exit_code` is what a shell expects then (143 or 130).

    A BaseException, so that no `except Exception` on the way takes it for a failure.  `.clean` is False where
    a second signal cut a `deferred` block in two, and where other processes may stand elsewhere.
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
    """While active, SIGTERM and SIGINT raise `Stopped`: at once, or at the end of a `deferred` block.

    Outside the main thread no handler can be set; then this does nothing.

    once: only the first signal counts. A person who asks twice means now; torchrun, a batch system and the
    launcher of a sweep tell every process, and end what takes too long by themselves.
    together: other processes train the same model, and may stand elsewhere.
    first: called once, before a signal is raised that nothing defers.
    """

    def __init__(
        self, once: bool = False, together: bool = False, first: Callable[[], None] = lambda: None
    ) -> None:
        self._once = once
        self._together = together
        self._first = first
        self._deferring = False
        self._asked: int | None = None
        self._before: dict[signal.Signals, signal.Handlers | object] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGINT):
                self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            if signal.getsignal(signum) == self._handle:  # or another has set one since, which stays
                signal.signal(signum, handler)  # type: ignore[arg-type]

    def _handle(self, signum: int, _: FrameType | None) -> None:
        first = self._asked is None
        if self._once and not first:
            return
        waits = self._deferring and first  # a second signal does not wait
        # Kept, since what is raised within a finaliser is only printed by Python: the next block raises it.
        self._asked = signum
        if not waits:
            tell, self._first = self._first, lambda: None
            tell()
            raise Stopped(signum, clean=not self._deferring and not self._together)

    @contextmanager
    def deferred(self, agree: Callable[[int], int] | None = None) -> Iterator[None]:
        """A block that a first signal does not cut in two: `Stopped` is raised at its end instead.

        `agree` maps the signal that came here (0: none) to the one that counts, where several processes have
        to stop at the same place; then this holds within another such block too.
        """
        within, self._deferring = self._deferring, True
        try:
            yield
        finally:
            self._deferring = within
        asked = agree(self._asked or 0) if agree is not None else self._asked
        if asked and (agree is not None or not within):
            self._asked = asked
            raise Stopped(asked)
