"""File locks, which the system frees where their holder was killed; the error where a disk has none."""

from __future__ import annotations

import errno
import os
from typing import Any

import filelock
from filelock import Timeout

__all__ = ["FileLock", "NoLocksError", "Timeout"]

#: What flock answers on a file system that has no locks: NFS without its lock service, some of FUSE.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)


class NoLocksError(OSError):
    """The file system gives no locks; the message names the file and what to do."""


class FileLock(filelock.FileLock):
    """A lock on a file, for one process at a time. Acquiring it raises `NoLocksError` where none are had."""

    def __init__(self, lock_file: str | os.PathLike[str], timeout: float = -1) -> None:
        # It would stand in with marker files, which stay where their process was killed.
        super().__init__(lock_file, timeout, fallback_to_soft=False)

    def acquire(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().acquire(*arguments, **options)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            raise NoLocksError(
                f"the file system gives no locks for {self.lock_file} ({error.strerror}). They keep two "
                "processes off one run or store: on NFS let its lock service run (no option nolock), or "
                "put the outputs on another disk with REID_HOME=… (stores of images: data.store=…)"
            ) from error
