"""What of the disk's contents can go: each kind of file is found here, with the reason why one stays."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from reid.data import stores as storing
from reid.data.store_files import HASHES_SUFFIX, saved_digests, store_key, unused
from reid.engine.rundir import HALF_WRITTEN_S, LAST, STATUS, RunStatus, read_status
from reid.home import home
from reid.locks import FileLock, Timeout
from reid.sweeps.job_lock import LOCK, occupied
from reid.tracking import JOURNAL, TrackingError, default_store, run_folders, under_way
from reid.tracking.copies import StoredCheckpoint, stored_checkpoints
from reid.tracking.journal import Journal
from reid.tracking.logged_model import CHECKPOINT, FOLDER

#: What writers call a file or a folder that is not whole yet.
_HALF = re.compile(r"\..+\.partial|.+\.\d+\.tmp|\..+\.[0-9a-f]{32}\.tmp")
#: Of a database that is being made.
_DATABASE = ("mlflow.db.partial", "mlflow.db.partial-journal")
_JOURNAL_LOCK = "journal.lock"
#: How deep below the home an index is looked for.
_DEEP = 3
IN_USE = "a process uses it"
#: What is lost with each kind.
LOST = {
    "stores": "time: the next run decodes its images again",
    "last": "the run cannot be trained longer (resume=outputs/<run> epochs=…)",
    "cells": "nothing that a finished run of the same config does not have",
    "copies": "MLflow can no longer load or serve it; checkpoint=<run id> takes the file in the run's folder",
    "logged_model": "python -m reid.sync --again cannot give the model to another store",
    "partial": "nothing",
    "index": "nothing",
}


class ItStays(Exception):
    """What could go when it was listed is in use now, or is the only copy now."""


@dataclass(frozen=True)
class Item:
    """Files that go together, or stay.

    Attributes:
        stays: why they stay, "" where they can go.
        remove: removes them, whole; raises ItStays, OSError.
    """

    kind: str
    paths: tuple[Path, ...]
    bytes: int
    stays: str = ""
    remove: Callable[[], None] | None = None


@dataclass(frozen=True)
class Run:
    """The folder of a run with what it says of itself."""

    folder: Path
    status: RunStatus | None

    @property
    def finished(self) -> bool:
        """Whether the run of this very folder is at its end."""
        return self.status is not None and self.status.status == "FINISHED" and self._is_own(self.status)

    @property
    def in_use(self) -> bool:
        # The lock's file would be made by looking for it.
        tracked = (self.folder / _JOURNAL_LOCK).exists() and under_way(self.folder)
        return tracked or occupied(self.folder)

    def _is_own(self, status: RunStatus) -> bool:
        return not status.taken_from and Path(status.run_dir) == self.folder


def behind_a_link(folder: Path) -> bool:
    """Whether a place of the home leads out of it."""
    return folder.absolute().is_relative_to(home()) and not folder.resolve().is_relative_to(home().resolve())


def roots() -> list[Path]:
    """The folders of runs that lie in the home."""
    return [place for place in (home() / "outputs", home() / "multirun") if not behind_a_link(place)]


def find_runs(places: Iterable[Path]) -> list[Run]:
    """Every run at or below these folders; links are not followed."""
    found = []
    for root in places:
        for place, _, files in os.walk(root):
            if {JOURNAL, STATUS, LAST} & {*files}:
                found.append(Run(Path(place), read_status(Path(place))))
    return found


def find(kinds: Sequence[str], store: Path, uri: str | None) -> tuple[list[Item], list[str]]:
    """All items of these kinds, and notices of what was not looked at."""
    notices = [
        f"{place.relative_to(home())} is a link out of the project and was not looked at"
        for place in (home() / "outputs", home() / "multirun", store)
        if behind_a_link(place)
    ]
    runs = find_runs(roots())
    items: list[Item] = []
    if "stores" in kinds and not behind_a_link(store):
        items += _stores(store)
    if {"last", "cells"} & {*kinds}:
        items += [item for item in _training_states(runs) if item.kind in kinds]
    if "copies" in kinds:
        try:
            items += _copies(stored_checkpoints(default_store(home(), uri)))
        except TrackingError as error:
            notices.append(f"copies in MLflow were not looked at: {error}")
    if "logged_model" in kinds:
        items += _model_folders(runs)
    if "partial" in kinds:
        items += _half_written()
    if "index" in kinds:
        items += _indexes()
    return items, notices


# ---- decoded images


def _stores(folder: Path) -> Iterator[Item]:
    if not folder.is_dir():
        return
    found = storing.list_stores(folder)
    going = set()
    for store in found:
        files = (folder / f"{store.name}.json", folder / f"{store.name}.npy")
        with unused(files[1]) as free:
            pass
        if free:
            going.add(store.name)
            yield Item("stores", files, store.bytes, "", partial(_remove_store, files))
        else:
            yield Item("stores", files, store.bytes, IN_USE)
    found_left = storing.list_leftovers(folder)
    leftovers = {file for left in found_left for file in left.files}
    for left in found_left:
        yield Item("stores", left.files, _size(left.files), "", partial(_remove_store, left.files, left.lock))
    sizes = {(store.height, store.width) for store in found}
    for file in sorted(folder.glob(f"*{HASHES_SUFFIX}")):
        digests = saved_digests(file)
        of = {store_key(digests, *one) for one in sizes} & {store.name for store in found}
        # The hashes of the files of a store go with it.
        if file not in leftovers and of <= going and storing.OURS.fullmatch(file.name):
            yield Item("stores", (file,), _size([file]), "", partial(_remove_store, (file,)))


def _remove_store(files: Sequence[Path], lock: Path | None = None) -> None:
    if storing.remove([file for file in files if file.exists()], lock) is None:
        raise ItStays(IN_USE)


# ---- what a training leaves


def _training_states(runs: Sequence[Run]) -> Iterator[Item]:
    """`last.pt` of every run, as `last` or as `cells`."""
    done = [run for run in runs if run.finished and _looks_whole(run.folder / CHECKPOINT)]
    for run in runs:
        state = run.folder / LAST
        if not _is_own_file(state):
            continue
        size = _size([state])
        if run.in_use:
            yield Item("last", (state,), size, "its run is under way")
        elif run.finished:
            if _looks_whole(run.folder / CHECKPOINT):
                yield Item("last", (state,), size, "", partial(_remove_state, run))
            else:
                yield Item("last", (state,), size, "the only copy of its model: there is no model.pt")
        elif (other := _finished_elsewhere(run, done)) is not None:
            yield Item("cells", (state,), size, "", partial(_remove_state, run, other))
        else:
            yield Item("last", (state,), size, "the run is not finished, and a resume needs it")


def _finished_elsewhere(run: Run, done: Sequence[Run]) -> Run | None:
    """The finished run of the same config, data and code, as a sweep takes it for this one."""
    mine = run.status
    if mine is None or not mine.config_hash:
        return None
    for other in done:
        theirs = other.status
        if theirs is None or (theirs.config_hash, theirs.code) != (mine.config_hash, mine.code):
            continue
        same_data = mine.data_fingerprint == theirs.data_fingerprint and (
            bool(mine.data_fingerprint) or mine.data_root == theirs.data_root
        )
        if same_data and other.folder != run.folder:
            return other
    return None


def _remove_state(run: Run, finished: Run | None = None) -> None:
    """Remove the training state of a run; `finished`: the other run that has what it was for."""
    with _alone(run.folder):
        other = finished or run
        now = Run(other.folder, read_status(other.folder))
        if not now.finished or not _is_whole(other.folder / CHECKPOINT):
            raise ItStays("its run has no model.pt that is whole")
        (run.folder / LAST).unlink()


def _model_folders(runs: Iterable[Run]) -> Iterator[Item]:
    for run in runs:
        folder = run.folder / FOLDER
        if folder.is_symlink() or not folder.is_dir():
            continue
        size = _size(_files(folder))
        if run.in_use:
            yield Item("logged_model", (folder,), size, "its run is under way")
        elif not run.finished or not _is_sent(run.folder):
            yield Item("logged_model", (folder,), size, "its run is not wholly sent: python -m reid.sync")
        else:
            yield Item("logged_model", (folder,), size, "", partial(_remove_model_folder, run))


def _remove_model_folder(run: Run) -> None:
    with _alone(run.folder):
        if not _is_sent(run.folder):
            raise ItStays("its run is not wholly sent")
        _remove_folder(run.folder / FOLDER)


def _is_sent(folder: Path) -> bool:
    journal = Journal(folder)
    sent = journal.sent()
    return sent is not None and next(journal.read(sent.offset), None) is None


# ---- copies in MLflow's folder


def _copies(stored: Iterable[StoredCheckpoint]) -> Iterator[Item]:
    folders = run_folders(roots())
    for copy in stored:
        folder = folders.get(copy.run_key)
        size = _size([copy.path])
        if not _is_own_file(copy.path) or behind_a_link(copy.path):
            continue
        if copy.names:
            yield Item("copies", (copy.path,), size, "registered in MLflow: models:/… needs it")
        elif folder is None or not _same(copy.path, folder / CHECKPOINT):
            yield Item("copies", (copy.path,), size, "the only copy: the run's folder has no such file")
        elif Run(folder, None).in_use:
            yield Item("copies", (copy.path,), size, "its run is under way")
        else:
            yield Item("copies", (copy.path,), size, "", partial(_remove_copy, copy.path, folder))


def _remove_copy(path: Path, folder: Path) -> None:
    with _alone(folder):
        if not _same(path, folder / CHECKPOINT) or not _is_whole(folder / CHECKPOINT):
            raise ItStays("the run's folder no longer has the same file")
        path.unlink()


def _same(one: Path, other: Path) -> bool:
    """Whether both are files of their own with the same bytes."""
    if not _is_own_file(one) or not _is_own_file(other) or os.path.samefile(one, other):
        return False
    return one.stat().st_size == other.stat().st_size and _digest(one) == _digest(other)


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


# ---- what killed processes leave


def _half_written() -> Iterator[Item]:
    for root in roots():
        for place, folders, files in os.walk(root):
            halves = [name for name in (*folders, *files) if _HALF.fullmatch(name)]
            folders[:] = [name for name in folders if name not in halves]
            busy = bool(halves) and Run(Path(place), None).in_use
            for name in halves:
                yield _half(Path(place, name), busy)
    lock = home() / "mlflow.db.lock"
    for name in _DATABASE:
        if _is_own_file(home() / name):
            yield _half(home() / name, lock.exists() and not _is_free(lock))


def _half(path: Path, busy: bool) -> Item:
    files = _files(path)
    young = any(time.time() - file.lstat().st_mtime < HALF_WRITTEN_S for file in (path, *files))
    if busy or young:
        return Item("partial", (path,), _size(files), "it may still be written: it is younger than an hour")
    return Item("partial", (path,), _size(files), "", partial(_remove_half, path))


def _remove_half(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        _remove_folder(path)
    else:
        path.unlink()


def _indexes() -> Iterator[Item]:
    folders = list(_folders_with("table.parquet"))
    if not folders:
        return
    from reid.gallery.index import IndexFault, leftovers  # pyarrow takes its time

    for folder in folders:
        try:
            found = leftovers(folder)
        except IndexFault:  # somebody else's table
            continue
        for file in filter(_is_own_file, found):
            size = _size([file])
            if time.time() - file.stat().st_mtime < HALF_WRITTEN_S or not _is_free(folder / ".lock"):
                yield Item("index", (file,), size, "it may still be written: it is younger than an hour")
            else:
                yield Item("index", (file,), size, "", partial(_remove_of_index, folder, file))


def _remove_of_index(folder: Path, file: Path) -> None:
    from reid.gallery.index import leftovers

    with _held(folder / ".lock"):
        if file not in leftovers(folder):
            raise ItStays("its index names it now")
        file.unlink()


def _folders_with(name: str) -> Iterator[Path]:
    """The folders near the top of the home that hold such a file."""
    for place, folders, files in os.walk(home()):
        depth = len(Path(place).relative_to(home()).parts)
        folders[:] = [one for one in folders if depth < _DEEP and not one.startswith(".")]
        if name in files:
            yield Path(place)


# ---- files and locks


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the locks of a run, so that nobody begins to go on with it.

    Raises:
        ItStays: somebody has.
    """
    with ExitStack() as holding:
        for name in (LOCK, _JOURNAL_LOCK):
            if (folder / name).exists():
                holding.enter_context(_held(folder / name))
        yield


