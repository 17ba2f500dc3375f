"""Files of pictures, read without ever waiting for what is no file, and many at once by all cores."""

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from reid.data.crops import PictureError, Progress, silent
from reid.limits import cores

T = TypeVar("T")
R = TypeVar("R")

#: A longer file is not read into memory.
MOST_BYTES = 2**28

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

#: How long a path, and a name in it, may be: Linux's limits, and no other system's are wider.
LONGEST_PATH, LONGEST_NAME = 4095, 255

_64_BITS = 2**64 - 1


class FileState(NamedTuple):
    """What the system says of a file, in 64 bits each; while all four stay, so do its bytes."""

    inode: int
    ctime_ns: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "FileState":
        times = status.st_ctime_ns & _64_BITS, status.st_mtime_ns & _64_BITS  # before 1970 they are negative
        return cls(status.st_ino, times[0], status.st_size, times[1])


def read(path: Path) -> tuple[FileState, bytes]:
    """The bytes of a regular file.  Nothing else is opened: a FIFO would wait, and a device never end.

    Raises:
        PictureError: there is no such file, it may not be read, or it is none.
        OSError: the disk or the server failed for the moment.
    """
    try:
        refuse_irregular(os.stat(path))
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with open(path, "rb", buffering=0, opener=lambda name, _: os.open(name, flags)) as handle:
            status = os.fstat(handle.fileno())
            refuse_irregular(status)  # what lies there now, should it have been swapped
            if status.st_size > MOST_BYTES:
                raise PictureError(
                    f"a file of {status.st_size / 2**20:,.0f} MiB: a picture may have {MOST_BYTES // 2**20}"
                )
            return FileState.of(status), handle.readall()
    except OSError as error:
        if not is_about_the_path(error):
            raise
        raise PictureError(error.strerror or type(error).__name__) from error
    except ValueError as error:
        if isinstance(error, PictureError):
            raise
        raise PictureError(f"no name of a file ({error})") from error  # it holds a NUL


def is_about_the_path(error: OSError) -> bool:
    """Whether an error says something of this path, and not of a disk or a server that fails for a moment."""
    kinds = FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError
    return isinstance(error, kinds) or error.errno in (errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO)


def refuse_irregular(status: os.stat_result) -> None:
    """Raise PictureError for what is no regular file."""
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for test, name in KINDS if test(status.st_mode)), "no regular file")
        raise PictureError(f"{kind}, where a picture's file was expected")


def path_problem(path: str) -> str | None:
    """Why no file can have this path, in words; None if one may."""
    if "\0" in path:
        return "a path with a NUL in it, which no file has"
    parts = os.fsencode(path).split(b"/")
    if sum(map(len, parts)) + len(parts) > LONGEST_PATH or max(map(len, parts)) > LONGEST_NAME:
        return f"a path of {len(path):,} characters, longer than any file's: {shortened(path)}"
    return None


def shortened(path: str) -> str:
    """A path for a message, cut where it is endless."""
    return path if len(path) <= LONGEST_NAME else f"{path[:60]}…{path[-20:]}"


@contextmanager
def in_threads(
    work: Callable[[T], R], items: Sequence[T], progress: Progress = silent, what: str = ""
) -> Iterator[Iterable[R]]:
    """What `work` gives for each item, in their order, by all the cores that this process may use.

    Threads: PIL lets go of the interpreter lock while it decodes and resizes, which is all the work.
    """
    with ThreadPoolExecutor(cores()) as pool:
        try:
            yield progress(pool.map(work, items), len(items), what)
        except BaseException:  # Ctrl-C too: do not make it wait for all images still to come
            pool.shutdown(cancel_futures=True)
            raise
