"""One process at a job: the lock in its folder, which the system frees where that process was killed.

Beside it lies the number of that process, so that the launcher of a sweep can tell its jobs to stop.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from reid.locks import FileLock, Timeout

log = logging.getLogger(__name__)

LOCK = ".job.lock"
HOLDER = ".job.pid"

#: Seconds for which jobs that are stopped may go on: with the step, or the save, that they are in.
STOP_WITHIN_S = 60.0


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only process at the job of this folder; waits for one that is at it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        log.warning("another process is at the job in %s: waiting until it ends", folder)
        lock.acquire(timeout=-1)
    holder = folder / HOLDER
    try:
        with contextlib.suppress(OSError):  # a full disk
            holder.write_text(f"{os.getpid()} {socket.gethostname()}")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def occupied(folder: Path) -> bool:
    """Whether a process of this machine is at the job of this folder right now."""
    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except Timeout:
        return True


def stop_jobs(folders: Iterable[Path]) -> None:
    """Have the other processes that are at the jobs of these folders stop, and wait until they have."""
    signalled = [folder for folder in folders if occupied(folder) and _terminate(folder)]
    end = time.monotonic() + STOP_WITHIN_S
    while any(map(occupied, signalled)) and time.monotonic() < end:
        time.sleep(0.1)


def _terminate(folder: Path) -> bool:
    """Send SIGTERM to the process at the job of this folder; False where none is, or it is this one.

    On another machine, which shares the folder, its number is that of any process here.
    """
    try:
        number, _, host = (folder / HOLDER).read_text().partition(" ")
        holder = int(number)
        if holder == os.getpid() or host not in ("", socket.gethostname()):
            return False
        os.kill(holder, signal.SIGTERM)
    except (OSError, ValueError):  # it has just ended
        return False
    return True
