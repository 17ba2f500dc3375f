"""Runs whose store went away, or that died: nothing is lost, nothing is there twice."""

from __future__ import annotations

import logging
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from reid.tracking import Store, Tracker, TrackingError, list_runs, read_record, send_late

ROOT = Path(__file__).parents[2]


def history(store: Store, run_id: str | None, name: str) -> list[tuple[int, float]]:
    assert run_id is not None
    points = store.client.get_metric_history(run_id, name)
    return sorted((point.step, point.value) for point in points)


def artifact_text(store: Store, run_id: str | None, path: str) -> str:
    assert run_id is not None
    return Path(store.client.download_artifacts(run_id, path)).read_text()


def test_sending_all_again_changes_nothing(store: Store, tmp_path: Path) -> None:
    with Tracker.start(store, "e", tmp_path / "run", "n", params={"a": 1}) as run:
        run.metrics({"loss": 1.0, "mAP": 0.1}, step=1)
        run.text("x", "x.txt")
    assert run.run_id is not None
    before = store.client.get_run(run.run_id)
    late = send_late(tmp_path / "run", store, again=True)
    assert (late.delivery.sent, late.delivery.error, late.died) == (6, None, False)
    assert len(list_runs(store, "e")) == 1
    assert history(store, run.run_id, "loss") == [(1, 1.0)]
    assert store.client.get_run(run.run_id).to_dictionary() == before.to_dictionary()


