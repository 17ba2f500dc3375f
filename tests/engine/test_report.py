"""The report of a sweep."""

from pathlib import Path

from reid.engine.report import markdown, sweep_table
from reid.engine.rundir import RunStatus
from reid.engine.sweep import job_statuses


def job(folder: Path, number: int, status: str, score: float | None = None) -> None:
    place = folder / str(number)
    place.mkdir(parents=True)
    scores = {} if score is None else {"test/mAP": score, "test/rank-1": score + 0.1}
    RunStatus(status, overrides=[f"loss.alpha={1 + number}", "+seed=3"], scores=scores).write(place)


def test_the_table_has_a_row_for_each_job_and_no_number_for_a_failed_one(tmp_path: Path) -> None:
    job(tmp_path, 0, "FINISHED", 0.5)
    job(tmp_path, 1, "FAILED")
    table = sweep_table(job_statuses(tmp_path), ["loss.alpha", "seed"], "test")
    assert table["loss.alpha"].tolist() == ["1", "2"]
    assert table["seed"].tolist() == ["3", "3"]
    assert table["test/mAP"].isna().tolist() == [False, True]
    text = markdown(table, ["loss.alpha", "seed"], "test")
    assert "| 1 | 3 | 50.0 | 60.0 | FINISHED |" in text
    assert "| 2 | 3 | - | - | FAILED |" in text
