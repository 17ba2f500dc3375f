"""The checkpoints that a store has in a folder of this machine, and whose each is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reid.tracking.deliver import RUN_KEY
from reid.tracking.errors import TrackingError, reason
from reid.tracking.logged_model import CHECKPOINT
from reid.tracking.records import all_runs
from reid.tracking.registry import registered_runs
from reid.tracking.store import Store
from reid.tracking.uris import local_folder

_PAGE = 100


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint among a store's artifacts.

    Attributes:
        path: of the file, which is there.
        run_key: the key of its run, as the run's journal has it.
        names: what it is called in the registry, such as `models:/reid-market/3`.
    """

    path: Path
    run_key: str
    names: tuple[str, ...]


def stored_checkpoints(store: Store) -> list[StoredCheckpoint]:
    """Those of all runs, in their models or, of older versions, among their own artifacts.

    None of a server, whose artifacts lie with it. Raises TrackingError when the store does not answer.
    """
    if store.is_server or store.is_unwritten:
        return []
    runs = {str(run.run_id): run for run in all_runs(store)}
    registered = registered_runs(store)
    places = [(run_id, run.artifacts, f"checkpoints/{CHECKPOINT}") for run_id, run in runs.items()]
    try:
        places += [(run_id, place, CHECKPOINT) for run_id, place in _models(store)]
    except Exception as error:
        raise TrackingError(f"cannot read the models of {store.public_uri}: {reason(error)}") from error
    found = []
    for run_id, place, name in places:
        folder = local_folder(place)
        if folder is not None and run_id in runs and (folder / name).is_file():
            key = runs[run_id].tags.get(RUN_KEY, "")
            found.append(StoredCheckpoint(folder / name, key, tuple(registered.get(run_id, ()))))
    return found


def _models(store: Store) -> list[tuple[str, str]]:
    """The id of its run and the folder of each LoggedModel."""
    experiments = [one.experiment_id for one in store.client.search_experiments(max_results=1000)]
    found, token = [], None
    while experiments:
        page = store.client.search_logged_models(experiments, max_results=_PAGE, page_token=token)
        found += [(str(model.source_run_id), str(model.artifact_location)) for model in page]
        token = page.token
        if not token:
            break
    return found
