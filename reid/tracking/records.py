"""Reading runs back: from the store, or from the journals on disk."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from reid.tracking.deliver import PARENT_RUN, RUN_KEY
from reid.tracking.errors import TrackingError
from reid.tracking.journal import JOURNAL, Journal
from reid.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Run

_PAGE = 200


@dataclass(frozen=True)
class RunRecord:
    """One run as a table row. `metrics` holds the last value of each; `run_id` is None before it was sent."""

    run_id: str | None
    name: str
    status: str
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


def list_runs(store: Store, experiment: str, tags: Mapping[str, str] | None = None) -> list[RunRecord]:
    """The runs of an experiment that carry all these tags, oldest first; [] if there is no such experiment.

    Raises TrackingError when the store does not answer.
    """
    conditions = [f"tags.`{name}` = '{value}'" for name, value in (tags or {}).items()]
    try:
        found = store.client.get_experiment_by_name(experiment)
        if found is None:
            return []
        return list(_search(store, found.experiment_id, " and ".join(conditions)))
    except Exception as error:
        raise _unreadable(store, f"the runs of {experiment!r}", error) from error


def children(store: Store, parent_run_id: str) -> list[RunRecord]:
    """The children of a sweep's run, oldest first. Raises TrackingError when the store cannot tell."""
    try:
        experiment_id = store.client.get_run(parent_run_id).info.experiment_id
        return list(_search(store, experiment_id, f"tags.`{PARENT_RUN}` = '{parent_run_id}'"))
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
    metrics = {name: value for name, (_, value) in latest.items()}
    return RunRecord(sent.run_id if sent else None, creation["name"], status, params, metrics, tags)


def local_children(sweep_dir: Path) -> list[RunRecord]:
    """The runs whose folders lie directly in a sweep's folder, in natural order (2 before 10)."""
    folders = [path.parent for path in sweep_dir.glob(f"*/{JOURNAL}")]
    return [read_record(folder) for folder in sorted(folders, key=lambda path: _natural(path.name))]


def fetch_checkpoint(store: Store, run_id: str, name: str = "model.pt") -> Path:
    """A local path of the run's artifact `checkpoints/<name>`, downloaded where the store is a server.

    Raises TrackingError when the store does not answer, or has no such run or artifact.
    """
    artifact = f"checkpoints/{name}"
    try:
        present = [item.path for item in store.client.list_artifacts(run_id, "checkpoints")]
        if artifact not in present:
            raise TrackingError(
                f"run {run_id} has no artifact {artifact} in {store.public_uri}; it has "
                f"{', '.join(present) or 'no checkpoint'}. Name one of these, or a checkpoint file"
            )
        return Path(store.client.download_artifacts(run_id, artifact))
    except TrackingError:
        raise
    except Exception as error:
        raise _unreadable(store, f"{artifact} of run {run_id}", error) from error


def _search(store: Store, experiment_id: str, condition: str) -> Iterator[RunRecord]:
    token = None
    while True:
        page = store.client.search_runs(
            [experiment_id],
            condition,
            max_results=_PAGE,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        yield from map(_record, page)
        token = page.token
        if not token:
            return


def _record(run: Run) -> RunRecord:
    data = run.data
    return RunRecord(
        run.info.run_id,
        run.info.run_name,
        run.info.status,
        dict(data.params),
        dict(data.metrics),
        dict(data.tags),
    )


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def _unreadable(store: Store, what: str, error: Exception) -> TrackingError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return TrackingError(f"cannot read {what} from {store.public_uri}: {reason}")
