"""Reading runs back: from the store, or from the journals on disk."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from reid.home import home
from reid.tracking.deliver import PARENT_RUN, RUN_KEY
from reid.tracking.errors import NewerJournalError, TrackingError, reason
from reid.tracking.journal import JOURNAL, Journal
from reid.tracking.logged_model import CHECKPOINT, fetch_from_model, find_model, outputs_of
from reid.tracking.names import KEPT, KEPT_EPOCH
from reid.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

_PAGE = 200


@dataclass(frozen=True)
class RunRecord:
    """One run as a table row. `metrics` holds the last value of each; `run_id` is None before it was sent.

    Of a run that keeps the model of its best epoch, the scores are those of that model.

    started, ended: Unix time in seconds, None where it has not happened. `experiment` and `artifacts` (the
    URI of the artifact folder) are known of runs that came from a store.
    """

    run_id: str | None
    name: str
    status: str
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    experiment: str = ""
    started: float | None = None
    ended: float | None = None
    artifacts: str = ""

    @property
    def parent(self) -> str | None:
        """The id of the sweep's run that this one is a child of."""
        return self.tags.get(PARENT_RUN)


def all_runs(store: Store) -> list[RunRecord]:
    """Every run of every experiment, newest first; [] for a database that nobody has written yet.

    Raises TrackingError when the store does not answer.
    """
    if store.is_unwritten:
        return []
    try:
        # One page: a study is one experiment, and MLflow gives up to this many at once.
        names = {each.experiment_id: each.name for each in store.client.search_experiments(max_results=1000)}
        runs = list(_search(store, list(names), "", newest_first=True, names=names))
    except Exception as error:
        raise _unreadable(store, "the runs", error) from error
    # Runs of one sweep may start within a millisecond.
    return sorted(runs, key=lambda run: run.started or 0.0, reverse=True)


def newest_runs(store: Store, experiment: str | None = None) -> Iterator[RunRecord]:
    """The runs of all experiments, or of one, newest first, read a page at a time as they are taken.

    Raises TrackingError when the store does not answer.
    """
    if store.is_unwritten:
        return
    try:
        names = {each.experiment_id: each.name for each in store.client.search_experiments(max_results=1000)}
        ids = [found for found, name in names.items() if experiment in (None, name)]
        if ids:
            yield from _search(store, ids, "", newest_first=True, names=names)
    except Exception as error:
        raise _unreadable(store, "the runs", error) from error


def experiment_names(store: Store) -> list[str]:
    """The experiments of a store. Raises TrackingError when it does not answer."""
    if store.is_unwritten:
        return []
    try:
        return [each.name for each in store.client.search_experiments(max_results=1000)]
    except Exception as error:
        raise _unreadable(store, "the experiments", error) from error


def runs_that_begin(store: Store, start: str) -> list[RunRecord]:
    """The runs whose ids begin with these hexadecimal digits, newest first.

    Raises TrackingError when the store does not answer.
    """
    return _of_ids(store, f"attributes.run_id LIKE '{start}%'")


def runs_of_ids(store: Store, ids: Iterable[str]) -> list[RunRecord]:
    """Those of these ids that the store has, newest first. Raises TrackingError when it does not answer."""
    found: list[RunRecord] = []
    rest = iter(sorted(ids))
    while some := list(islice(rest, _PAGE)):
        found += _of_ids(store, "attributes.run_id IN ({})".format(", ".join(f"'{each}'" for each in some)))
    return found


def _of_ids(store: Store, condition: str) -> list[RunRecord]:
    if store.is_unwritten:
        return []
    try:
        names = {each.experiment_id: each.name for each in store.client.search_experiments(max_results=1000)}
        return list(_search(store, list(names), condition, newest_first=True, names=names))
    except Exception as error:
        raise _unreadable(store, "the runs", error) from error


def list_runs(store: Store, experiment: str, tags: Mapping[str, str] | None = None) -> list[RunRecord]:
    """The runs of an experiment that carry all these tags, oldest first; [] if there is no such experiment.

    Raises TrackingError when the store does not answer.
    """
    conditions = [f"tags.`{name}` = '{value}'" for name, value in (tags or {}).items()]
    try:
        found = store.client.get_experiment_by_name(experiment)
        if found is None:
            return []
        return list(_search(store, [found.experiment_id], " and ".join(conditions)))
    except Exception as error:
        raise _unreadable(store, f"the runs of {experiment!r}", error) from error


def children(store: Store, parent_run_id: str) -> list[RunRecord]:
    """The children of a sweep's run, oldest first. Raises TrackingError when the store cannot tell."""
    try:
        experiment_id = store.client.get_run(parent_run_id).info.experiment_id
        names = {experiment_id: store.client.get_experiment(experiment_id).name}
        found = _search(store, [experiment_id], f"tags.`{PARENT_RUN}` = '{parent_run_id}'", names=names)
        return list(found)
    except Exception as error:
        raise _unreadable(store, f"the children of run {parent_run_id}", error) from error


def read_record(folder: Path) -> RunRecord:
    """The run whose journal lies in `folder`; needs no store. Raises TrackingError where there is none."""
    journal = Journal(folder)
    creation, sent = journal.creation, journal.sent()
    status, tags = "RUNNING", {**creation["tags"], RUN_KEY: creation["run_key"]}
    params: dict[str, str] = {}
    latest: dict[str, tuple[int, float]] = {}
    for operation, _ in journal.read():
        match operation["op"]:
            case "params":
                params |= operation["values"]
            case "tags":
                tags |= operation["values"]
            case "status":
                status = operation["status"]
            case "metrics":
                for name, value in operation["values"].items():
                    if operation["step"] >= latest.get(name, (operation["step"], 0.0))[0]:
                        latest[name] = operation["step"], value
    metrics = of_kept_model({name: value for name, (_, value) in latest.items()}, tags)
    return RunRecord(sent.run_id if sent else None, creation["name"], status, params, metrics, tags)


