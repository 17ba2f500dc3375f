"""Workers whose launcher was killed end when they have nothing left to do.

A worker of joblib waits for its next job by itself, for five minutes, with all the memory of its last one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator

import psutil

#: Seconds between two looks at whether the launcher is there.
LOOK_EVERY_S = 2.0

_busy = threading.Lock()
_watched = threading.Event()


@contextlib.contextmanager
def at_work() -> Iterator[None]:
    """While in here, a worker does not end; outside it does once the launcher that started it is gone.

    A launcher that runs its jobs itself, as joblib's does with one at a time, is no worker and never ends so.
    """
    launcher = multiprocessing.parent_process()
    if launcher is not None and not _watched.is_set():
        _watched.set()
        threading.Thread(target=_watch, args=(launcher.pid,), name="orphan", daemon=True).start()
    with _busy:
        yield


def _watch(launcher: int | None) -> None:
    # The process itself is asked, not `getppid`: a fork server's worker is not its launcher's child.
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(launcher)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(LOOK_EVERY_S)
    # A job that begins now waits for the lock, and ends with the process: the restarted sweep runs it.
    _busy.acquire()
    os._exit(0)
