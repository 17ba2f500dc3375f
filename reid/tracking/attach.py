"""A file added to a run that has ended, and where the UI shows it."""

from __future__ import annotations

from pathlib import Path

from reid.tracking.errors import TrackingError, reason
from reid.tracking.store import Store


def attach(store: Store, run_id: str, path: Path, folder: str) -> None:
    """Put the file `path` into the artifact folder `folder` of a run; one of that name is replaced.

    Raises TrackingError when the store does not answer, or has no such run.
    """
    try:
        store.client.log_artifact(run_id, str(path), folder)
    except Exception as error:
        raise TrackingError(f"{path.name} could not be added to run {run_id}: {reason(error)}") from error


def run_address(store: Store, run_id: str, port: int = 5000) -> str | None:
    """The page of a run in the MLflow UI: of the server, or of the UI that is opened on `port`.

    None when the store does not answer, or has no such run.
    """
    try:
        experiment = store.client.get_run(run_id).info.experiment_id
    except Exception:  # databases, file systems and networks all have their own
        return None
    base = store.public_uri if store.is_server else f"http://127.0.0.1:{port}"
    return f"{base}/#/experiments/{experiment}/runs/{run_id}"
