"""The sweep's own bookkeeping, on folders written by hand."""

from pathlib import Path

from reid.engine.rundir import RunStatus, find_unfinished
from reid.engine.sweep import failed_jobs, job_statuses, swept_keys


def job(folder: Path, number: int, status: str, score: float | None = None) -> None:
    place = folder / str(number)
    place.mkdir(parents=True)
    scores = {} if score is None else {"test/mAP": score, "test/rank-1": score + 0.1}
    RunStatus(status, overrides=[f"loss.alpha={1 + number}", "+seed=3"], scores=scores).write(place)


def test_swept_keys_are_those_with_several_values() -> None:
    typed = [
        "loss.alpha=1.0,1.2",
        "epochs=3",
        "seed=range(0,3)",
        "backbone=resnet18,resnet50",
        "schedule.milestones=[4,5]",
    ]
    assert swept_keys(typed) == ["loss.alpha", "seed", "backbone"]


def test_a_job_that_left_no_word_was_killed(tmp_path: Path) -> None:
    job(tmp_path, 0, "FINISHED", 0.5)
    job(tmp_path, 1, "RUNNING")
    (tmp_path / "2").mkdir()
    job(tmp_path, 10, "FINISHED", 0.6)
    assert [status.status for status in job_statuses(tmp_path)] == [
        "FINISHED",
        "FAILED",
        "FAILED",
        "FINISHED",
    ]
    assert len(failed_jobs(tmp_path)) == 2


def test_the_newest_run_of_the_config_is_resumed_unless_it_finished(tmp_path: Path) -> None:
    def run(name: str, status: str, config: str = "a", checkpoint: bool = True) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        RunStatus(status, config_hash=config).write(folder)
        if checkpoint:
            (folder / "last.pt").write_bytes(b"x")
        return folder

    fresh = tmp_path / "new"
    assert find_unfinished("a", "", fresh, []) is None
    killed = run("killed", "RUNNING")
    run("other", "RUNNING", config="b")
    run("empty", "KILLED", checkpoint=False)
    assert find_unfinished("a", "", fresh, []) == killed
    run("done", "FINISHED")
    assert find_unfinished("a", "", fresh, []) is None
