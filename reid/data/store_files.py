"""The files in a folder of image stores: what they are called and hold, and who is using them.

A store is `<key>.npy` and `<key>.json`.  Beside them lie, as `<name>.files.npz`, the hashes of files by their
paths, one for each list of paths, so that a file is hashed again only when it may have changed.  Losing one
costs a reading of the files, no more.
"""

import hashlib
import json
import math
import os
import time
import tokenize
import uuid
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from reid.data.crops import PictureError, Progress, silent
from reid.data.files import FileState, in_threads, read
from reid.regular import open_regular, read_regular

try:
    import fcntl
except ImportError:  # Windows, where a file that is mapped cannot be deleted anyway
    fcntl = None  # type: ignore[assignment]

#: Raised when the pixels that a store holds change for the same file and size.
FORMAT = 3

#: The key of the CRC-32 of each image's pixels.
CHECKSUMS = "crc32"

#: Stands for the hash of a file that cannot be opened.
UNREADABLE = b"unreadable"

HASHES_SUFFIX = ".files.npz"

#: A file that changed this shortly before it was read may change again under the same time, where a file
#: system counts in seconds: its hash is not saved.
SETTLED_NS = 2_000_000_000

_UNKNOWN = FileState(0, 0, 0, 0)
_NO_DIGEST = bytes(32)


def store_key(digests: Iterable[bytes | None], height: int, width: int) -> str:
    """The name of the store of files with these hashes, in this order."""
    content = b"".join(digest or UNREADABLE for digest in digests)
    return hashlib.sha256(f"{FORMAT} {height}x{width} ".encode() + content).hexdigest()[:24]


