"""One run on a real sqlite store: what is logged comes back, whatever way the run ends."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from reid.tracking import (
    Store,
    Tracker,
    TrackingError,
    children,
    fetch_checkpoint,
    list_runs,
    local_children,
    open_parent,
    read_record,
)


def history(store: Store, run_id: str | None, name: str) -> list[tuple[int, float]]:
    assert run_id is not None
    points = store.client.get_metric_history(run_id, name)
    return sorted((point.step, point.value) for point in points)


def artifact_text(store: Store, run_id: str | None, path: str) -> str:
    assert run_id is not None
    return Path(store.client.download_artifacts(run_id, path)).read_text()


def test_everything_logged_comes_back(store: Store, tmp_path: Path) -> None:
    figure = tmp_path / "elsewhere" / "cmc.png"
    figure.parent.mkdir()
    figure.write_bytes(b"png")
    params = {"loss.alpha": 1.2, "b": None}
    with Tracker.start(store, "e", tmp_path / "run", "my run", {"a": 1}, params) as run:
        for epoch in (1, 2, 3):
            run.metrics({"train/loss": 1 / epoch, "market/rank-1": 0.1 * epoch}, step=epoch)
        run.tags({"dataset": "abc"})
        run.description("# A run")
        run.artifact(figure, "figures")
        run.text("hello", "notes/hello.txt")
        run.json({"mAP": 0.5}, "scores.json")
    (record,) = list_runs(store, "e", {"dataset": "abc"})
    assert (record.run_id, record.name, record.status) == (run.run_id, "my run", "FINISHED")
    assert record.params == {"loss.alpha": "1.2", "b": "None"}
    assert record.metrics == {"train/loss": 1 / 3, "market/rank-1": pytest.approx(0.3)}
    expected = {"a": "1", "dataset": "abc", "reid.kind": "run", "mlflow.note.content": "# A run"}
    assert record.tags.items() >= (expected | {"reid.run_key": run.run_key}).items()
    assert history(store, run.run_id, "train/loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert artifact_text(store, run.run_id, "figures/cmc.png") == "png"
    assert artifact_text(store, run.run_id, "notes/hello.txt") == "hello"
    assert json.loads(artifact_text(store, run.run_id, "scores.json")) == {"mAP": 0.5}
    local = read_record(tmp_path / "run")
    assert (local.run_id, local.status, local.metrics) == (record.run_id, record.status, record.metrics)
    assert local.params == record.params


@pytest.mark.slow
def test_limits_of_mlflow_are_kept(store: Store, tmp_path: Path) -> None:
    params: dict[str, object] = {f"p{index}": index for index in range(250)} | {"long": "x" * 7000}
    with Tracker.start(store, "e", tmp_path / "run", "n", params=params) as run:
        run.metrics({f"m{index}": index for index in range(1200)}, step=1)
        run.tags({f"t{index}": "y" * 6000 for index in range(120)})
    (record,) = list_runs(store, "e")
    assert len(record.params) == 251
    assert len(record.params["long"]) == 6000
    assert record.params["long"].endswith("xx … [cut, 7000 characters in all]")
    assert len(record.metrics) == 1200
    assert record.tags["t119"].endswith("[cut, 6000 characters in all]")


def test_numbers_that_are_none_mark_the_run(store: Store, tmp_path: Path) -> None:
    with Tracker.start(store, "e", tmp_path / "run", "n") as run:
        run.metrics({"loss": math.nan, "norm": math.inf, "lr": 0.1}, step=1)
    (record,) = list_runs(store, "e")
    assert record.metrics == {"lr": 0.1}
    assert record.tags["reid.diverged"] == "true"


def test_bad_names_are_refused_here(store: Store, tmp_path: Path) -> None:
    with Tracker.start(store, "e", tmp_path / "run", "n") as run:
        for name in ("rank@1", "a=b", "a//b", "/a", "a/", "../a", ".", "", "50%", "x" * 251):
            with pytest.raises(TrackingError, match="metric name"):
                run.metrics({name: 1.0}, step=1)
            with pytest.raises(TrackingError, match="param name"):
                run.params({name: 1.0})


def test_exception_marks_the_run_failed_with_its_traceback(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="broken"), Tracker.start(store, "e", tmp_path / "run", "n") as run:
        raise ValueError("broken crop\nsecond line")
    (record,) = list_runs(store, "e")
    assert record.status == "FAILED"
    assert record.tags["reid.error"] == "ValueError: broken crop"
    assert "raise ValueError" in artifact_text(store, run.run_id, "traceback.txt")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143)])
def test_interruption_marks_the_run_killed(store: Store, tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), Tracker.start(store, "e", tmp_path / "run", "n"):
        raise error
    (record,) = list_runs(store, "e")
    assert record.status == "KILLED"


def test_finished_run_stays_as_it_is(store: Store, tmp_path: Path) -> None:
    run = Tracker.start(store, "e", tmp_path / "run", "n")
    run.finish("FAILED")
    run.finish()
    assert list_runs(store, "e")[0].status == "FAILED"
    with pytest.raises(TrackingError, match="finished"):
        run.metrics({"loss": 1.0}, step=1)


def test_resume_goes_on_in_the_same_run(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with Tracker.start(store, "e", folder, "n", params={"epochs": 2, "seed": 1}) as first:
        first.metrics({"loss": 1.0, "speed": 100.0}, step=1)
        first.metrics({"loss": 0.5, "speed": 100.0}, step=2)
    with pytest.raises(TrackingError, match="already holds a tracked run"):
        Tracker.start(store, "e", folder, "n")
    with Tracker.start(store, "e", folder, "n", params={"epochs": 4, "seed": 1}, resume=True) as second:
        assert list_runs(store, "e")[0].status == "RUNNING"
        second.metrics({"loss": 0.5, "speed": 90.0}, step=2)
        second.metrics({"loss": 0.25, "speed": 90.0}, step=3)
    assert second.run_id == first.run_id
    (record,) = list_runs(store, "e")
    assert record.status == "FINISHED"
    assert record.params == {"epochs": "2", "seed": "1"}
    assert record.tags["reid.changed/epochs"] == "4"
    assert history(store, first.run_id, "loss") == [(1, 1.0), (2, 0.5), (3, 0.25)]
    assert history(store, first.run_id, "speed") == [(1, 100.0), (2, 90.0), (2, 100.0), (3, 90.0)]


def test_resume_of_an_empty_folder_is_a_new_run(store: Store, tmp_path: Path) -> None:
    with Tracker.start(store, "e", tmp_path / "run", "n", resume=True) as run:
        assert run.run_id is not None


def test_sweep_is_one_parent_with_children(store: Store, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    with open_parent(store, "e", sweep, "alpha", {"swept": "loss.alpha"}, "three jobs") as parent:
        for index, alpha in enumerate((1.0, 1.2, 1.4)):
            params = {"loss.alpha": alpha}
            folder, name = sweep / str(index), f"job {index}"
            with Tracker.start(store, "e", folder, name, params=params, parent=sweep) as job:
                job.metrics({"mAP": alpha / 2}, step=1)
        parent.json([record.params for record in local_children(sweep)], "table.json")
    assert parent.run_id is not None
    rows = children(store, parent.run_id)
    assert [(row.name, row.params["loss.alpha"], row.metrics["mAP"]) for row in rows] == [
        ("job 0", "1.0", 0.5),
        ("job 1", "1.2", 0.6),
        ("job 2", "1.4", 0.7),
    ]
    assert {row.tags["reid.kind"] for row in rows} == {"run"}
    assert [row.name for row in list_runs(store, "e", {"reid.kind": "sweep"})] == ["alpha"]
    assert [row.metrics for row in local_children(sweep)] == [row.metrics for row in rows]
    assert len(json.loads(artifact_text(store, parent.run_id, "table.json"))) == 3


def test_checkpoint_is_fetched_by_run_id(store: Store, tmp_path: Path) -> None:
    with Tracker.start(store, "e", tmp_path / "run", "n") as run:
        path = tmp_path / "run" / "checkpoints" / "model.pt"
        path.parent.mkdir()
        path.write_bytes(b"weights")
        run.artifact(path, "checkpoints")
    assert run.run_id is not None
    assert fetch_checkpoint(store, run.run_id).read_bytes() == b"weights"
    with pytest.raises(TrackingError, match=r"no artifact checkpoints/best\.pt .* has checkpoints/model\.pt"):
        fetch_checkpoint(store, run.run_id, "best.pt")
    with pytest.raises(TrackingError, match=r"cannot read checkpoints/model\.pt of run abc"):
        fetch_checkpoint(store, "abc")