def local_children(sweep_dir: Path) -> list[RunRecord]:
    """The runs whose folders lie directly in a sweep's folder, in natural order (2 before 10)."""
    folders = [path.parent for path in sweep_dir.glob(f"*/{JOURNAL}")]
    return [read_record(folder) for folder in sorted(folders, key=lambda path: _natural(path.name))]


def run_folders(roots: Iterable[Path]) -> dict[str, Path]:
    """The folders at or below `roots` that hold a run's journal, by the tag `reid.run_key` of the run."""
    found: dict[str, Path] = {}
    for path in (path for root in roots for path in root.rglob(JOURNAL)):
        try:
            found[str(Journal(path.parent).creation["run_key"])] = path.parent
        except NewerJournalError as error:
            logger.warning("%s", error)
        except (TrackingError, ValueError):
            continue  # a file of that name that is no journal
    return found


def fetch_checkpoint(store: Store, run_id: str, name: str = CHECKPOINT) -> Path:
    """A local path of the run's checkpoint, downloaded where the store is a server, and nothing beside it.

    It lies in the LoggedModel of the run, or, as older versions have it, among the run's own artifacts as
    `checkpoints/<name>`.

    Raises TrackingError when the store does not answer, or has no such run or artifact.
    """
    artifact = f"checkpoints/{name}"
    try:
        present = [item.path for item in store.client.list_artifacts(run_id, "checkpoints")]
        run = store.client.get_run(run_id)
        # A run of an older version that was resumed has both, and the model is the later one.
        if name == CHECKPOINT and (artifact not in present or outputs_of(run)):
            model = find_model(store.client, run)
            if model is not None:
                path = fetch_from_model(store, model)
                return path if path.is_file() else _in_its_folder(run) or path
        if artifact in present:
            return Path(store.client.download_artifacts(run_id, artifact))
        if name == CHECKPOINT and (found := _in_its_folder(run)) is not None:
            return found
    except Exception as error:
        raise _unreadable(store, f"{artifact} of run {run_id}", error) from error
    raise TrackingError(
        f"run {run_id} has no artifact {artifact} in {store.public_uri}, nor a model; it has "
        f"{', '.join(present) or 'no checkpoint'}. Name one of these, or a checkpoint file"
    )


def _in_its_folder(run: Run) -> Path | None:
    """The checkpoint in the folder of a run on this machine: `reid.clean` removes the second copy of it."""
    folders = run_folders([home() / "outputs", home() / "multirun"])
    folder = folders.get(run.data.tags.get(RUN_KEY, ""))
    return folder / CHECKPOINT if folder is not None and (folder / CHECKPOINT).is_file() else None


def model_paths(store: Store, run_id: str) -> list[str]:
    """The files of a run's LoggedModel; [] where it has none.

    Raises TrackingError when the store cannot tell.
    """
    try:
        model = find_model(store.client, store.client.get_run(run_id))
        if model is None:
            return []
        return [item.path for item in store.client.list_logged_model_artifacts(model.model_id)]
    except Exception as error:
        raise _unreadable(store, f"the model of run {run_id}", error) from error


def artifact_paths(store: Store, run_id: str, folder: str | None = None) -> list[str]:
    """The artifacts of a run, by their paths in it. Raises TrackingError when the store cannot tell."""
    try:
        items = store.client.list_artifacts(run_id, folder)
    except Exception as error:
        raise _unreadable(store, f"the artifacts of run {run_id}", error) from error
    nested = (artifact_paths(store, run_id, item.path) if item.is_dir else [item.path] for item in items)
    return [path for paths in nested for path in paths]


def _search(
    store: Store,
    experiment_ids: list[str],
    condition: str,
    newest_first: bool = False,
    names: Mapping[str, str] | None = None,
) -> Iterator[RunRecord]:
    token = None
    while True:
        page = store.client.search_runs(
            experiment_ids,
            condition,
            max_results=_PAGE,
            order_by=[f"attributes.start_time {'DESC' if newest_first else 'ASC'}"],
            page_token=token,
        )
        yield from (_record(run, (names or {}).get(run.info.experiment_id, "")) for run in page)
        token = page.token
        if not token:
            return


def _record(run: Run, experiment: str) -> RunRecord:
    data, info = run.data, run.info
    return RunRecord(
        info.run_id,
        info.run_name,
        info.status,
        dict(data.params),
        of_kept_model(data.metrics, data.tags),
        dict(data.tags),
        experiment,
        info.start_time / 1000 if info.start_time else None,
        info.end_time / 1000 if info.end_time else None,
        info.artifact_uri or "",
    )


def of_kept_model(metrics: Mapping[str, float], tags: Mapping[str, str]) -> dict[str, float]:
    """The metrics of a run, with the scores of the model that it keeps in the place of its last epoch's.

    See `Tracker.kept`. A score that the kept model has not does not stand in for it.
    """
    if KEPT_EPOCH not in tags:
        return dict(metrics)
    own = {name.removeprefix(KEPT): value for name, value in metrics.items() if name.startswith(KEPT)}
    splits = {f"{name.partition('/')[0]}/" for name in own}
    rest = {name: value for name, value in metrics.items() if not name.startswith((KEPT, *splits))}
    return rest | own


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def _unreadable(store: Store, what: str, error: Exception) -> TrackingError:
    return TrackingError(f"cannot read {what} from {store.public_uri}: {reason(error)}")
