"""The folder of a run: what it says of itself, and finding the one to resume."""

import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from reid.data.files import path_problem
from reid.engine.errors import CheckpointError
from reid.home import as_moved, in_this_home
from reid.regular import read_regular
from reid.tracking.journal import JOURNAL, Journal, under_way

STATUS = "status.json"
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

    def write(self, folder: Path) -> None:
        partial = folder / f".{STATUS}.partial"
        partial.write_text(json.dumps(asdict(self), indent=2) + "\n")
        partial.replace(folder / STATUS)


def read_status(folder: Path) -> RunStatus | None:
    """The status that `folder` holds, or None where there is none that can be read.

    A run that ended while its store was away got its id later: the journal knows it.  Of a project that was
    moved, the places are those of now.
    """
    try:
        status = RunStatus(**json.loads(read_regular(folder / STATUS)))
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
        status = read_status(place)
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
        CheckpointError: no such file, or a file that holds no training state.
    """
    path = checkpoint.expanduser().absolute()
    if path.is_dir():
        path = path / LAST
    if not path.is_file():
        raise CheckpointError(
            f"resume={checkpoint}: no such checkpoint. Expected a run's folder, its {LAST}, or `auto` for "
            "the newest unfinished run of this config"
        )
    if path.name != LAST:
        raise CheckpointError(f"resume={checkpoint}: only a run's {LAST} holds what is needed to go on")
    return path.parent
