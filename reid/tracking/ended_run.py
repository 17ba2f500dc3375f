"""One run of the store that has ended: read, its artifacts fetched and added to, described, and its page."""

from __future__ import annotations

from pathlib import Path

from reid.tracking.errors import TrackingError, reason
from reid.tracking.logged_model import find_model, put_files
from reid.tracking.records import RunRecord, of_kept_model
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
        run_id,
        run.info.run_name,
        run.info.status,
        dict(data.params),
        of_kept_model(data.metrics, data.tags),
        dict(data.tags),
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


def attach(store: Store, run_id: str, path: Path, folder: str) -> None:
    """Put the file `path` into the artifact folder `folder` of a run; one of that name is replaced.

    Raises TrackingError when the store does not answer, or has no such run.
    """
    try:
        store.client.log_artifact(run_id, str(path), folder)
    except Exception as error:
        raise _failed(f"{path.name} could not be added to run {run_id}", error) from error


def replace_model(store: Store, run_id: str, checkpoint: Path, card: Path) -> None:
    """Put another `model.pt` and its card in the place of those of a run; the card is its description too.

    A version of the registry that was made of the run has the new file then.

    Raises TrackingError when the store does not answer, or has no such run.
    """
    try:
        client = store.client
        model = find_model(client, client.get_run(run_id))
        if model is None:
            client.log_artifact(run_id, str(checkpoint), "checkpoints")
        else:
            put_files(client, model.model_id, [checkpoint, card])
        client.log_artifact(run_id, str(card))
    except Exception as error:
        raise _failed(f"{checkpoint.name} could not be added to run {run_id}", error) from error
    describe(store, run_id, card.read_text(encoding="utf-8"))


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


def _failed(what: str, error: Exception) -> TrackingError:
    return TrackingError(f"{what}: {reason(error)}")
