"""The sweep's own bookkeeping, on folders written by hand."""

from pathlib import Path

from reid.engine.rundir import RunStatus, find_finished, find_unfinished, read_status
from reid.sweeps.callback import swept_keys
from reid.sweeps.job_lock import alone
from reid.sweeps.sweep_file import SweepFile, failed_jobs, job_statuses
from reid.tracking.journal import Journal, Sent


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


def test_a_job_that_a_process_is_at_is_under_way(tmp_path: Path) -> None:
    job(tmp_path, 0, "RUNNING")
    job(tmp_path, 1, "FAILED")  # and is tried again
    job(tmp_path, 2, "FINISHED", 0.5)

    def statuses() -> list[str]:
        return [status.status for status in job_statuses(tmp_path)]

    with alone(tmp_path / "0"), alone(tmp_path / "1"), alone(tmp_path / "2"), alone(tmp_path / "3"):
        assert statuses() == ["RUNNING", "RUNNING", "FINISHED", "RUNNING"]
        assert len(failed_jobs(tmp_path)) == 3
    assert statuses() == ["FAILED", "FAILED", "FINISHED", "FAILED"]


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


def test_a_cell_is_finished_where_config_data_and_code_are_the_same(tmp_path: Path) -> None:
    def run(name: str, **fields: str) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        status = RunStatus("FINISHED", config_hash="a", data_root="/d", code="c", run_dir=str(folder))
        for key, value in fields.items():
            setattr(status, key, value)
        status.write(folder)
        return folder

    first = run("outputs/one")
    run("outputs/killed", status="RUNNING")
    run("outputs/other", config_hash="b")
    elsewhere = run("multirun/sweep/0", code="old")
    roots = [tmp_path / "outputs", tmp_path / "multirun"]

    def found(codes: set[str] | None) -> set[str]:
        return {status.run_dir for status in find_finished("a", "/d", tmp_path / "new" / "3", roots, codes)}

    assert found({"c"}) == {str(first)}
    assert found(None) == found({"c", "old"}) == {str(first), str(elsewhere)}
    assert found({"newer"}) == set()


def test_a_job_that_did_not_start_is_in_the_list_with_what_makes_it(tmp_path: Path) -> None:
    SweepFile("reid", "c", [["a", "/d"], ["b", "/d"]], [["seed=0"], ["seed=1"]]).write(tmp_path)
    job(tmp_path, 0, "FINISHED", 0.5)
    statuses = job_statuses(tmp_path)
    assert [(status.status, status.error) for status in statuses] == [
        ("FINISHED", ""),
        ("FAILED", "not begun"),
    ]
    assert statuses[1].overrides == ["seed=1"]


def test_of_a_key_that_comes_twice_the_last_counts() -> None:
    assert swept_keys(["loss.alpha=1,2", "seed=0,1", "loss.alpha=3"]) == ["seed"]


def test_the_id_that_a_run_got_after_its_end_is_that_of_its_journal(tmp_path: Path) -> None:
    RunStatus("FINISHED", run_dir=str(tmp_path)).write(tmp_path)
    status = read_status(tmp_path)
    assert status is not None
    assert status.run_id is None
    Journal(tmp_path).save_sent(Sent("sqlite:////x.db", "1234", 5))
    status = read_status(tmp_path)
    assert status is not None
    assert status.run_id == "1234"