@contextmanager
def _held(lock: Path) -> Iterator[None]:
    try:
        with FileLock(lock, timeout=0):
            yield
    except Timeout as error:
        raise ItStays(IN_USE) from error


def _is_free(lock: Path) -> bool:
    if not lock.exists():
        return True
    try:
        with FileLock(lock, timeout=0):
            return True
    except Timeout:
        return False


def _is_own_file(path: Path) -> bool:
    """Whether this is a file, and no link to one."""
    return path.is_file() and not path.is_symlink()


def _looks_whole(path: Path) -> bool:
    """Whether a checkpoint was written to its end, as far as its last bytes say."""
    return _is_own_file(path) and zipfile.is_zipfile(path)


def _is_whole(path: Path) -> bool:
    """The same, with every byte compared with its checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _is_own_file(path) and archive.testzip() is None
    except (OSError, zipfile.BadZipFile, RuntimeError, ValueError, EOFError, NotImplementedError):
        return False


def _files(path: Path) -> list[Path]:
    """A file, or all files below a folder."""
    if path.is_symlink() or not path.is_dir():
        return [path]
    return [Path(place, name) for place, _, files in os.walk(path) for name in files]


def _size(files: Iterable[Path]) -> int:
    return sum(file.lstat().st_size for file in files)


def _remove_folder(folder: Path) -> None:
    """Take its name first: a kill leaves what the next cleaning takes for half-written."""
    doomed = folder.with_name(f".{folder.name.lstrip('.')}.{uuid.uuid4().hex}.partial")
    folder.rename(doomed)
    shutil.rmtree(doomed)
