"""A file system without locks is named, with its path, wherever a lock is taken."""

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from reid import sync
from reid.data.crops import Crop
from reid.data.image_store import open_store
from reid.data.pedestrians.drawing import ensure_drawn
from reid.jobs import data_commands
from reid.locks import FileLock, NoLocksError, Timeout
from reid.runs import __main__ as runs
from reid.sweeps.job_lock import LOCK, alone, occupied
from reid.sweeps.slots import slot
from reid.tracking import Store, Tracker, default_store, send_late, under_way
from reid.tracking.journal import JOURNAL, Journal


def hold(folder: Path) -> None:
    with alone(folder):
        pass


def is_held(folder: Path) -> None:
    (folder / LOCK).touch()
    occupied(folder)


def is_written(folder: Path) -> None:
    (folder / JOURNAL).touch()
    under_way(folder)


def take_a_place(folder: Path) -> None:
    with slot(["gpu-0"], folder):
        pass


def make_a_store(folder: Path) -> None:
    image = folder / "0001_c1.png"
    Image.new("RGB", (8, 8)).save(image)
    open_store([Crop(image, 1, 0)], 8, 8, folder)


#: Everything that takes a lock, by the name of its file.
TAKES: dict[str, Callable[[Path], object]] = {
    "journal.lock": lambda folder: Journal(folder).acquire(),
    "journal.lock, looked at": is_written,
    "mlflow.db.lock": lambda folder: default_store(folder, f"sqlite:///{folder}/mlflow.db").prepare("study"),
    LOCK: hold,
    f"{LOCK}, looked at": is_held,
    "gpu-0.lock": take_a_place,
    ".day.lock": lambda folder: ensure_drawn(folder / "day", "tiny", "day", 0),
    ".lock": make_a_store,
}


def without_locks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP], ids=errno.errorcode.get)
@pytest.mark.parametrize("file", TAKES)
def test_whoever_takes_a_lock_says_that_there_are_none(
    file: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_locks(monkeypatch, number)
    with pytest.raises(NoLocksError) as refused:
        TAKES[file](tmp_path)
    message = str(refused.value)
    assert f"the file system gives no locks for {tmp_path}/" in message
    assert f"{file.partition(',')[0]} (" in message
    assert "REID_HOME=" in message
    assert "\n" not in message


def test_a_store_without_locks_keeps_the_run_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The journal lies on a disk with locks, the store on one without."""
    run, place = tmp_path / "run", tmp_path / "nfs"
    store = Store(f"sqlite:///{place}/mlflow.db", place / "mlartifacts")
    Tracker.start(Store("sqlite:////dev/full", tmp_path), "study", run, "one").finish()
    caplog.clear()
    journal = Journal(run)
    journal.acquire()
    journal.release()
    real = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        if Path(os.readlink(f"/proc/self/fd/{descriptor}")).is_relative_to(place):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    delivery = send_late(run, store).delivery
    assert isinstance(delivery.error, NoLocksError)
    assert delivery.left > 0
    assert str(place / "mlflow.db.lock") in str(delivery.error)


@pytest.mark.parametrize(
    ("main", "words", "code"),
    [
        (sync.main, [], 1),
        (data_commands.check, ["synthetic", "--option", "preset=tiny"], 2),
        (data_commands.split, ["synthetic", "--option", "preset=tiny", "-o", "split.csv"], 2),
        (runs.main, ["list"], 1),
    ],
    ids=["sync", "check", "split", "runs"],
)
def test_a_command_says_so_and_ends(
    main: Callable[..., int],
    words: list[str],
    code: int,
    tmp_path: Path,
    own_home: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    Tracker.start(Store("sqlite:////dev/full", tmp_path), "study", tmp_path / "outputs" / "a", "one").finish()
    (tmp_path / "mlflow.db").touch()
    without_locks(monkeypatch, errno.ENOLCK)
    assert main(words) == code
    printed = capsys.readouterr()
    assert f"the file system gives no locks for {tmp_path}/" in printed.out + printed.err


def test_a_lock_that_is_held_is_no_missing_lock(tmp_path: Path) -> None:
    with FileLock(tmp_path / "a.lock"), pytest.raises(Timeout):
        FileLock(tmp_path / "a.lock", timeout=0).acquire()
