from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from reid import sync
from reid.tracking import Store, Tracker, default_store, list_runs

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("store")
    return default_store(folder, f"sqlite:///{folder / 'mlflow.db'}")


def unsent_run(folder: Path, experiment: str) -> None:
    """A run whose store was a full disk."""
    full = Store("sqlite:////dev/full", folder / "mlartifacts")
    with Tracker.start(full, experiment, folder, folder.name, params={"a": 1}) as run:
        run.metrics({"loss": 1.0}, step=1)


@pytest.mark.slow
def test_unsent_runs_are_listed_then_sent_to_another_store(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unsent_run(tmp_path / "outputs" / "one", "cli")
    unsent_run(tmp_path / "outputs" / "deep" / "two", "cli")
    assert sync.main([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "outputs/one: 0 operations sent to sqlite:////dev/full; 5 left:" in out
    assert "disk is full" in out
    assert out.endswith("2 runs, 2 of them not wholly sent\n")

    assert sync.main([str(tmp_path), "--uri", store.uri]) == 0
    assert f"deep/two: 5 operations sent to {store.uri}\n" in capsys.readouterr().out
    runs = list_runs(store, "cli")
    assert {(run.name, run.status, run.params["a"], run.metrics["loss"]) for run in runs} == {
        ("one", "FINISHED", "1", 1.0),
        ("two", "FINISHED", "1", 1.0),
    }

    # From now on that store is theirs, and a repetition has nothing to do.
    assert sync.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == "2 runs, all sent\n"
    assert sync.main([str(tmp_path), "--again"]) == 0
    assert len(list_runs(store, "cli")) == 2


def test_default_folders_are_those_of_the_home(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REID_HOME", str(tmp_path))
    assert sync.main([]) == 0
    assert capsys.readouterr().out.startswith(f"no runs under {tmp_path}/outputs")
    unsent_run(tmp_path / "multirun" / "sweep" / "0", "home")
    assert sync.main(["--uri", store.uri]) == 0
    assert len(list_runs(store, "home")) == 1


def test_run_under_way_is_left_alone(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Tracker.start(store, "busy", tmp_path / "run", "n"):
        assert sync.main([str(tmp_path)]) == 1
    assert "in use by another process" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["/no/such/folder"], ["--uri", "file:./mlruns"]])
def test_wrong_question_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert sync.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("reid.sync: ")


def test_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "reid.sync"]
    unknown = subprocess.run([*command, "--wrong"], cwd=ROOT, capture_output=True, text=True)
    assert unknown.returncode == 2
    nothing = subprocess.run([*command, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert (nothing.returncode, nothing.stdout) == (0, f"no runs under {tmp_path}\n")
