"""Sending the journal of a run that has ended, or that died."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from reid.tracking.deliver import Delivery, deliver
from reid.tracking.errors import TrackingError
from reid.tracking.journal import Journal, status_change
from reid.tracking.moved import database_now
from reid.tracking.store import Store, default_store
from reid.tracking.uris import sqlite_file, sqlite_uri


@dataclass(frozen=True)
class LateDelivery:
    """delivery: what was sent. store: where to. died: whether the run had died and was marked FAILED now."""

    delivery: Delivery
    store: Store
    died: bool


def send_late(
    folder: Path, store: Store | None = None, again: bool = False, budget_s: float | None = None
) -> LateDelivery:
    """Send what the run in `folder` still has to send, to `store` (default: `store_of` the folder).

    A run whose process on this machine ended without closing it (a kill, a power cut) is marked FAILED first.
    again: send the whole journal, for a store that lost the run; what the store still has stays as it is.
    budget_s: stop after about so many seconds.
    Raises TrackingError when the run is still under way, or its store is not known.
    """
    journal = Journal(folder)
    store = store or store_of(folder)
    journal.acquire()
    try:
        died = _close_dead(journal)
        if again:
            journal.forget_sent()
        return LateDelivery(deliver(store, journal, budget_s), store, died)
    finally:
        journal.release()


def store_of(folder: Path) -> Store:
    """The store that the run in `folder` was last sent to, or else was meant for.

    Raises TrackingError where there is no run, or its store's password is needed again.
    """
    creation, sent = Journal(folder).creation, Journal(folder).sent()
    root = creation.get("artifact_root")
    uri = _quoted(creation["store"], root)
    last = sent.uri if sent else uri
    database = sqlite_file(last)
    if database is not None:
        moved = database_now(database, folder, sent.run_id if sent else None)
        last = last if moved == database else sqlite_uri(moved)
    store = default_store(folder, last) if last != uri else Store(uri, Path(root) if root else None)
    uri = store.uri
    if ":***@" not in uri:
        return store
    # The password was not written down.
    complete = Store(os.environ.get("MLFLOW_TRACKING_URI", ""), store.artifact_root)
    if complete.public_uri != uri:
        raise TrackingError(f"{uri} needs its password: give the whole URI by --uri or MLFLOW_TRACKING_URI")
    return complete


def _quoted(uri: str, root: str | None) -> str:
    """The URI of a journal's store. Older versions wrote the path of a sqlite file as it was: one that
    has its artifacts beside it when it is read so is meant so."""
    path = Path(uri.removeprefix("sqlite:///"))
    return sqlite_uri(path) if root and path.parent == Path(root).parent else uri


def _close_dead(journal: Journal) -> bool:
    """Mark a dead run. With its lock held here, no process of this machine writes it."""
    last = [operation for operation, _ in journal.read() if operation["op"] == "status"][-1:]
    if not last or last[0]["status"] != "RUNNING" or last[0]["host"] != socket.gethostname():
        return False
    journal.append({"op": "tags", "values": {"reid.error": "the process ended without closing the run"}})
    journal.append(status_change("FAILED"), durable=True)
    return True
