"""One tracked run, written to its journal first and to the MLflow store as soon as that answers.

`open_parent` opens the run of a whole sweep; a `SilentTracker` is for processes whose run another one writes.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import threading
import time
import traceback
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from reid.tracking.courier import Courier
from reid.tracking.data_input import DataInput, input_operation
from reid.tracking.errors import TrackingError, hide_passwords, reason
from reid.tracking.journal import (
    FORMAT,
    Journal,
    Operation,
    lost_run,
    now_ms,
    parent_reference,
    replace_text,
    status_change,
)
from reid.tracking.logged_model import FOLDER as MODEL_FOLDER
from reid.tracking.logged_model import model_operation, write_model_files
from reid.tracking.machine import hide_home
from reid.tracking.names import KEPT, KEPT_EPOCH, MAX_PARAM, MAX_TAG, as_text, check_names, cut
from reid.tracking.store import Store

logger = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]

_RETRY_S = 30.0
# An attempt may take long (a locked database: 20 s); then the next one waits longer.
_RETRY_FACTOR = 10.0
# What a run may wait at its start for the tables of its database to be looked at.
_LOOKS_S = 30.0


class Tracker:
    """A run under way: `Tracker.start` opens it, `finish` or leaving the `with` block closes it.

    Calls never raise because of the store; they raise TrackingError for what is wrong here (a bad name, a
    finished run).  What a dead or slow store may cost is bounded: what is left then stays in the journal.
    """

    def __init__(self, store: Store, journal: Journal) -> None:
        """Use `start`; `journal` is acquired and begins with the creation of the run."""
        self._store = store
        self._journal = journal
        self._params: dict[str, str] = {}
        self._points: set[tuple[str, int, float]] = set()
        self._unwritten: list[tuple[Operation, bool]] = []  # what a full disk has refused so far
        self._retry_at = 0.0
        self._courier = Courier(store, journal)
        self._failing = False
        self._finished = False
        self._creation = journal.creation
        for operation, _ in journal.read():
            self._remember(operation)

    @classmethod
    def start(
        cls,
        store: Store,
        experiment: str,
        run_dir: Path,
        name: str,
        tags: Mapping[str, object] | None = None,
        params: Mapping[str, object] | None = None,
        parent: Path | None = None,
        resume: bool = False,
    ) -> Tracker:
        """Open a run whose journal lies in `run_dir`.

        parent: the folder of the sweep that this run belongs to (where `open_parent` put its journal).
        resume: go on with the run that `run_dir` already holds, if it holds one; the same MLflow run is then
        RUNNING again.
        Raises TrackingError when the folder holds a run and `resume` is False, another process writes it, or
        another version of MLflow has made the store's tables.
        """
        check_names(tags or {}, "tag")
        check_names(params or {}, "param")
        _refuse_other_schema(store)
        creation: Operation = {
            "op": "create",
            "format": FORMAT,
            "time": now_ms(),
            "run_key": uuid.uuid4().hex,
            "experiment": experiment,
            "name": name,
            "tags": {"reid.kind": "run", **as_text(tags or {}, MAX_TAG)},
            "parent": parent_reference(run_dir, parent),
            "store": store.public_uri,
            "artifact_root": str(store.artifact_root) if store.artifact_root else None,
        }
        journal = Journal(run_dir)
        journal.acquire()
        try:
            known = journal.path.exists() and journal.path.stat().st_size > 0
            lost = lost_run(journal, parent, creation, known)
            known = known and journal.has_beginning
            if known and not resume:
                raise TrackingError(
                    f"{journal.folder} already holds a tracked run. Resume it (resume=auto), or choose "
                    "another folder"
                )
            if not known:
                journal.append(creation, durable=True)
            tracker = cls(store, journal)
        except BaseException:
            journal.release()
            raise
        tracker._record(status_change("RUNNING"))
        if lost is not None:
            tracker._record(lost)
        if known and tags:
            tracker.tags(tags)
        if params:
            tracker.params(params)
        return tracker

    @property
    def run_id(self) -> str | None:
        """The id of the MLflow run, or None as long as no store has answered."""
        sent = self._journal.sent()
        return sent.run_id if sent and sent.uri == self._store.public_uri else None

    @property
    def run_key(self) -> str:
        """The key that this run got here; the MLflow run carries it as the tag `reid.run_key`."""
        return str(self._creation["run_key"])

    @property
    def folder(self) -> Path:
        return self._journal.folder

    def params(self, values: Mapping[str, object]) -> None:
        """Log flat parameters. A value over 6000 characters is cut and says so.

        MLflow never changes a parameter: one that differs from before (a resumed run) becomes the tag
        `reid.changed/<name>`.
        """
        check_names(values, "param")
        texts = as_text(values, MAX_PARAM)
        changed = {key: text for key, text in texts.items() if self._params.get(key, text) != text}
        new = {key: text for key, text in texts.items() if key not in self._params}
        if new:
            self._record({"op": "params", "values": new})
        if changed:
            self.tags({f"reid.changed/{key}": text for key, text in changed.items()})

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log the numbers of one step (an epoch, counted from 1), all in one request.

        NaN and infinity are left out, since no filter of MLflow ever matches them; the tag `reid.diverged`
        says so.
        """
        check_names(values, "metric")
        numbers = {key: float(value) for key, value in values.items()}
        finite = {key: value for key, value in numbers.items() if math.isfinite(value)}
        # An epoch that a resumed run repeats with the same result is the same point.
        new = {key: value for key, value in finite.items() if (key, step, value) not in self._points}
        if new:
            self._record({"op": "metrics", "time": now_ms(), "step": step, "values": new}, durable=True)
        if len(finite) < len(numbers):
            self.tags({"reid.diverged": "true"})

    def kept(self, scores: Mapping[str, float], epoch: int) -> None:
        """Log the scores of the model that the run keeps, where that is not the last epoch's by its kind.

        The store shows as a metric's value that of its last step, which is another model's. So these get a
        name of their own, `kept/val/mAP`; `reid.tracking.records` puts them in the place of the others.
        """
        self.metrics({f"{KEPT}{name}": value for name, value in scores.items()}, epoch)
        self.tags({KEPT_EPOCH: epoch})

    def tags(self, values: Mapping[str, object]) -> None:
        """Set tags; a value over 5000 characters is cut and says so."""
        check_names(values, "tag")
        self._record({"op": "tags", "values": as_text(values, MAX_TAG)})

    def description(self, markdown: str) -> None:
        """Set the text that the UI shows at the top of the run."""
        self.tags({"mlflow.note.content": markdown})

    def artifact(self, path: Path, folder: str = "") -> None:
        """Log a file or folder under the artifact folder `folder` ("" is the top).

        What is sent is the content at the time of sending, so keep the file. Raises TrackingError when there
        is none.
        """
        if folder:
            check_names([folder], "artifact folder")
        if not path.exists():
            raise TrackingError(f"artifact {path} does not exist. Write it before it is logged")
        resolved = path.resolve()
        inside = resolved.is_relative_to(self.folder)
        # Relative, so that a run folder that was moved can still be sent.
        stored = resolved.relative_to(self.folder) if inside else resolved
        self._record({"op": "artifact", "path": stored.as_posix(), "folder": folder})

    def inputs(self, inputs: Sequence[DataInput]) -> None:
        """Name the data that the run reads, by their digests. Naming them again changes nothing."""
        check_names([one.name for one in inputs], "dataset")
        self._record(input_operation(inputs))

    def model(
        self, checkpoint: Path, card: Path, *, height: int, width: int, embedding_size: int, step: int
    ) -> None:
        """Log `checkpoint`, which lies in the run's folder, as the trained model of the run.

        card: its Markdown card. height, width: of the model's images. step: the epochs it was trained for.
        What is sent is the content at the time of sending. A full disk is only warned of; then the checkpoint
        is an artifact of the run.
        """
        folder = self.folder / MODEL_FOLDER
        try:
            write_model_files(folder, height, width, embedding_size, card)
        except OSError as error:
            logger.warning("%s could not be written: %s", folder, error)
            self.artifact(checkpoint, "checkpoints")
        else:
            self._record(model_operation(checkpoint, folder, self.folder, step))

    def text(self, text: str, name: str) -> Path:
        """Write `text` to `name` (it may hold folders) in the run's folder and log it under the same name.

        A full disk is only warned of. Returns the path.
        """
        check_names([name], "artifact")
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(path, text)
        except OSError as error:
            logger.warning("%s could not be written: %s", path, error)
        else:
            self.artifact(path, name.rpartition("/")[0])
        return path

    def json(self, value: object, name: str) -> Path:
        """The same for a value that JSON can hold."""
        return self.text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", name)

    def finish(self, status: Status = "FINISHED") -> None:
        """Close the run with this status and send what still waits. A second call does nothing.

        Raises OSError where a full disk kept back what belongs to a FINISHED run: it has to be resumed.
        """
        if self._finished:
            return
        self._record(status_change(status), durable=True, last=True)
        self._finished = True
        self._journal.release()
        if self._failing:
            logger.warning("not all of this run could be sent. Later: python -m reid.sync %s", self.folder)
        if self._unwritten and status == "FINISHED":
            raise OSError(
                errno.ENOSPC,
                f"{len(self._unwritten)} operations of the run were not written",
                str(self.folder),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        elif not isinstance(error, Exception):  # KeyboardInterrupt, SystemExit
            self.finish("KILLED")
        elif not self._finished:
            self.tags({"reid.error": cut(_first_line(error), 500)})
            self.text(hide_home(hide_passwords("".join(traceback.format_exception(error)))), "traceback.txt")
            self.finish("FAILED")

    def _record(self, operation: Operation, durable: bool = False, last: bool = False) -> None:
        if self._finished:
            raise TrackingError(f"the run in {self.folder} is finished: start it with resume=True")
        self._remember(operation)
        self._unwritten.append((operation, durable))
        try:
            self._journal.begin_again(self._creation)
            while self._unwritten:
                self._journal.append(*self._unwritten[0])
                del self._unwritten[0]
        except OSError as error:
            logger.warning("%s: %s not written yet: %s", self._journal.path, operation["op"], error)
        self._send(last)

    def _remember(self, operation: Operation) -> None:
        if operation["op"] == "params":
            self._params.update(operation["values"])
        elif operation["op"] == "metrics":
            self._points.update((key, operation["step"], value) for key, value in operation["values"].items())

    def _send(self, last: bool) -> None:
        if time.monotonic() < self._retry_at and not last:
            return
        sent = self._courier.send(last)
        if sent is None:
            self._complain("it is slow")
            return
        delivery, cost = sent
        for refusal in delivery.refused:
            logger.warning("the tracking store refused %s", refusal)
        if delivery.error is not None:
            self._retry_at = time.monotonic() + max(_RETRY_S, _RETRY_FACTOR * cost)
            self._complain(
                str(delivery.error)
                if isinstance(delivery.error, TrackingError)
                else _first_line(delivery.error)
            )
        elif self._failing and not delivery.left:
            logger.info("the tracking store answers again")
            self._failing = False

    def _complain(self, why: str) -> None:
        if not self._failing:  # once for each outage
            logger.warning(
                "the tracking store %s does not take this run for now (%s). Going on; all is kept in %s "
                "and sent when it answers, or later by: python -m reid.sync",
                self._store.public_uri,
                cut(why, 300),
                self._journal.path,
            )
        self._failing = True


class SilentTracker(Tracker):
    """Takes what a `Tracker` takes and keeps nothing: of processes that train together, one writes."""

    def __init__(self) -> None:
        self._finished = False

    @property
    def run_id(self) -> None:
        return None

    @property
    def run_key(self) -> str:
        return ""

    def params(self, values: Mapping[str, object]) -> None: ...

    def metrics(self, values: Mapping[str, float], step: int) -> None: ...

    def kept(self, scores: Mapping[str, float], epoch: int) -> None: ...

    def tags(self, values: Mapping[str, object]) -> None: ...

    def artifact(self, path: Path, folder: str = "") -> None: ...

    def inputs(self, inputs: Sequence[DataInput]) -> None: ...

    def model(
        self, checkpoint: Path, card: Path, *, height: int, width: int, embedding_size: int, step: int
    ) -> None: ...

    def text(self, text: str, name: str) -> Path:
        return Path(name)

    def finish(self, status: Status = "FINISHED") -> None: ...


def open_parent(
    store: Store,
    experiment: str,
    sweep_dir: Path,
    name: str,
    tags: Mapping[str, object] | None = None,
    description: str = "",
    resume: bool = False,
) -> Tracker:
    """Open the run that stands for a whole sweep; its children are started with `parent=sweep_dir`."""
    parent = Tracker.start(
        store, experiment, sweep_dir, name, tags={**(tags or {}), "reid.kind": "sweep"}, resume=resume
    )
    if description:
        parent.description(description)
    return parent


def _refuse_other_schema(store: Store) -> None:
    """A database that cannot be reached now, or not in time, is no reason to refuse a run."""
    refusals: list[TrackingError] = []

    def look() -> None:
        try:
            store.refuse_other_schema()
        except TrackingError as error:
            refusals.append(error)
        except Exception as error:  # databases, file systems and networks all have their own
            logger.debug("the tables of %s could not be looked at: %s", store.public_uri, reason(error))

    if not store.is_server and not store.is_unwritten:
        looking = threading.Thread(target=look, daemon=True, name="tracking")
        looking.start()
        looking.join(_LOOKS_S)
    if refusals:
        raise refusals[0]


def _first_line(error: BaseException) -> str:
    return hide_home(hide_passwords(f"{type(error).__name__}: {error}".splitlines()[0]))