def read_facts(file: Path) -> dict[str, Any] | None:
    """What `<key>.json` says of its store; None where the store is not whole, or of another format."""
    try:
        facts: dict[str, Any] = json.loads(read_regular(file))
        whole = facts["format"] == FORMAT and _well_formed(facts)
        whole = whole and file.with_suffix(".npy").stat().st_size > math.prod(facts["shape"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return facts if whole else None


def _well_formed(facts: dict[str, Any]) -> bool:
    """Whether what a store says of itself is what its readers take it for; KeyError where something lacks."""
    shape, bad, treatments, checksums = (
        facts["shape"],
        facts["bad"],
        facts["treatments"],
        facts.get(CHECKSUMS),
    )
    return (
        all(isinstance(facts[key], str) for key in ("content", "what", "data"))
        and isinstance(shape, list)
        and len(shape) == 4
        and all(isinstance(side, int) and side >= 0 for side in shape)
        and isinstance(bad, dict)
        and all(row.isdecimal() and int(row) < shape[0] for row in bad)
        and all(isinstance(reason, str) for reason in bad.values())
        and isinstance(treatments, dict)
        and all(isinstance(count, int) for count in treatments.values())
        # Stores of older versions have none.
        and (
            checksums is None
            or (
                (isinstance(checksums, list) and len(checksums) == shape[0])
                and all(isinstance(one, int) for one in checksums)
            )
        )
    )


def holds_array(file: Path, shape: list[int]) -> bool:
    """Whether a `.npy` file holds an array of bytes of that shape, by its header and its size.

    It is read for that, which the time of its last use shows.
    """
    try:
        with open_regular(file) as handle:
            version = np.lib.format.read_magic(handle)
            found, by_columns, kind = np.lib.format.read_array_header_1_0(handle)
            size = handle.tell() + math.prod(shape)
            plain = version == (1, 0) and not by_columns and kind == np.uint8
            return plain and list(found) == shape and file.stat().st_size == size
    except (OSError, ValueError, SyntaxError, tokenize.TokenError):  # numpy reads a header as Python does
        return False


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
def unused(array: Path) -> Iterator[bool]:
    """Whether no process maps the file; none can begin to before the block ends."""
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


class FileHashes:
    """The sha256 of each of `paths`, None where a file could not be read or was not looked at yet.

    `reasons` says by row why a file could not be read.
    """

    def __init__(self, paths: Sequence[Path], folder: Path) -> None:
        self.paths = paths
        cwd = os.getcwd()
        self._names = [os.path.join(cwd, path) for path in paths]
        self.name = hashlib.sha256(os.fsencode("\0".join(self._names))).hexdigest()[:24]
        self.file = folder / f"{self.name}{HASHES_SUFFIX}"
        self.digests: list[bytes | None] = [None] * len(paths)
        self.reasons: dict[int, str] = {}
        self._states = [_UNKNOWN] * len(paths)

    def folder(self) -> str:
        """The deepest folder that all of the paths lie in."""
        ends = min(self._names, default=""), max(self._names, default="")  # what these share, all share
        return os.path.commonpath([os.path.dirname(name) for name in ends])

    def load(self) -> bool:
        """Take what was saved of these paths; False where nothing was."""
        saved = _saved(self.file)
        if saved is None or len(saved[1]) != len(self.paths):
            return False
        states, self.digests = saved
        self._states = [FileState(*row) for row in states.tolist()]
        return True

    def update(self, progress: Progress) -> None:
        """Read and hash what is not known yet or may have changed, and save it.

        Raises:
            OSError: the disk or the server failed.
        """
        changed = [
            row
            for row, (path, state) in enumerate(zip(self.paths, self._states, strict=True))
            if state == _UNKNOWN or state != _state(path)
        ]
        if not changed:
            return
        before = [(self._states[row], self.digests[row]) for row in changed]
        unsettled = all(state == _UNKNOWN and digest is not None for state, digest in before)
        shown = silent if unsettled else progress
        with in_threads(self._hash, changed, shown, "reading changed files") as found:
            for row, (state, digest, reason) in zip(changed, found, strict=True):
                self.note(row, state, digest, reason)
        if before != [(self._states[row], self.digests[row]) for row in changed]:
            self.save()

    def note(self, row: int, state: FileState | None, digest: bytes | None, reason: str | None) -> None:
        """Note what a file was found to hold; `state` was taken before it was read."""
        settled = state is not None and state.ctime_ns < time.time_ns() - SETTLED_NS
        self._states[row] = state if state is not None and settled else _UNKNOWN
        self.digests[row] = digest
        self.reasons.pop(row, None)
        if digest is None:
            self.reasons[row] = reason or "unreadable"

    def save(self) -> None:
        """Save the hashes.  Where nothing can be written, the next process reads the files again."""
        states = np.array(self._states, np.uint64).reshape(-1, len(_UNKNOWN))
        digests = np.frombuffer(b"".join(digest or _NO_DIGEST for digest in self.digests), np.uint8)
        partial = self.file.with_name(f"{self.file.name}.{uuid.uuid4().hex}.partial")
        with suppress(OSError):
            try:
                with partial.open("wb") as handle:
                    np.savez(handle, states=states, digests=digests.reshape(-1, len(_NO_DIGEST)))
                partial.replace(self.file)
            finally:
                partial.unlink(missing_ok=True)

    def _hash(self, row: int) -> tuple[FileState | None, bytes | None, str | None]:
        try:
            state, data = read(self.paths[row])
        except PictureError as error:
            return None, None, str(error)
        return state, hashlib.sha256(data).digest(), None


def saved_digests(file: Path) -> list[bytes | None]:
    """The hashes that a `.files.npz` holds, in the order of its paths; none where it cannot be read."""
    saved = _saved(file)
    return saved[1] if saved is not None else []


def _saved(file: Path) -> tuple[np.ndarray, list[bytes | None]] | None:
    try:
        with open_regular(file) as handle, np.load(handle) as saved:
            if any(part.file_size > part.compress_size for part in saved.zip.infolist()):
                return None  # never packed by us, and it may unpack to any size
            states, digests = saved["states"], saved["digests"]
        kinds, shapes = (states.dtype, digests.dtype), (states.shape[1:], digests.shape[1:])
    except Exception:  # absent, cut off or something else: as good as absent
        return None
    if kinds != (np.uint64, np.uint8) or shapes != ((len(_UNKNOWN),), (len(_NO_DIGEST),)):
        return None
    if len(states) != len(digests):
        return None
    return states, [None if row == _NO_DIGEST else row for row in map(bytes, digests)]


def _state(path: Path) -> FileState | None:
    try:
        return FileState.of(os.stat(path))
    except (OSError, ValueError):  # reading it will show what is wrong
        return None
