"""Sending a journal to an MLflow store, so that sending anything twice changes nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from reid.tracking.data_input import send_inputs
from reid.tracking.errors import TrackingError, has_remedy, hide_passwords, is_deleted, reason
from reid.tracking.journal import Journal, Operation, Sent
from reid.tracking.logged_model import send_model
from reid.tracking.store import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_KEY = "reid.run_key"
PARENT_RUN = "mlflow.parentRunId"
#: Operations whose content lies in files.
_UPLOADS = ("artifact", "model")
# MLflow's limits for one log_batch.
_MAX_PARAMS = _MAX_TAGS = 100
_MAX_METRICS = 1000

#: What errors of a database end with, and the kinds of them that one of the values is to blame for.
_SQLALCHEMY = "sqlalche.me/e/"
_OF_A_VALUE = ("/9h9h", "/gkpj")  # DataError, IntegrityError

_Item = TypeVar("_Item")


@dataclass
class Delivery:
    """What one attempt did. `left` operations wait because of `error`, or (None) because time was up."""

    sent: int = 0
    left: int = 0
    error: Exception | None = None
    refused: list[str] = field(default_factory=list)


def ensure_run(store: Store, journal: Journal) -> Sent:
    """The run of this journal in `store`, created there (and its parent before it) if it is missing.

    Found again by its `reid.run_key`, so a creation whose answer was lost is not repeated. Safe from several
    processes on one journal. Raises what MLflow raises when the store does not answer.
    """
    with journal.create_lock:
        sent = journal.sent()
        if sent is not None and sent.uri == store.public_uri:
            return sent
        creation = journal.creation
        experiment_id = store.prepare(creation["experiment"])
        run_id = find_run(store.client, experiment_id, creation["run_key"])
        if sent is not None and run_id == sent.run_id:  # the same store, which was moved
            sent = Sent(store.public_uri, run_id, sent.offset)
            journal.save_sent(sent)
            return sent
        if run_id is None:
            tags = {**creation["tags"], RUN_KEY: creation["run_key"]}
            if creation.get("parent"):
                tags |= _parent_tags(store, journal, creation, experiment_id)
            run = store.client.create_run(
                experiment_id, start_time=creation["time"], tags=tags, run_name=creation["name"]
            )
            run_id = str(run.info.run_id)
        sent = Sent(store.public_uri, run_id)
        journal.save_sent(sent)
        return sent


def find_run(client: MlflowClient, experiment_id: str, run_key: str) -> str | None:
    """The id of the run that carries this key, or None."""
    runs = client.search_runs([experiment_id], f"tags.`{RUN_KEY}` = '{run_key}'", max_results=1)
    return str(runs[0].info.run_id) if runs else None


def deliver(store: Store, journal: Journal, budget_s: float | None = None) -> Delivery:
    """Send what `store` does not have yet, in order, and stop after about `budget_s` seconds.

    An artifact that cannot be sent does not hold back the numbers and the status behind it; from it on all is
    sent again the next time.  Never raises because of the store: the operations stay in the journal and the
    error is in the answer.
    """
    delivery = Delivery()
    started = time.monotonic()
    pending: list[tuple[Operation, int]] = []
    try:
        sent = ensure_run(store, journal)
        pending = list(journal.read(sent.offset))
        offset = sent.offset
        last_upload = {_upload_key(operation): index for index, (operation, _) in enumerate(pending)}
        try:
            for index, (operation, after) in enumerate(pending):
                upload = operation["op"] in _UPLOADS
                # Of a file logged several times only the present content can be sent: once is enough.
                if not upload or last_upload[_upload_key(operation)] == index:
                    if upload and delivery.error is not None:
                        continue  # where one cannot be stored the others wait too
                    try:
                        _send(store.client, sent.run_id, operation, journal.folder, delivery)
                    except Exception as error:
                        if not upload:
                            raise
                        delivery.error = _clear(error)
                        continue
                delivery.sent += 1
                if delivery.error is None:
                    offset = after
                if budget_s is not None and time.monotonic() - started > budget_s:
                    break
        finally:
            if offset != sent.offset:
                journal.save_sent(Sent(sent.uri, sent.run_id, offset))
    except Exception as error:  # databases, file systems and networks all have their own
        delivery.error = _clear(error)
        pending = pending or list(journal.read())
    delivery.left = len(pending) - delivery.sent
    return delivery


def _send(client: MlflowClient, run_id: str, operation: Operation, folder: Path, delivery: Delivery) -> None:
    """Send one operation; where the store refuses a batch for one of its values, the others are sent.

    What is refused is named in `delivery`.
    """
    try:
        _apply(client, run_id, operation, folder)
    except Exception as error:
        if not _is_refusal(error):
            raise
        values = list(operation.get("values", {}).items())
        if len(values) > 1:
            for half in (values[: len(values) // 2], values[len(values) // 2 :]):
                _send(client, run_id, {**operation, "values": dict(half)}, folder, delivery)
            return
        what = str(operation.get("values") or operation.get("path") or "")
        delivery.refused.append(f"{operation['op']} {what[:120]}: {hide_passwords(str(error))}")


def _apply(client: MlflowClient, run_id: str, operation: Operation, folder: Path) -> None:
    from mlflow.entities import Metric, Param, RunTag

    match operation["op"]:
        case "inputs":
            send_inputs(client, run_id, operation)
        case "model":
            send_model(client, run_id, operation, folder)
        case "create":
            pass  # ensure_run has done it
        case "params":
            for batch in _batches(operation["values"].items(), _MAX_PARAMS):
                client.log_batch(run_id, params=[Param(key, value) for key, value in batch])
        case "metrics":
            when, step = operation["time"], operation["step"]
            for batch in _batches(operation["values"].items(), _MAX_METRICS):
                client.log_batch(run_id, metrics=[Metric(key, value, when, step) for key, value in batch])
        case "tags":
            for batch in _batches(operation["values"].items(), _MAX_TAGS):
                client.log_batch(run_id, tags=[RunTag(key, value) for key, value in batch])
        case "artifact":
            path = folder / operation["path"]
            if not path.exists():
                raise TrackingError(f"{path} is no longer there, so it cannot be sent")
            client.log_artifact(run_id, str(path), operation["folder"] or None)
        case "lost":
            for lost in _lost_runs(client, run_id, operation):
                client.set_tag(lost, "reid.error", "its process was killed, its folder removed; begun anew")
                client.set_terminated(lost, "KILLED", end_time=operation["time"])
        case "status" if operation["status"] == "RUNNING":
            client.update_run(run_id, status="RUNNING")
        case "status":
            client.set_terminated(run_id, operation["status"], end_time=operation["time"])
        case unknown:
            raise TrackingError(f"operation {unknown!r} in the journal is not known to this version")


def _lost_runs(client: MlflowClient, run_id: str, operation: Operation) -> list[str]:
    """The runs in whose place this one started: the one that is named, and those of the same cell that are
    still RUNNING, though their folder is this one's."""
    run = client.get_run(run_id)
    found = [operation["run_id"]] if operation.get("run_id") else []
    parent = run.data.tags.get(PARENT_RUN)
    cell = {key: value for key, value in operation["cell"].items() if value}
    if parent and cell:
        same = " and ".join(
            f"tags.`{key}` = '{value}'" for key, value in {PARENT_RUN: parent, **cell}.items()
        )
        runs = client.search_runs([run.info.experiment_id], f"{same} and attributes.status = 'RUNNING'")
        found += [str(each.info.run_id) for each in runs]
    return [each for each in dict.fromkeys(found) if each != run_id]


