"""What somebody deleted in MLflow is told as such; the run is kept and sent once it is restored."""

from __future__ import annotations

from pathlib import Path

import pytest

from reid.tracking import (
    Store,
    Tracker,
    TrackingError,
    all_runs,
    delete_runs,
    describe,
    fetch_checkpoint,
    list_runs,
    read_run,
    send_late,
)


def test_a_deleted_experiment_takes_no_run_and_says_what_to_do(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    experiment = store.prepare("given up")
    store.client.delete_experiment(experiment)
    with pytest.raises(TrackingError, match="the experiment 'given up' was deleted in MLflow"):
        store.prepare("given up")
    with Tracker.start(store, "given up", tmp_path / "run", "one") as run:
        run.metrics({"test/mAP": 0.5}, 1)
    assert run.run_id is None
    logged = caplog.text
    assert (
        "the experiment 'given up' was deleted in MLflow. Name another one by tracking.experiment=…" in logged
    )
    assert f"mlflow experiments restore --experiment-id {experiment}" in logged
    assert list_runs(store, "given up") == []
    assert all_runs(store) == []

    left = send_late(tmp_path / "run").delivery
    assert "was deleted in MLflow" in str(left.error)
    store.client.restore_experiment(experiment)
    assert send_late(tmp_path / "run").delivery.error is None
    (record,) = all_runs(store)
    assert (record.name, record.metrics) == ("one", {"test/mAP": 0.5})


def test_a_run_deleted_under_way_goes_on_and_is_whole_once_it_is_restored(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Tracker.start(store, "study", tmp_path / "run", "one") as run:
        run.metrics({"test/mAP": 0.5}, 1)
        run_id = str(run.run_id)
        store.client.delete_run(run_id)
        run.metrics({"test/mAP": 0.6}, 2)
    assert f"the run {run_id} was deleted in MLflow" in caplog.text
    assert f"mlflow runs restore --run-id {run_id}" in caplog.text
    with pytest.raises(TrackingError, match=f"the run {run_id} was deleted in MLflow"):
        describe(store, run_id, "late")
    store.client.restore_run(run_id)
    assert send_late(tmp_path / "run").delivery.error is None
    record, _ = read_run(store, run_id)
    assert (record.status, record.metrics) == ("FINISHED", {"test/mAP": 0.6})


def test_the_checkpoint_of_a_deleted_run_is_there_until_it_is_purged(store: Store, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"weights")
    with Tracker.start(store, "study", tmp_path / "run", "one") as run:
        run.artifact(tmp_path / "model.pt", "checkpoints")
    run_id = str(run.run_id)
    store.client.delete_run(run_id)
    assert fetch_checkpoint(store, run_id).read_bytes() == b"weights"
    with pytest.raises(
        TrackingError, match=r"has no artifact checkpoints/last.pt .* it has checkpoints/model"
    ):
        fetch_checkpoint(store, run_id, "last.pt")
    with pytest.raises(TrackingError, match=f"Run with id={'0' * 32} not found"):
        fetch_checkpoint(store, "0" * 32)


def log_model(run: Tracker, weights: str) -> None:
    checkpoint, card = run.folder / "model.pt", run.folder / "model_card.md"
    checkpoint.write_text(weights)
    card.write_text("card")
    run.model(checkpoint, card, height=64, width=32, embedding_size=8, step=1)


def test_a_run_whose_model_was_deleted_is_deleted_with_its_files(store: Store, tmp_path: Path) -> None:
    assert store.artifact_root is not None
    with Tracker.start(store, "study", tmp_path / "run", "one") as run:
        log_model(run, "weights")
    (model,) = store.client.search_logged_models([store.prepare("study")])
    store.client.delete_logged_model(model.model_id)
    with pytest.raises(TrackingError, match="nor a model; it has no checkpoint"):
        fetch_checkpoint(store, str(run.run_id))
    assert delete_runs(store, all_runs(store)).freed > len("weights")
    assert all_runs(store) == []
    assert list((store.artifact_root / "models").iterdir()) == []


def test_a_run_of_an_older_version_that_goes_on_has_the_model_of_its_end(
    store: Store, tmp_path: Path
) -> None:
    with Tracker.start(store, "study", tmp_path / "run", "one") as run:
        run.text("weights", "checkpoints/model.pt")
    assert fetch_checkpoint(store, str(run.run_id)).read_text() == "weights"
    with Tracker.start(store, "study", tmp_path / "run", "one", resume=True) as run:
        log_model(run, "more weights")
    assert fetch_checkpoint(store, str(run.run_id)).read_text() == "more weights"
