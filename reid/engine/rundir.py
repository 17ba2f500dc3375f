"""The folder of a run: what it says of itself, and finding the one to resume."""

import json
import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from reid.data.files import path_problem
from reid.engine.errors import CheckpointError
from reid.formats import FormatError, format_problem
from reid.home import as_moved, in_this_home
from reid.regular import read_regular
from reid.tracking.journal import JOURNAL, Journal, under_way

log = logging.getLogger(__name__)

STATUS = "status.json"
#: Of that file, as `reid.formats` has it. 2: it has a number, and the epoch of the model.
FORMAT = 2
LAST = "last.pt"
#: Nothing takes that long to write.
HALF_WRITTEN_S = 3600


@dataclass
class RunStatus:
    """What became of a run: RUNNING (also after a hard kill), FINISHED, FAILED or KILLED."""

    status: str
    config_hash: str = ""
    overrides: list[str] = field(default_factory=list)
    name: str = ""
    run_id: str | None = None
    run_dir: str = ""
    data_root: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    error: str = ""
    data_fingerprint: str = ""
    code: str = ""  # `reid.tracking.sources.code` of what ran
    taken_from: str = ""  # a sweep's cell that another sweep had finished: the folder of that run
    epoch: int | None = None  # whose model `model.pt` is, of a training that came to its end

    def write(self, folder: Path) -> None:
        partial = folder / f".{STATUS}.partial"
        with partial.open("w") as file:
            file.write(json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())  # `last.pt` may go because of what stands here
        partial.replace(folder / STATUS)


def read_status(folder: Path) -> RunStatus | None:
    """The status that `folder` holds, or None where there is none that can be read.

    Raises:
        FormatError: a newer version wrote it.

    A run that ended while its store was away got its id later: the journal knows it.  Of a project that was
    moved, the places are those of now.
    """
    try:
        content = dict(json.loads(read_regular(folder / STATUS)))
        if problem := format_problem(folder / STATUS, content.pop("format", None), FORMAT):
            raise FormatError(problem)
        status = RunStatus(**content)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    if not _is_whole(status):
        return None
    if status.run_dir:
        old = Path(status.run_dir)
        new = _place_now(old, folder, status.taken_from)
        status.data_root = as_moved(status.data_root, old, new)
        status.run_dir = str(new)
        if status.taken_from:
            status.taken_from = str(new)
    if status.run_id is None and status.run_dir:
        sent = Journal(Path(status.run_dir)).sent()
        status.run_id = sent.run_id if sent else None
    return status


def _is_whole(status: RunStatus) -> bool:
    """Whether every field is of its kind, and every path one that a file may have."""
    values = asdict(status)
    overrides, scores, run_id = (values.pop(key) for key in ("overrides", "scores", "run_id"))
    return (
        status.status in ("RUNNING", "FINISHED", "FAILED", "KILLED")
        and all(isinstance(value, str) for value in values.values())
        and not any(path_problem(path) for path in (status.run_dir, status.data_root, status.taken_from))
        and isinstance(overrides, list)
        and all(isinstance(word, str) for word in overrides)
        and isinstance(scores, dict)
        and all(isinstance(value, int | float) for value in scores.values())
        and (run_id is None or isinstance(run_id, str))
    )


def _place_now(recorded: Path, folder: Path, taken_from: str) -> Path:
    """Where the run lies now whose status in `folder` says that it lay at `recorded`."""
    folder = folder.absolute()
    itself = recorded.name == folder.name and not taken_from and (folder / JOURNAL).exists()
    return folder if recorded == folder or itself else in_this_home(recorded)


#: Tells the fingerprint of the data of now; None: only what was trained on data at the same place is found.
Fingerprint = Callable[[], str] | None


def find_unfinished(
    config_hash: str,
    data_root: str,
    folder: Path,
    roots: Iterable[Path] | None,
    codes: Collection[str] | None = None,
    fingerprint: Fingerprint = None,
) -> Path | None:
    """The newest run of this config on these data with a checkpoint, neither finished nor under way.

    Looked for in `folder` itself, beside it, and under `roots` (`outputs/*`, `multirun/*/*`); roots None: in
    `folder` alone.  codes: only a run made by one of these.  Data are the same where they lie at the same
    place, or have the same fingerprint.
    """
    found: dict[Path, float] = {}
    for place, status in _statuses(folder, roots):
        checkpoint = place / LAST
        if status.config_hash != config_hash or not _by(codes, status):
            continue
        if (
            not checkpoint.exists()
            or Journal(place).in_use()
            or not _same_data(status, data_root, fingerprint)
        ):
            continue
        found[place.resolve()] = checkpoint.stat().st_mtime
    if not found:
        return None
    newest = max(found, key=lambda path: found[path])
    now = read_status(newest)
    return newest if now is not None and now.status != "FINISHED" else None