def _is_refusal(error: Exception) -> bool:
    """Whether repeating the operation can never help, so that the ones behind it should not wait for it."""
    if isinstance(error, TrackingError):
        return True
    if _SQLALCHEMY in str(error) and not any(kind in str(error) for kind in _OF_A_VALUE):
        return False  # its database broke off, which MLflow calls a bad request too
    code = getattr(error, "error_code", None)
    # Said of a run that somebody deleted in the UI; it can be restored there.
    return code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST") and not is_deleted(error)


def _clear(error: Exception) -> Exception:
    """The same, in our words where MLflow's say neither what happened nor what to do."""
    return TrackingError(reason(error)) if has_remedy(error) else error


def _parent_tags(store: Store, journal: Journal, creation: Operation, experiment_id: str) -> dict[str, str]:
    parent = creation["parent"]
    journal = Journal(journal.folder / parent["folder"])
    if journal.path.exists():
        run_id: str | None = ensure_run(store, journal).run_id
    else:
        run_id = find_run(store.client, experiment_id, parent["run_key"])
    # A parent whose folder was thrown away before it was ever sent: the child is worth keeping without it.
    return {"reid.parent_key": parent["run_key"]} if run_id is None else {PARENT_RUN: run_id}


def _upload_key(operation: Operation) -> tuple[str, str] | None:
    return (operation["path"], operation["folder"]) if operation["op"] in _UPLOADS else None


def _batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
