"""Deleting runs for good: MLflow's own `delete_run` only marks them, and keeps everything."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reid.tracking.errors import TrackingError, reason
from reid.tracking.logged_model import find_model, outputs_of
from reid.tracking.records import RunRecord
from reid.tracking.store import Store
from reid.tracking.uris import local_folder

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

#: Places of artifacts that the server serves itself.
_SERVED = "mlflow-artifacts:"


@dataclass(frozen=True)
class Removal:
    """runs: how many are gone from every list. freed: bytes of artifacts. left: what stays, in words."""

    runs: int
    freed: int
    left: str = ""


def delete_runs(store: Store, runs: Sequence[RunRecord]) -> Removal:
    """Delete these runs with their artifacts; children are not looked for.

    From a database they are purged. A server does what its API can: the runs are marked as deleted
    and the artifacts that it serves itself are removed.
    Raises TrackingError when the store refuses one or does not answer; calling again goes on from there.
    """
    freed = done = 0
    try:
        for run in runs:
            model = _model_of(store, run)
            freed += _clear(store, run.artifacts, str(run.run_id))
            if model is not None:
                freed += _clear(store, model.artifact_location, model.model_id)
                _remove_model(store, model.model_id)
            _remove(store, str(run.run_id))
            done += 1
    except Exception as error:
        raise TrackingError(
            f"{store.public_uri} did not delete run {runs[done].run_id} ({done} before it are gone): "
            f"{reason(error)}"
        ) from error
    return Removal(done, freed, _left_at_server(store) if store.is_server else "")


def artifact_bytes(store: Store, run: RunRecord) -> int:
    """What the artifacts of a run and its model take; 0 where the store cannot tell."""
    model = _model_of(store, run)
    return _bytes_at(store, run.artifacts) + (_bytes_at(store, model.artifact_location) if model else 0)


def _bytes_at(store: Store, place: str) -> int:
    folder = local_folder(place)
    if folder is not None:
        return folder_bytes(folder)
    return sum(_listed_sizes(_repository(store, place), None)) if place.startswith(_SERVED) else 0


def folder_bytes(folder: Path) -> int:
    """The size of the files at or below a folder; 0 where there is none."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def _model_of(store: Store, run: RunRecord) -> LoggedModel | None:
    if not run.run_id:
        return None
    found = store.client.get_run(run.run_id)
    model = find_model(store.client, found)
    if model is None and not store.is_server:  # one that was deleted in MLflow is marked, and keeps its files
        database = store.client._tracking_client.store
        for model_id in {*outputs_of(found)} & {*database._get_deleted_logged_models()}:
            return database.get_logged_model(model_id, allow_deleted=True)
    return model


def _listed_sizes(repository: ArtifactRepository, folder: str | None) -> Iterable[int]:
    for item in repository.list_artifacts(folder):
        if item.is_dir:
            yield from _listed_sizes(repository, item.path)
        else:
            yield item.file_size or 0


def _clear(store: Store, place: str, owner: str) -> int:
    """Remove an artifact folder, that of a server where it serves it itself; the bytes that are free now.

    owner: the id of the run or the model that the folder was made for.
    """
    if store.is_server and not place.startswith(_SERVED):
        return 0
    size, folder = _bytes_at(store, place), local_folder(place)
    if folder is None:
        _repository(store, place).delete_artifacts()
        return size
    if folder.is_dir():  # MLflow would unquote its path twice
        shutil.rmtree(folder)
    if folder.parent.name == owner and folder.parent.is_dir():
        folder.parent.rmdir()  # made for this owner; an error says what else somebody put there
    return size


def _repository(store: Store, place: str) -> ArtifactRepository:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(place, tracking_uri=store.uri)


def _remove_model(store: Store, model_id: str) -> None:
    store.client.delete_logged_model(model_id)
    if not store.is_server:
        store.client._tracking_client.store._hard_delete_logged_model(model_id)


def _remove(store: Store, run_id: str) -> None:
    """Remove a run from its database, or mark it at its server.

    What `mlflow gc --run-ids` calls; that command would also purge every experiment ever deleted in the UI.
    """
    if store.is_server:
        store.client.delete_run(run_id)
    else:
        store.client._tracking_client.store._hard_delete_run(run_id)


def _left_at_server(store: Store) -> str:
    return (
        f"{store.public_uri} keeps the rows of deleted runs, and artifacts that lie elsewhere (such as s3), "
        "until its owner purges them there: mlflow gc --backend-store-uri <its database>"
    )
