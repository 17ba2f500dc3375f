"""What a sweep's cell does with what an earlier start left of it."""

from pathlib import Path

import pytest
from composing import settings_of
from omegaconf import OmegaConf
from rich.console import Console

from reid.engine.rundir import LAST, RunStatus
from reid.engine.stop import StopSignals
from reid.jobs.job import Job
from reid.tracking import SilentTracker
from reid.tracking.journal import JOURNAL
from reid.tracking.machine import Provenance
from reid.tracking.sources import code


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REID_HOME", str(tmp_path))
    folder = tmp_path / "multirun" / "now"
    (folder / "0").mkdir(parents=True)
    return folder


def left(folder: Path, status: str, data: str, scores: dict[str, float] | None = None) -> Path:
    """A run of the cell that ended so, with what it had learnt."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LAST).write_text(f"learnt from {data}")
    (folder / JOURNAL).touch()
    RunStatus(
        status, "cell", run_dir=str(folder), data_root="/data", scores=scores or {}, data_fingerprint=data,
        code=code(),
    ).write(folder)  # fmt: skip
    return folder


def started_again(sweep: Path, data: str) -> tuple[Job, dict[str, float] | None]:
    job = Job(OmegaConf.create({}), sweep / "0", [], Console(quiet=True), StopSignals(), sweep=sweep)
    job.resume(None, "cell", "/data", "same_code")
    return job, job.taken(data) if job.found_a_run else None


@pytest.mark.slow
def test_a_killed_cell_goes_on_in_its_folder(sweep: Path) -> None:
    left(sweep / "0", "RUNNING", "these")
    job, scores = started_again(sweep, "these")
    assert (scores, job.resuming, job.folder) == (None, True, sweep / "0")


def test_a_cell_with_a_run_on_other_data_starts_anew_beside_it(
    sweep: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left(sweep / "0", "RUNNING", "those")
    job, scores = started_again(sweep, "these")
    assert (scores, job.resuming, job.folder) == (None, False, sweep / "0-2")
    assert "begun on other data" in caplog.text
    assert (sweep / "0" / LAST).read_text() == "learnt from those"


def test_what_another_sweep_began_goes_on_as_a_run_of_this_one(sweep: Path) -> None:
    left(sweep.parent / "then" / "7", "KILLED", "these")
    job, _ = started_again(sweep, "these")
    assert (job.resuming, job.folder) == (True, sweep / "0")
    assert (sweep / "0" / LAST).read_text() == "learnt from these"


def test_only_what_was_finished_on_these_data_is_taken(sweep: Path) -> None:
    left(sweep.parent / "then" / "7", "FINISHED", "these", {"test/mAP": 0.5})
    assert started_again(sweep, "these")[1] == {"test/mAP": 0.5}
    assert started_again(sweep, "those")[1] is None


def test_a_cell_that_nobody_began_is_new(sweep: Path) -> None:
    job, _ = started_again(sweep, "these")
    assert not job.found_a_run
    assert (job.resuming, job.folder) == (False, sweep / "0")


def test_the_uncommitted_changes_are_kept_with_the_run(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, str] = {}

    class Noted(SilentTracker):
        def text(self, text: str, name: str) -> Path:
            kept[name] = text
            return Path(name)

    for diff in ("", "+ a line"):
        job = Job(OmegaConf.create({}), sweep / "0", [], Console(quiet=True), StopSignals())
        monkeypatch.setattr("reid.jobs.job.environment", lambda _, diff=diff: Provenance({}, diff))
        monkeypatch.setattr(job, "_open_run", lambda *_: Noted())
        job.track(settings_of(), {})
        assert kept == ({"git.diff": diff} if diff else {})
