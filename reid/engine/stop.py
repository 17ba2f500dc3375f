"""SIGTERM and Ctrl-C, turned into one exception at a moment when nothing is half done."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(BaseException):
    """Somebody asked the process to stop; `.exit_code` is what a shell expects then (143 or 130).

    A BaseException, so that no `except Exception` on the way takes it for a failure.  `.clean` is False where
    a second signal cut a `deferred` block in two.
    """

    def __init__(self, signum: int, clean: bool = True) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.exit_code = 128 + signum
        self.clean = clean


class StopSignals:
    """While active, SIGTERM and SIGINT raise `Stopped`: at once, or at the end of a `deferred` block.

    Outside the main thread no handler can be set; then this does nothing.
    """

    def __init__(self) -> None:
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
            signal.signal(signum, handler)  # type: ignore[arg-type]

    def _handle(self, signum: int, _: FrameType | None) -> None:
        # A second signal does not wait: whoever asks twice means now.
        if self._deferring and self._asked is None:
            self._asked = signum
        else:
            raise Stopped(signum, clean=not self._deferring)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """A block that a first signal does not cut in two: `Stopped` is raised at its end instead."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        if self._asked is not None:
            raise Stopped(self._asked)
