"""The journal of one run: every tracked operation, on disk before it is sent.

`journal.jsonl` holds one JSON operation a line and only ever grows; `journal.sent` says which store has it up
to which byte. Losing `journal.sent` costs nothing but time: the store recognises what it already has.
"""

from __future__ import annotations

import errno
import json
import math
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reid.formats import format_problem
from reid.locks import FileLock, Timeout
from reid.regular import open_regular, read_regular
from reid.tracking.errors import NewerJournalError, TrackingError

JOURNAL = "journal.jsonl"
#: Of journals, as `reid.formats` has it; the first operation carries it. A new kind of operation raises it.
FORMAT = 1
#: The tags by which the cells of a sweep differ: the hash of a config does not hold where its data lie.
CELL = ("reid.config_hash", "reid.data.fingerprint")
Operation = dict[str, Any]


@dataclass(frozen=True)
class Sent:
    """How far a store has the journal: the run there, and the byte up to which its operations are sent."""

    uri: str
    run_id: str
    offset: int = 0


class Journal:
    """The journal in `folder`, read by anyone.

    Only the holder of its lock (`acquire`, `release`) appends or sends.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.path = self.folder / JOURNAL
        self._sent_path = self.folder / "journal.sent"
        self._lock = FileLock(self.folder / "journal.lock", timeout=0)
        # A lock apart: a child that needs its parent's run creates it while the parent's process holds the
        # writer's lock.
        self.create_lock = FileLock(self.folder / "journal.create.lock", timeout=60)

    def acquire(self) -> None:
        """Become the only writer.

        Raises TrackingError when another process (or tracker) is, or a newer version wrote the journal.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            raise TrackingError(
                f"{self.folder} is in use by another process that tracks this run. Wait until it ends, or "
                "choose another output folder"
            ) from None
        try:
            self._check_format()
            self._drop_torn_line()
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        self._lock.release()

    def in_use(self) -> bool:
        """Whether a process writes this journal right now."""
        try:
            with FileLock(self._lock.lock_file, timeout=0):
                return False
        except Timeout:
            return True

    def append(self, operation: Operation, durable: bool = False) -> None:
        """Add one operation; `durable` also waits until the disk has it (fsync).

        Raises OSError (a full disk) and then leaves the journal as it was.
        """
        line = (json.dumps(operation, allow_nan=False) + "\n").encode()
        with self.path.open("ab", buffering=0) as file:
            start = file.tell()
            try:
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, "only a part of the line was written", str(self.path))
                if durable:
                    os.fsync(file.fileno())
            except OSError:
                file.truncate(start)
                raise

    def begin_again(self, creation: Operation) -> None:
        """Where the folder was removed in mid-run, make it anew, so that the run goes on as the one it is.

        Raises OSError as `append` does.
        """
        if not self.path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            self.append(creation, durable=True)

    def read(self, offset: int = 0) -> Iterator[tuple[Operation, int]]:
        """Operations from byte `offset` on, each with the byte after it. Leaves out a line cut by a kill.

        Raises TrackingError at a line that no writer of journals can have left: a disk, or somebody, has
        changed it.
        """
        if not self.path.exists():
            return
        if not self.path.is_file():
            raise TrackingError(f"{self.path} is no regular file, as a journal is: remove what lies there")
        with open_regular(self.path) as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                try:
                    operation = _checked(json.loads(line))
                except (ValueError, RecursionError) as error:
                    raise TrackingError(
                        f"{self.path} is damaged: the line at byte {offset:,} is no operation of a run "
                        f"({error}). Take a copy of the file; or delete that line, and the store lacks what "
                        "it says"
                    ) from error
                offset += len(line)
                yield operation, offset

    @property
    def creation(self) -> Operation:
        """The first operation, which creates the run.

        Raises TrackingError where there is none, or a newer version wrote it.
        """
        self._check_format()
        for operation, _ in self.read():
            if operation.get("op") == "create":
                return operation
            break
        raise TrackingError(f"{self.path} does not begin with the creation of a run: not a run's journal")

    @property
    def has_beginning(self) -> bool:
        """Whether the first operation creates the run: a folder that was removed in mid-run lost it."""
        first = next((operation for operation, _ in self.read()), None)
        return first is not None and first.get("op") == "create"

    def set_aside(self) -> Sent | None:
        """Rename what is left of a journal without its beginning; returns how far it had been sent."""
        sent = self.sent()
        self.path.replace(self.path.with_name(f"lost.{now_ms()}.{JOURNAL}"))
        self.forget_sent()
        return sent

    def sent(self) -> Sent | None:
        """How far which store has this journal, or None before the first answer of a store."""
        try:
            sent = Sent(**json.loads(read_regular(self._sent_path)))
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        texts = _is_text(sent.uri) and _is_text(sent.run_id)
        return sent if texts and self._begins_at(sent.offset) else None

    def _begins_at(self, offset: int) -> bool:
        """Whether a line of this journal begins at that byte, or will: else it is a place in another file."""
        if offset == 0:
            return True
        if not _is_whole(offset) or not self.path.exists() or not 0 < offset <= self.path.stat().st_size:
            return False
        with open_regular(self.path) as file:
            file.seek(offset - 1)
            return file.read(1) == b"\n"

    def save_sent(self, sent: Sent) -> None:
        replace_text(self._sent_path, json.dumps(asdict(sent)))

    def forget_sent(self) -> None:
        """Have the whole journal sent again (to a store that lost the run)."""
        self._sent_path.unlink(missing_ok=True)

    def _check_format(self) -> None:
        first = next((operation for operation, _ in self.read()), None)
        found = first.get("format") if isinstance(first, dict) else None
        if problem := format_problem(self.path, found, FORMAT):
            raise NewerJournalError(problem)

    def _drop_torn_line(self) -> None:
        if self.path.exists():
            end = max((after for _, after in self.read()), default=0)
            if end != self.path.stat().st_size:
                os.truncate(self.path, end)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _texts(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _numbers(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(one, int | float) and math.isfinite(one) for one in value.values()
    )


def _parent(value: object) -> bool:
    return value is None or (_texts(value) and {"folder", "run_key"} <= value.keys())  # type: ignore[attr-defined]


def _datasets(value: object) -> bool:
    texts, numbers = ("name", "digest", "context"), ("images", "people", "cameras", "height", "width")
    return isinstance(value, list) and all(
        isinstance(one, dict)
        and all(_is_text(one.get(key)) for key in texts)
        and all(_is_whole(one.get(key)) for key in numbers)
        for one in value
    )


#: What each operation has to say.  Others are of a newer version, and are refused when they are sent.
_FIELDS: dict[str, dict[str, Callable[[object], bool]]] = {
    "create": {
        "time": _is_whole, "run_key": _is_text, "experiment": _is_text, "name": _is_text, "tags": _texts,
        "store": _is_text, "parent": _parent, "artifact_root": lambda value: value is None or _is_text(value),
    },
    "status": {"time": _is_whole, "status": _is_text, "host": _is_text},
    "params": {"values": _texts},
    "tags": {"values": _texts},
    "metrics": {"time": _is_whole, "step": _is_whole, "values": _numbers},
    "artifact": {"path": _is_text, "folder": _is_text},
    "model": {"checkpoint": _is_text, "path": _is_text, "folder": _is_text, "step": _is_whole},
    "inputs": {"datasets": _datasets},
    "lost": {"time": _is_whole, "cell": lambda value: isinstance(value, dict)},
}  # fmt: skip


def _checked(operation: object) -> Operation:
    """The same. Raises ValueError where it is no operation, or lacks what such a one has to say."""
    if not isinstance(operation, dict) or not isinstance(operation.get("op"), str):
        raise ValueError("it names no operation")
    for field, test in _FIELDS.get(operation["op"], {}).items():
        if not test(operation.get(field)):
            raise ValueError(f"{field} of {operation['op']} is {str(operation.get(field))[:60]!r}")
    return operation


def under_way(folder: Path) -> bool:
    """Whether a process of this machine writes the run in `folder` right now."""
    journal = Journal(folder)
    return journal.path.exists() and journal.in_use()


def lost_run(journal: Journal, parent: Path | None, creation: Operation, known: bool) -> Operation | None:
    """The operation that closes the run that `creation` takes the place of, its folder having been removed.

    A journal without its beginning shows it, and is set aside. Of the cell of a sweep that goes on there may
    be nothing left at all: then the store is searched. None: no run is lost.
    """
    again = {"op": "lost", "time": now_ms(), "cell": {k: creation["tags"].get(k) for k in CELL}}
    if known:
        if journal.has_beginning:
            return None
        sent = journal.set_aside()
        return {**again, "run_id": sent.run_id if sent else None}
    if parent is None:
        return None
    starts = [op for op, _ in Journal(parent).read() if op["op"] == "status" and op["status"] == "RUNNING"]
    return again if len(starts) > 1 else None


def status_change(status: str) -> Operation:
    """The operation that sets a run's status; the host is that whose lock is looked for."""
    return {"op": "status", "time": now_ms(), "status": status, "host": socket.gethostname()}


def parent_reference(run_dir: Path, parent: Path | None) -> dict[str, str] | None:
    """How the journal of a run names the sweep that it belongs to: by folder and key."""
    if parent is None:
        return None
    folder = os.path.relpath(parent.resolve(), run_dir.resolve())
    return {"folder": Path(folder).as_posix(), "run_key": str(Journal(parent).creation["run_key"])}


def now_ms() -> int:
    """Unix time in milliseconds, MLflow's unit."""
    return time.time_ns() // 1_000_000


def replace_text(path: Path, text: str) -> None:
    """Write a small text file so that a reader, or a kill, meets the old or the new one, never half of it."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
