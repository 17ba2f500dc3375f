"""The hashes of files by their paths, kept so that a file is hashed again only when it may have changed.

They lie beside the stores as `<name>.files.npz`, one for each list of paths.  Losing one costs a reading of
the files, no more.
"""

import hashlib
import os
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from reid.data.crops import PictureError, Progress, silent
from reid.data.files import FileState, read
from reid.data.threads import in_threads

SUFFIX = ".files.npz"

#: A file that changed this shortly before it was read may change again under the same time, where a file
#: system counts in seconds: its hash is not kept.
SETTLED_NS = 2_000_000_000

_UNKNOWN = FileState(0, 0, 0, 0)
_NO_DIGEST = bytes(32)


class FileHashes:
    """The sha256 of each of `paths`, None where a file could not be read or was not looked at yet.

    `reasons` says by row why a file could not be read.
    """

    def __init__(self, paths: Sequence[Path], folder: Path) -> None:
        self.paths = paths
        cwd = os.getcwd()
        self._names = [os.path.join(cwd, path) for path in paths]
        self.name = hashlib.sha256(os.fsencode("\0".join(self._names))).hexdigest()[:24]
        self.file = folder / f"{self.name}{SUFFIX}"
        self.digests: list[bytes | None] = [None] * len(paths)
        self.reasons: dict[int, str] = {}
        self._states = [_UNKNOWN] * len(paths)

    def folder(self) -> str:
        """The deepest folder that all of the paths lie in."""
        ends = min(self._names, default=""), max(self._names, default="")  # what these share, all share
        return os.path.commonpath([os.path.dirname(name) for name in ends])

    def load(self) -> bool:
        """Take what was kept of these paths; False where nothing was."""
        kept = _kept(self.file)
        if kept is None:
            return False
        states, self.digests = kept
        self._states = [FileState(*row) for row in states.tolist()]
        return True

    def update(self, progress: Progress) -> None:
        """Read and hash what is not known yet or may have changed, and keep it.

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
                self.put(row, state, digest, reason)
        if before != [(self._states[row], self.digests[row]) for row in changed]:
            self.save()

    def put(self, row: int, state: FileState | None, digest: bytes | None, reason: str | None) -> None:
        """Note what a file was found to hold; `state` was taken before it was read."""
        settled = state is not None and state.ctime_ns < time.time_ns() - SETTLED_NS
        self._states[row] = state if state is not None and settled else _UNKNOWN
        self.digests[row] = digest
        self.reasons.pop(row, None)
        if digest is None:
            self.reasons[row] = reason or "unreadable"

    def save(self) -> None:
        """Keep it.  Where nothing can be written, the next process reads the files again."""
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


def kept_digests(file: Path) -> list[bytes | None]:
    """The hashes that such a file keeps, in the order of its paths; none where it cannot be read."""
    kept = _kept(file)
    return kept[1] if kept is not None else []


def _kept(file: Path) -> tuple[np.ndarray, list[bytes | None]] | None:
    try:
        with np.load(file) as kept:
            states, digests = kept["states"], kept["digests"]
    except Exception:  # absent, cut off or something else: as good as absent
        return None
    return states, [None if row == _NO_DIGEST else row for row in map(bytes, digests)]


def _state(path: Path) -> FileState | None:
    try:
        return FileState.of(os.stat(path))
    except (OSError, ValueError):  # its reading will tell what is wrong
        return None
