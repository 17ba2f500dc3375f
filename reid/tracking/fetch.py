"""One run of the store, and its artifacts, brought here; and what is said of a run that has ended."""

from __future__ import annotations

from pathlib import Path

from reid.tracking.errors import TrackingError, reason
from reid.tracking.records import RunRecord
from reid.tracking.store import Store


def read_run(store: Store, run_id: str) -> tuple[RunRecord, str]:
    """A run, and the name of its experiment.

    Raises TrackingError when the store does not answer, or has no such run.
    """
    try:
        run = store.client.get_run(run_id)
        experiment = store.client.get_experiment(run.info.experiment_id).name
    except Exception as error:
        raise _failed(f"run {run_id} could not be read from {store.public_uri}", error) from error
    data = run.data
    record = RunRecord(
        run_id, run.info.run_name, run.info.status, dict(data.params), dict(data.metrics), dict(data.tags)
    )
    return record, str(experiment)


def fetch_artifact(store: Store, run_id: str, name: str) -> Path | None:
    """A local path of an artifact at the top of the run's folder, downloaded where the store is a server.

    None where the run has none of that name. Raises TrackingError when the store does not answer.
    """
    try:
        if name not in [item.path for item in store.client.list_artifacts(run_id)]:
            return None
        return Path(store.client.download_artifacts(run_id, name))
    except Exception as error:
        raise _failed(f"{name} of run {run_id} could not be read from {store.public_uri}", error) from error


def describe(store: Store, run_id: str, markdown: str) -> None:
    """Set the text that the UI shows at the top of a run that has ended.

    Raises TrackingError when the store does not answer, or has no such run.
    """
    try:
        store.client.set_tag(run_id, "mlflow.note.content", markdown)
    except Exception as error:
        raise _failed(f"run {run_id} could not be described", error) from error


def _failed(what: str, error: Exception) -> TrackingError:
    return TrackingError(f"{what}: {reason(error)}")
