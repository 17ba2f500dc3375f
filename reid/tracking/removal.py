"""Deleting runs for good: MLflow's own `delete_run` only marks them, and keeps everything."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reid.tracking.errors import TrackingError, reason
from reid.tracking.records import RunRecord
from reid.tracking.store import Store
from reid.tracking.uris import local_folder


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
            size = artifact_bytes(store, run)
            if _clear_artifacts(store, run):
                freed += size
            _remove(store, str(run.run_id))
            done += 1
    except Exception as error:
        raise TrackingError(
            f"{store.public_uri} did not delete run {runs[done].run_id} ({done} before it are gone): "
            f"{reason(error)}"
        ) from error
    return Removal(done, freed, _left_at_server(store) if store.is_server else "")


def artifact_bytes(store: Store, run: RunRecord) -> int:
    """What the artifacts of a run take; 0 where the store cannot tell."""
    folder = local_folder(run.artifacts)
    if folder is not None:
        return folder_bytes(folder)
    if run.run_id is None or not run.artifacts.startswith("mlflow-artifacts:"):
        return 0
    return sum(_listed_sizes(store, run.run_id, None))


def folder_bytes(folder: Path) -> int:
    """The size of the files at or below a folder; 0 where there is none."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def _listed_sizes(store: Store, run_id: str, folder: str | None) -> Iterable[int]:
    for item in store.client.list_artifacts(run_id, folder):
        if item.is_dir:
            yield from _listed_sizes(store, run_id, item.path)
        else:
            yield item.file_size or 0


def _clear_artifacts(store: Store, run: RunRecord) -> bool:
    """Remove the artifacts of a run, those at a server where it serves them itself; whether that was so."""
    if store.is_server and not run.artifacts.startswith("mlflow-artifacts:"):
        return False
    folder = local_folder(run.artifacts)
    if folder is None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        get_artifact_repository(run.artifacts, tracking_uri=store.uri).delete_artifacts()
        return True
    if folder.is_dir():  # MLflow would unquote its path twice
        shutil.rmtree(folder)
    if folder.parent.name == run.run_id and folder.parent.is_dir():
        folder.parent.rmdir()  # made for this run; an error says what else somebody put there
    return True


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