def find_finished(
    config_hash: str,
    data_root: str,
    folder: Path,
    roots: Iterable[Path] | None,
    codes: Collection[str] | None = None,
    fingerprint: Fingerprint = None,
) -> list[RunStatus]:
    """The finished runs of this config on these data, the newest first; all else as above."""
    found: dict[str, tuple[float, RunStatus]] = {}
    for place, status in _statuses(folder, roots):
        if status.status != "FINISHED" or status.config_hash != config_hash or not _by(codes, status):
            continue
        if _same_data(status, data_root, fingerprint):
            # What is only pointed at is found where it lies, unless that folder is gone.
            found.setdefault(status.run_dir, ((place / STATUS).stat().st_mtime, status))
    return [status for _, status in sorted(found.values(), key=lambda item: -item[0])]


def _by(codes: Collection[str] | None, status: RunStatus) -> bool:
    return codes is None or status.code in codes


def _same_data(status: RunStatus, data_root: str, fingerprint: Fingerprint) -> bool:
    if status.data_root == data_root:
        return True
    return bool(fingerprint and status.data_fingerprint and status.data_fingerprint == fingerprint())


def _statuses(folder: Path, roots: Iterable[Path] | None) -> Iterator[tuple[Path, RunStatus]]:
    """Every run folder that can be found, with what it says of itself."""
    places = {folder}
    for parent in () if roots is None else {folder.parent, *roots}:
        for pattern in (f"*/{STATUS}", f"*/*/{STATUS}"):
            places.update(path.parent for path in parent.glob(pattern))
    for place in sorted(places):
        try:
            status = read_status(place)
        except FormatError as error:  # one run of many: the others are found all the same
            log.warning("%s. It is left out here", error)
            continue
        if status is not None:
            yield place, status


def clear_partials(roots: Iterable[Path]) -> None:
    """Remove what killed runs left half written below `roots`, such as a first checkpoint.

    A run that is resumed clears its own folder; one that never was may have left any size.
    """
    for root in roots:
        for partial in (*root.glob("*/.*.partial"), *root.glob("*/*/.*.partial")):
            with suppress(OSError):  # another process may be at it too
                # By age too, since before its first checkpoint a run holds no lock.
                old = time.time() - partial.stat().st_mtime > HALF_WRITTEN_S
                if old and not under_way(partial.parent):
                    partial.unlink()


def run_of(checkpoint: Path) -> Path:
    """The folder of the run whose `last.pt` was named to be resumed.

    Raises:
        CheckpointError: no such file, or a file that holds no training state; it was removed once the run had
            finished.
    """
    path = checkpoint.expanduser().absolute()
    if path.is_dir():
        path = path / LAST
    if not path.is_file() and path.name == LAST:
        status = read_status(path.parent)
        if status is not None and status.status == "FINISHED":
            raise CheckpointError(
                f"resume={checkpoint}: this run is finished and its {LAST} is gone (keep_last=false removes "
                "it, and it may be deleted). model.pt holds the weights without the optimizer and the random "
                f"numbers, so no further epoch would be the one of that run. Set init_from={checkpoint} to "
                "begin a new run with its weights, or train anew with more epochs"
            )
    if not path.is_file():
        raise CheckpointError(
            f"resume={checkpoint}: no such checkpoint. Expected a run's folder, its {LAST}, or `auto` for "
            "the newest unfinished run of this config"
        )
    if path.name != LAST:
        raise CheckpointError(f"resume={checkpoint}: only a run's {LAST} holds what is needed to go on")
    return path.parent


def drop_last(folder: Path) -> bool:
    """Remove `last.pt` of a run that is finished, and say whether it went.

    What stands on the disk decides: the run says that it is FINISHED, and its `model.pt` is there. Both were
    flushed to the disk before, so that no crash finds neither.
    """
    status = read_status(folder)
    if status is None or status.status != "FINISHED" or not (folder / "model.pt").is_file():
        return False
    try:
        if os.name == "posix":  # the new name of the status reaches the disk before the old file leaves it
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        (folder / LAST).unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s could not be removed: %s", folder / LAST, error)
        return False
    return True
