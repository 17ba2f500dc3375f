from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reid.tracking import Store, TrackingError, default_store, list_runs, ui_command

ROOT = Path(__file__).parents[2]

# Forked with mlflow imported but no store touched yet, so that all six reach the fresh file together.
RACE = """
import multiprocessing, sys
from pathlib import Path
import mlflow
from reid.tracking import Tracker, default_store

def work(home, name, barrier):
    barrier.wait()
    with Tracker.start(default_store(home), "race", home / name, name) as tracker:
        tracker.metrics({"loss": 1.0}, step=1)
    sys.exit(tracker.run_id is None)

context = multiprocessing.get_context("fork")
barrier = context.Barrier(6)
workers = [context.Process(target=work, args=(Path(sys.argv[1]), f"run{i}", barrier)) for i in range(6)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
print([worker.exitcode for worker in workers])
"""


@pytest.mark.slow
def test_six_processes_started_together_share_a_fresh_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    command = [sys.executable, "-c", RACE, str(tmp_path)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert (answer.stdout, answer.stderr) == ("[0, 0, 0, 0, 0, 0]\n", "")
    runs = list_runs(default_store(tmp_path), "race")
    assert {(run.name, run.status, run.metrics["loss"]) for run in runs} == {
        (f"run{index}", "FINISHED", 1.0) for index in range(6)
    }


@pytest.mark.slow
def test_database_whose_making_was_killed_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    program = (
        "import sys, pathlib, reid.tracking as t; t.default_store(pathlib.Path(sys.argv[1])).prepare('e')"
    )
    making = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT)
    partial, whole = tmp_path / "mlflow.db.partial", tmp_path / "mlflow.db"
    while not (partial.exists() and partial.stat().st_size):
        assert making.poll() is None
        time.sleep(0.01)
    making.kill()
    making.wait()
    assert not whole.exists()
    store = default_store(tmp_path)
    store.prepare("e")
    assert list_runs(store, "e") == []
    assert whole.exists()
    assert not partial.exists()


def test_default_store_is_under_home_and_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert default_store(Path()) == Store(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "mlartifacts")


def test_what_is_typed_beats_the_environment_which_beats_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000/")
    assert default_store(tmp_path) == Store("http://tracker:5000")
    assert default_store(tmp_path, "http://other:1") == Store("http://other:1")


def test_relative_sqlite_uri_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_store(tmp_path, "sqlite:///x/runs.db").uri == f"sqlite:///{tmp_path}/x/runs.db"


@pytest.mark.parametrize("uri", ["file:./mlruns", "mlruns", "sqlite://", "ftp://host"])
def test_uri_that_mlflow_cannot_serve_is_named(tmp_path: Path, uri: str) -> None:
    with pytest.raises(TrackingError, match=r"not supported. Expected http://host:port"):
        default_store(tmp_path, uri)


def test_password_never_shows() -> None:
    assert Store("postgresql://me:secret@host/db").public_uri == "postgresql://me:***@host/db"
    assert Store("http://host:5000").public_uri == "http://host:5000"


@pytest.mark.slow
def test_artifacts_lie_beside_the_database(store: Store) -> None:
    assert store.artifact_root is not None
    experiment = store.client.get_experiment(store.prepare("second"))
    assert experiment.artifact_location == store.artifact_root.as_uri()
    assert store.prepare("second") == experiment.experiment_id


def test_left_over_run_id_of_another_tool_is_dropped(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    store.prepare("third")
    assert "MLFLOW_RUN_ID" not in os.environ


def test_ui_command_binds_to_this_machine(store: Store) -> None:
    command = ui_command(store)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--backend-store-uri") + 1] == store.uri
    with pytest.raises(TrackingError, match="open that address"):
        ui_command(Store("http://host:5000"))


def test_importing_the_package_does_not_import_mlflow() -> None:
    code = "import sys, reid.tracking, reid.sync; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
