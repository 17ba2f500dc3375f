"""Which stores are mapped by a process: each holds a shared lock on its array, which prune looks for."""

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

try:
    import fcntl
except ImportError:  # Windows, where a file that is mapped cannot be deleted anyway
    fcntl = None  # type: ignore[assignment]


def map_and_hold(array: Path) -> np.ndarray:
    """The array of a `.npy` file, mapped read-only; the file counts as in use until the array is gone."""
    handle = os.open(array, os.O_RDONLY)
    try:
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks; or it is pruned at this moment
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        pixels: np.ndarray = np.load(array, mmap_mode="r")
    except BaseException:
        os.close(handle)
        raise
    weakref.finalize(pixels, os.close, handle)
    return pixels


@contextmanager
def free(array: Path) -> Iterator[bool]:
    """Whether nobody maps the file; nobody can begin to before the block ends."""
    # NFS gives an exclusive lock to who may write alone.
    handle = os.open(array, os.O_RDWR if os.access(array, os.W_OK) else os.O_RDONLY)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            except OSError:  # a file system without locks: whoever maps it keeps what he maps
                pass
        yield True
    finally:
        os.close(handle)
