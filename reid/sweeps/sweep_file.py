"""What a sweep's folder says of the sweep: which cells it is made of, and what became of each."""

import json
import logging
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from reid.data.files import path_problem
from reid.engine.rundir import STATUS, RunStatus, read_status
from reid.formats import FormatError, format_problem
from reid.home import as_moved
from reid.regular import read_regular
from reid.sweeps.job_lock import occupied

log = logging.getLogger(__name__)

SWEEP = "sweep.json"
#: Of that file, as `reid.formats` has it. 2: it has a number.
FORMAT = 2

#: How the jobs of a sweep, which may be other processes, learn whose children they are.
PARENT_FOLDER = "REID_SWEEP_FOLDER"
SWEPT_KEYS = "REID_SWEPT_KEYS"
#: How the error of a job begins that no process was at.
NOT_BEGUN = "not begun"
#: The process that started them.
LAUNCHER = "REID_SWEEP_LAUNCHER"


@dataclass(frozen=True)
class SweepFile:
    """The cells of a sweep in the order of its jobs, each by its config hash and the folder of its data.

    code: what it was begun with, see `tracking.sources`.  experiment: what it is tracked under.  overrides:
    what makes each cell, as typed.  folder: where it lay when it was written, which tells that it was moved.
    """

    experiment: str
    code: str
    cells: list[list[str]] = field(default_factory=list)
    overrides: list[list[str]] = field(default_factory=list)
    folder: str = ""

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{SWEEP}.partial"
        content = {"format": FORMAT, **asdict(self), "folder": str(folder.absolute())}
        partial.write_text(json.dumps(content, indent=1) + "\n")
        partial.replace(folder / SWEEP)


def read_sweep(folder: Path) -> SweepFile | None:
    """The sweep that `folder` holds, or None where there is none that can be read.

    Where it was moved with its data, these lie where they are now.

    Raises:
        FormatError: a newer version wrote it.
    """
    try:
        content = dict(json.loads(read_regular(folder / SWEEP)))
        if problem := format_problem(folder / SWEEP, content.pop("format", None), FORMAT):
            raise FormatError(problem)
        sweep = SweepFile(**content)
        _check(sweep)
        old, new = sweep.folder or _old_place(folder), folder.absolute()
        cells = [[name, as_moved(root, Path(old), new)] for name, root in sweep.cells] if old else sweep.cells
        return replace(sweep, cells=cells, folder=str(new))
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def _check(sweep: SweepFile) -> None:
    """Raise TypeError or ValueError where a field is not of its kind."""
    texts = [sweep.experiment, sweep.code, sweep.folder]
    for some in (sweep.cells, sweep.overrides):
        if not isinstance(some, list) or not all(isinstance(one, list) for one in some):
            raise TypeError("its cells are no lists")
        texts += [text for one in some for text in one]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("it holds something else than texts")
    for path in (sweep.folder, *(root for _, root in sweep.cells)):
        if problem := path_problem(path):
            raise ValueError(problem)


def _old_place(folder: Path) -> str:
    """Where a sweep lay that does not say so itself, as the status of one of its cells has it, or ""."""
    for path in sorted(folder.glob("*/status.json")):
        # One that cannot be read says nothing.
        with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
            place = Path(json.loads(read_regular(path))["run_dir"])
            if place.parent.name == folder.name:
                return str(place.parent)
    return ""


def find_sweep(wanted: SweepFile, root: Path, codes: Collection[str] | None = None) -> Path | None:
    """The newest folder under `root` that holds this sweep: the same cells and experiment.

    codes: only one that was begun with one of these.
    """
    same = []
    for path in root.glob(f"*/{SWEEP}"):
        try:
            found = read_sweep(path.parent)
        except FormatError as error:  # one sweep of many
            log.warning("%s. It is left out here", error)
            continue
        if found is None or (found.experiment, found.cells) != (wanted.experiment, wanted.cells):
            continue
        if codes is None or found.code in codes:
            same.append(path)
    return max(same, key=lambda path: path.stat().st_mtime).parent if same else None


def job_statuses(folder: Path) -> list[RunStatus]:
    """What became of each job of the sweep in `folder`, in their order.

    One that a process is at is RUNNING; of the others, one without a status was killed, one without a folder
    was not begun: both are FAILED.
    """
    jobs = {int(path.name): path for path in folder.glob("*") if path.name.isdigit() and path.is_dir()}
    sweep = read_sweep(folder)
    overrides = sweep.overrides if sweep else []
    statuses = []
    for number in sorted({*jobs, *range(len(overrides))}):
        words = overrides[number] if number < len(overrides) else []
        status = read_status(jobs[number]) if number in jobs else None
        done = status is not None and status.status == "FINISHED"
        if number in jobs and not done and occupied(jobs[number]):
            status = status or RunStatus("RUNNING", overrides=words)
            status.status, status.error = "RUNNING", "under way"
        elif status is None:
            error = f"no {STATUS}: the job was killed" if number in jobs else NOT_BEGUN
            status = RunStatus("FAILED", overrides=words, error=error)
        elif status.status == "RUNNING":
            status.status, status.error = "FAILED", status.error or "the job was killed"
        statuses.append(status)
    return statuses


def failed_jobs(folder: Path) -> list[RunStatus]:
    """The jobs of the sweep in `folder` that did not finish."""
    return [job for job in job_statuses(folder) if job.status != "FINISHED"]
