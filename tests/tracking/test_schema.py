"""Stores of other versions of MLflow: refused in words, and brought up to date only when that is typed.

The two fixtures were written by MLflow 2.22.5 and 3.4.0: three runs, each with a param, a metric and an
artifact.
"""

from __future__ import annotations

import gzip
import hashlib
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from conftest import ROOT, environment

from reid import sync, ui
from reid.runs.__main__ import main as runs
from reid.tracking import Store, Tracker, TrackingError, default_store, list_runs

OLD = ROOT / "tests" / "fixtures" / "stores"
VERSIONS = ("2.22", "3.4")

pytestmark = pytest.mark.slow


@pytest.fixture(params=VERSIONS)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store that an older MLflow has written."""
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(gzip.decompress((OLD / f"mlflow-{request.param}.db.gz").read_bytes()))
    return default_store(folder, f"sqlite:///{folder / 'mlflow.db'}")


def file_of(store: Store) -> Path:
    return Path(store.uri.removeprefix("sqlite:///"))


def content(folder: Path) -> dict[str, str]:
    """Every file of a folder but the empty lock, by the hash of its content."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def open_ui(store: Store, *options: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["reid.ui", "--uri", store.uri, *options])
        with pytest.raises(SystemExit) as end:
            ui.main()
    assert isinstance(end.value.code, int)
    return end.value.code


def test_every_command_refuses_an_old_store_in_words_and_changes_nothing(
    old: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = file_of(old).parent
    before = content(folder)
    with Tracker.start(Store("http://127.0.0.1:9"), "e", tmp_path / "late", "late"):
        pass  # of a server that was away
    capsys.readouterr()
    commands: list[tuple[Callable[[], int], int]] = [
        (lambda: runs(["list", "--uri", old.uri]), 1),
        (lambda: runs(["delete", "--uri", old.uri, "--status", "FINISHED", "--yes"]), 1),
        (lambda: sync.main([str(tmp_path / "late"), "--uri", old.uri]), 1),
        (lambda: open_ui(old), 2),
    ]
    for command, code in commands:
        assert command() == code
        printed = capsys.readouterr()
        said = printed.out + printed.err
        assert "made by an older MLflow" in said
        assert f"python -m reid.ui --upgrade --uri {old.uri}" in said
        assert "Traceback" not in said
    with pytest.raises(TrackingError, match="made by an older MLflow"):
        Tracker.start(old, "e", tmp_path / "run", "n")
    assert not (tmp_path / "run").exists()
    assert content(folder) == before


def test_upgrading_copies_the_file_first_and_keeps_every_run(
    old: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    file = file_of(old)
    with closing(sqlite3.connect(file)) as connection:
        before = list(connection.iterdump())
    (file.parent / "mlflow.db.upgrading").write_text("left by a kill")
    assert open_ui(old, "--upgrade") == 0
    said = capsys.readouterr().out
    (copy,) = file.parent.glob("mlflow.db.before-*")
    assert str(copy) in said
    with closing(sqlite3.connect(copy)) as connection:
        assert list(connection.iterdump()) == before
    found = {
        (run.name, run.params["loss.alpha"]): run.metrics["test/mAP"] for run in list_runs(old, "of old")
    }
    assert found == pytest.approx({("run 0", "1.2"): 0.5, ("run 1", "2.2"): 0.6, ("run 2", "3.2"): 0.7})
    assert open_ui(old, "--upgrade") == 0
    assert "nothing was changed" in capsys.readouterr().out
    assert sorted(path.name for path in file.parent.glob("*.db*")) == [
        "mlflow.db",
        copy.name,
        "mlflow.db.lock",
    ]


def test_an_upgrade_that_is_killed_leaves_the_store_as_it_was(old: Store, tmp_path: Path) -> None:
    file = file_of(old)
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    command = [sys.executable, "-m", "reid.ui", "--upgrade", "--uri", old.uri]
    upgrading = subprocess.Popen(command, env=environment(tmp_path), cwd=tmp_path, stderr=subprocess.DEVNULL)
    while not (file.parent / "mlflow.db.upgrading").exists():
        assert upgrading.poll() is None
        time.sleep(0.002)
    upgrading.send_signal(signal.SIGKILL)
    upgrading.wait()
    assert hashlib.sha256(file.read_bytes()).hexdigest() == before
    assert old.upgrade() is not None
    assert len(list_runs(old, "of old")) == 3


def test_a_file_that_another_process_has_open_is_not_upgraded(old: Store) -> None:
    file = file_of(old)
    program = "import sys; file = open(sys.argv[1]); print('open', flush=True); input()"
    user = subprocess.Popen(
        [sys.executable, "-c", program, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert user.stdout is not None
        user.stdout.readline()
        before = content(file.parent)
        with pytest.raises(TrackingError, match=f"in use by process {user.pid}"):
            old.upgrade()
        assert content(file.parent) == before
    finally:
        user.communicate(b"\n")


def test_a_store_of_a_later_mlflow_is_refused_in_words(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(file_of(store))) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    before = content(file_of(store).parent)
    for options in ([], ["--upgrade"]):
        assert open_ui(store, *options) == 2
        assert "A later MLflow has made them" in capsys.readouterr().err
    with pytest.raises(TrackingError, match="revision ffffffffffff"):
        Tracker.start(store, "e", tmp_path / "run", "n")
    assert content(file_of(store).parent) == before


def test_a_server_is_upgraded_by_its_owner() -> None:
    with pytest.raises(TrackingError, match="who runs it upgrades its database"):
        Store("http://127.0.0.1:9").upgrade()
