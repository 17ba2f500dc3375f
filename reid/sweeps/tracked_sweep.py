"""A sweep that was run: found by the folder or the run id of its parent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reid.config.schema import RUN_ID
from reid.home import home
from reid.tracking import JOURNAL, Store, TrackingError, default_store, read_record, read_run, store_of
from reid.tracking.journal import Journal

#: Tags of the parent: what the report is called, and what was swept on what.
NAME_TAG, KEYS_TAG, SPLIT_TAG = "reid.report", "reid.swept", "reid.score_split"


@dataclass(frozen=True)
class Sweep:
    """A sweep as it was found: `folder` is None where only the store knows it, `run_id` where it does not."""

    experiment: str
    tags: dict[str, str]
    store: Store
    run_id: str | None
    folder: Path | None

    @property
    def keys(self) -> list[str]:
        return [key for key in self.tags.get(KEYS_TAG, "").split(", ") if key]

    @property
    def split(self) -> str:
        return self.tags.get(SPLIT_TAG, "test")


def find_sweep(name: str, uri: str | None = None) -> Sweep:
    """The sweep of this parent: a folder, or a run id, whose folder is used where it is still there.

    Raises:
        TrackingError: there is no such sweep.
    """
    folder = Path(name).expanduser().absolute()
    if RUN_ID.fullmatch(name) and not folder.exists():
        found = _folder_of(name)
        if found is None:
            store = default_store(home(), uri)
            record, experiment = read_run(store, name)
            if record.tags.get("reid.kind") != "sweep":
                raise TrackingError(f"run {name} ({record.name}) is not the parent of a sweep")
            return Sweep(experiment, record.tags, store, name, None)
        folder = found
    if not (folder / JOURNAL).is_file():
        raise TrackingError(
            f"{name} is no sweep: expected the id of a parent run (32 hexadecimal digits), or a folder such "
            "as multirun/2026-01-31_12-00-00-000000"
        )
    record = read_record(folder)
    if record.tags.get("reid.kind") != "sweep":
        raise TrackingError(f"{name} is a single run. Name the folder of the sweep that it belongs to")
    store = default_store(home(), uri) if uri else store_of(folder)
    return Sweep(str(Journal(folder).creation["experiment"]), record.tags, store, record.run_id, folder)


def _folder_of(run_id: str) -> Path | None:
    """The folder of a sweep under multirun/ that is still there, by the id of its parent run."""
    for path in (home() / "multirun").glob(f"*/{JOURNAL}"):
        sent = Journal(path.parent).sent()
        if sent is not None and sent.run_id == run_id:
            return path.parent
    return None