def test_store_that_vanishes_does_not_stop_the_run(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert store.artifact_root is not None
    home, away = store.artifact_root.parent, tmp_path / "away"
    with caplog.at_level(logging.WARNING), Tracker.start(store, "e", tmp_path / "run", "n") as run:
        run.metrics({"loss": 1.0}, step=1)
        home.rename(away)
        home.write_text("no folder")
        for epoch in (2, 3):
            run.metrics({"loss": 1.0 / epoch}, step=epoch)
        run.text("x", "x.txt")
    assert len([line for line in caplog.messages if "does not take this run for now" in line]) == 1
    assert "python -m reid.sync" in caplog.messages[-1]
    home.unlink()
    away.rename(home)
    late = send_late(tmp_path / "run", store)
    assert late.delivery.error is None
    assert history(store, run.run_id, "loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert list_runs(store, "e")[0].status == "FINISHED"


def test_full_disk_under_the_store_does_not_stop_the_run(tmp_path: Path) -> None:
    """/dev/full answers every write with "no space left on device"."""
    store = Store("sqlite:////dev/full", tmp_path / "mlartifacts")
    with Tracker.start(store, "e", tmp_path / "run", "n") as run:
        run.metrics({"loss": 1.0}, step=1)
    assert run.run_id is None
    assert read_record(tmp_path / "run").metrics == {"loss": 1.0}


def test_full_disk_under_the_journal_delays_and_loses_nothing(
    store: Store, tmp_path: Path, no_room: Callable[[int], AbstractContextManager[None]]
) -> None:
    nowhere = Store("sqlite:////dev/full", tmp_path / "mlartifacts")
    with Tracker.start(nowhere, "e", tmp_path / "run", "n") as run:
        with no_room((tmp_path / "run" / "journal.jsonl").stat().st_size):
            run.metrics({"loss": 1.0}, step=1)
            run.metrics({"loss": 1.0}, step=1)  # as a resumed run says it again
            assert read_record(tmp_path / "run").metrics == {}
        run.metrics({"loss": 0.5}, step=2)
    send_late(tmp_path / "run", store)
    (record,) = list_runs(store, "e")
    assert (record.status, history(store, record.run_id, "loss")) == ("FINISHED", [(1, 1.0), (2, 0.5)])


def test_run_whose_end_is_not_on_disk_is_not_finished(
    store: Store, tmp_path: Path, no_room: Callable[[int], AbstractContextManager[None]]
) -> None:
    nowhere = Store("sqlite:////dev/full", tmp_path / "mlartifacts")
    run = Tracker.start(nowhere, "e", tmp_path / "run", "n")
    with (
        no_room((tmp_path / "run" / "journal.jsonl").stat().st_size),
        pytest.raises(OSError, match="1 operations of the run were not written"),
    ):
        run.finish()
    assert read_record(tmp_path / "run").status == "RUNNING"
    Tracker.start(store, "e", tmp_path / "run", "n", resume=True).finish()
    assert [record.status for record in list_runs(store, "e")] == ["FINISHED"]


def test_artifact_that_cannot_be_stored_holds_back_neither_numbers_nor_status(
    store: Store, tmp_path: Path
) -> None:
    assert store.artifact_root is not None
    store.artifact_root.write_text("a file where the folder of the artifacts belongs")
    with Tracker.start(store, "e", tmp_path / "run", "n") as run:
        run.text("kept", "kept.txt")
        run.metrics({"loss": 1.0}, step=1)
    (record,) = list_runs(store, "e")
    assert (record.status, record.metrics) == ("FINISHED", {"loss": 1.0})
    store.artifact_root.unlink()
    assert send_late(tmp_path / "run", store).delivery.error is None
    assert artifact_text(store, run.run_id, "kept.txt") == "kept"
    assert history(store, run.run_id, "loss") == [(1, 1.0)]
    assert list_runs(store, "e")[0].status == "FINISHED"


def test_after_a_failure_the_store_is_left_alone_for_a_while(store: Store, tmp_path: Path) -> None:
    assert store.artifact_root is not None
    home, away = store.artifact_root.parent, tmp_path / "away"
    with Tracker.start(store, "e", tmp_path / "run", "n") as run:
        home.rename(away)
        run.metrics({"loss": 1.0}, step=1)
        away.rename(home)
        run.metrics({"loss": 0.5}, step=2)
        assert history(store, run.run_id, "loss") == []
    assert history(store, run.run_id, "loss") == [(1, 1.0), (2, 0.5)]


def test_moved_folder_is_still_sent(store: Store, tmp_path: Path) -> None:
    nowhere = Store("sqlite:////dev/full", tmp_path / "mlartifacts")
    with Tracker.start(nowhere, "e", tmp_path / "run", "n") as run:
        run.text("kept", "kept.txt")
        run_key = run.run_key
    shutil.move(tmp_path / "run", tmp_path / "moved")
    late = send_late(tmp_path / "moved", store)
    assert (late.delivery.error, late.delivery.refused) == (None, [])
    (record,) = list_runs(store, "e")
    assert record.tags["reid.run_key"] == run_key
    assert artifact_text(store, record.run_id, "kept.txt") == "kept"


def test_artifact_that_is_gone_does_not_hold_up_the_rest(store: Store, tmp_path: Path) -> None:
    nowhere = Store("sqlite:////dev/full", tmp_path / "mlartifacts")
    with Tracker.start(nowhere, "e", tmp_path / "run", "n") as run:
        run.text("x", "x.txt").unlink()
        run.metrics({"loss": 1.0}, step=1)
        with pytest.raises(TrackingError, match="does not exist"):
            run.artifact(tmp_path / "never.txt")
    late = send_late(tmp_path / "run", store)
    assert late.delivery.error is None
    assert len(late.delivery.refused) == 1
    assert "no longer there" in late.delivery.refused[0]
    assert list_runs(store, "e")[0].metrics == {"loss": 1.0}


KILLED = """
import os, signal, sys
from pathlib import Path
from reid.tracking import Store, Tracker
store = Store(sys.argv[1], Path(sys.argv[2]))
run = Tracker.start(store, "e", Path(sys.argv[3]), "n")
run.metrics({"loss": 1.0}, step=1)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_run_killed_without_a_word_is_found_and_can_be_resumed(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-c", KILLED, store.uri, str(store.artifact_root), str(folder)]
    assert subprocess.run(command, cwd=ROOT).returncode == -signal.SIGKILL
    assert list_runs(store, "e")[0].status == "RUNNING"
    assert send_late(folder).died
    (record,) = list_runs(store, "e")
    assert record.status == "FAILED"
    assert record.tags["reid.error"] == "the process ended without closing the run"
    with Tracker.start(store, "e", folder, "n", resume=True) as run:
        with pytest.raises(TrackingError, match="in use by another process"):
            send_late(folder)
        run.metrics({"loss": 0.5}, step=2)
    (record,) = list_runs(store, "e")
    assert (record.status, record.metrics) == ("FINISHED", {"loss": 0.5})
