"""One process at a job: the lock in its folder, which the system frees where that process was killed."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

LOCK = ".job.lock"


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
    try:
        yield
    finally:
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
