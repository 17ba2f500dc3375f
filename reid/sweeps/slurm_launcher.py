"""Hydra's launcher for Slurm, as a sweep needs it: no cell twice, and every end in words.

The plugin's own launcher submits all cells each time, asks `sacct` for their states, which knows nothing on a
cluster without accounting, and gives up at the first job that was killed. Its keys are kept.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher
from omegaconf import OmegaConf
from rich.text import Text
from submitit.core.utils import FailedJobError, FailedSubmissionError, JobPaths, pickle_load

from reid.engine.rundir import RunStatus, read_status
from reid.engine.stop import Stopped
from reid.sweeps.slurm import (
    SUBMITTED,
    Queued,
    SlurmError,
    Submission,
    cancel,
    in_words,
    jobs_of,
    outside_of_a_job,
    ranges,
    read_jobs,
    warning_signals,
    write_jobs,
)
from reid.sweeps.sweep_file import SWEPT_KEYS
from reid.terminal import Terminal

#: Seconds between two looks at the results, which lie on the disk, and between two questions to Slurm.
LOOK_EVERY_S = 1.0
ASK_EVERY_S = 10.0

#: Seconds for which a job that has ended may leave its result unseen: a shared disk shows it late, and a job
#: that goes back into the queue is for a moment as one that has ended.
GRACE_S = 15.0

#: What Slurm writes into the log of a job that it kills for memory.
OVER_MEMORY = "exceeded memory limit"


@dataclass
class Waiting:
    """A cell that a job of Slurm's is for."""

    submission: Submission
    overrides: Sequence[str]
    paths: JobPaths
    ended_at: float | None = None


class CellLauncher(SlurmLauncher):
    """Submits the cells that are not with Slurm yet, and waits for all of them."""

    def __call__(self, *arguments: Any, **options: Any) -> JobReturn:
        """In the job: run the cell. Slurm's warning before the end saves it and puts the job back."""
        try:
            return super().__call__(*arguments, **options)
        except Stopped as stopped:
            if stopped.signum in warning_signals():
                handler = signal.getsignal(stopped.signum)
                assert callable(handler)  # submitit's own
                handler(stopped.signum, None)
            sys.exit(stopped.exit_code)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        assert self.config is not None
        folder = Path(str(self.config.hydra.sweep.dir)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        cells = {initial_job_idx + number: words for number, words in enumerate(job_overrides)}
        sweep = _Sweep(folder, bool(OmegaConf.select(self.config, "sweep.fail_fast", default=False)))
        try:
            sweep.find(cells)
            rest = {cell: words for cell, words in cells.items() if cell not in sweep.waiting}
            if rest:
                sweep.submitted(rest, self._submit(rest), int(self.params.get("array_parallelism") or 0))
            sweep.wait()
        except Stopped:
            sweep.leave()
            raise
        return [_done(words) for words in job_overrides]

    def _submit(self, cells: dict[int, Sequence[str]]) -> list[submitit.Job[Any]]:
        """Submit these cells as one array."""
        base = set(OmegaConf.structured(BaseQueueConf).keys())
        values = {
            key: value
            for key, value in self.params.items()
            if key not in ("submitit_folder", "max_num_timeout")
        }
        if values.get("cpus_per_task"):
            # Since 22.05 srun takes no notice of what sbatch was given: the step would have one core.
            words = "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"
            values["setup"] = [*(values.get("setup") or []), words]
        try:
            with outside_of_a_job():
                executor = submitit.AutoExecutor(
                    self.params["submitit_folder"],
                    "slurm",
                    slurm_max_num_timeout=self.params["max_num_timeout"],
                )
                executor.update_parameters(
                    **{key if key in base else f"slurm_{key}": value for key, value in values.items()}
                )
                state = Singleton.get_state()
                arguments = [
                    (list(words), "hydra.sweep.dir", cell, f"job_id_for_{cell}", state)
                    for cell, words in cells.items()
                ]
                return executor.map_array(self, *zip(*arguments, strict=True))
        except (FailedJobError, FailedSubmissionError) as error:
            raise SlurmError(
                f"Slurm took no job: {error}. Where it limits how many jobs you may have, "
                "hydra.sweeper.max_batch_size=… submits so many cells at a time"
            ) from error


def register_launcher() -> None:
    """Have Hydra start `CellLauncher` where it would start the plugin's own."""
    name = f"{SlurmLauncher.__module__}.{SlurmLauncher.__name__}"
    Plugins.instance().class_name_to_class[name] = CellLauncher


class _Sweep:
    """The cells of one sweep that are with Slurm."""

    def __init__(self, folder: Path, fail_fast: bool) -> None:
        self.folder = folder
        self.fail_fast = fail_fast
        self.waiting: dict[int, Waiting] = {}
        self.cells = 0
        self.table = read_jobs(folder)
        self.print: Callable[[str], None] = lambda line: Terminal(soft_wrap=True).print(Text(line))
        self._away = False
        self._named: set[str] = set()

    def find(self, cells: Mapping[int, Sequence[str]]) -> None:
        """Find the jobs of an earlier start that Slurm still has; the result of one that ended is read."""
        self.cells = len(cells)
        known = {one.job: one for one in self.table}
        active = {job: queued for job, queued in jobs_of(self.folder).items() if not queued.ended}
        stray = [job for job in active if job not in known]
        if stray:
            # Their launcher ended while it submitted them: nobody knows which cells they are for.
            cancel(stray)
            self.print(f"cancelled {ranges(stray)}: no cell was noted for them")
        for job in active.keys() - set(stray):
            submission = known[job]
            if submission.cell in cells:
                submission.state = ""
                self._wait_for(submission, cells[submission.cell])
        for submission in self.table:
            if submission.state == "" and submission.job not in active:
                submission.state = "ENDED"  # while nobody looked
        if self.waiting:
            jobs = ranges([one.submission.job for one in self.waiting.values()])
            there = f"{len(self.waiting)} of {_cells(self.cells)}"
            self.print(f"{there} with Slurm already, as job {jobs}: waiting for what is there")

    def submitted(
        self, cells: dict[int, Sequence[str]], jobs: Sequence[submitit.Job[Any]], parallel: int
    ) -> None:
        """Write down which job is for which cell."""
        for (cell, words), job in zip(cells.items(), jobs, strict=True):
            submission = Submission(cell, job.job_id)
            self.table.append(submission)
            self._wait_for(submission, words)
        write_jobs(self.folder, self.table)
        ids = ranges([job.job_id for job in jobs])
        at_once = f", at most {parallel} at a time" if 0 < parallel < len(jobs) else ""
        self.print(
            f"{_cells(len(jobs))} submitted as Slurm job {ids}{at_once}; logs in "
            f"{self.folder / SUBMITTED}. Jobs go on when this command ends. To end them: scancel {ids}"
        )

    def wait(self) -> None:
        """Wait until every job has ended, and say of each how."""
        asked = -ASK_EVERY_S
        queue: dict[str, Queued] = {}
        while self.waiting:
            for cell, one in list(self.waiting.items()):
                if one.paths.result_pickle.exists():
                    self._end(cell, _error_of(one.paths))
            now = time.monotonic()
            if self.waiting and now - asked >= ASK_EVERY_S:
                asked = now
                found = self._ask()
                queue = queue if found is None else found
                for cell, one in list(self.waiting.items()) if found is not None else ():
                    self._look_at(cell, one, queue.get(one.submission.job), now)
            if self.waiting:
                time.sleep(LOOK_EVERY_S)

    def leave(self) -> None:
        """Say what becomes of the jobs when this command is stopped."""
        with contextlib.suppress(SlurmError):
            active = [job for job, queued in jobs_of(self.folder).items() if not queued.ended]
            if active:
                self.print(
                    f"still with Slurm, and going on without this command: {_cells(len(active))}. The same "
                    f"command finds them again. To end them, saved: scancel {ranges(active)}"
                )

    def _wait_for(self, submission: Submission, words: Sequence[str]) -> None:
        paths = JobPaths(self.folder / SUBMITTED / "%j", job_id=submission.job, task_id=0)
        self.waiting[submission.cell] = Waiting(submission, words, paths)

    def _ask(self) -> dict[str, Queued] | None:
        """The sweep's jobs; None where the controller does not answer, which is said once."""
        try:
            queue = jobs_of(self.folder)
        except SlurmError as error:
            if not self._away:
                self.print(f"{error}. The jobs go on; waiting for it and for their results")
            self._away = True
            return None
        if self._away:
            self.print("the Slurm controller answers again")
        self._away = False
        return queue

    def _look_at(self, cell: int, one: Waiting, queued: Queued | None, now: float) -> None:
        """Take up what Slurm says of a job that has left no result."""
        job = one.submission.job
        if queued is not None and not queued.ended:
            one.ended_at = None
            if queued.held and job not in self._named:
                self._named.add(job)
                self.print(f"Slurm holds job {job} ({queued.reason}). To let it go: scontrol release {job}")
            return
        one.ended_at = now if one.ended_at is None else one.ended_at
        if now - one.ended_at >= GRACE_S:
            # A part of an array that is cancelled before it starts leaves nothing, not even a log.
            gone = "" if one.paths.stdout.exists() else "CANCELLED"
            state = queued.state if queued is not None else gone
            state, last = _last_words(one.paths) if state == "FAILED" else (state, "")
            self._end(cell, f"{in_words(job, state)}{last}", state)

    def _end(self, cell: int, error: str, state: str = "COMPLETED") -> None:
        """A job has ended: note it, and say in the cell's folder what became of it if the cell did not."""
        one = self.waiting.pop(cell)
        one.submission.state = state or "UNKNOWN"
        write_jobs(self.folder, self.table)
        place = self.folder / str(cell)
        status = read_status(place)
        name = _name(one.overrides)
        done = f"{self.cells - len(self.waiting)} of {self.cells}"
        if status is not None and status.status == "FINISHED":
            self.print(f"{done}: job {one.submission.job} has finished {name}")
            return
        if error:
            place.mkdir(exist_ok=True)
            status = status or RunStatus("KILLED", overrides=list(one.overrides))
            status.status = "KILLED" if status.status == "RUNNING" else status.status
            status.error = error
            status.write(place)
        why = status.error if status is not None else "it left no status"
        self.print(f"{done}: {name} is not finished: {why}")
        if self.fail_fast and self.waiting:
            jobs = [other.submission.job for other in self.waiting.values()]
            cancel(jobs)
            self.fail_fast = False  # said once; the others end as cancelled
            self.print(f"sweep.fail_fast: cancelled {ranges(jobs)}")


def _name(overrides: Sequence[str]) -> str:
    """What tells a cell from the others: the keys that are swept."""
    swept = os.environ.get(SWEPT_KEYS, "").split(",")
    words = [word for word in overrides if word.lstrip("+").partition("=")[0] in swept]
    return ", ".join(words or filter_overrides(list(overrides))) or "the config"


def _cells(count: int) -> str:
    return f"{count} cell{'s' if count != 1 else ''}"


def _error_of(paths: JobPaths) -> str:
    """What the result of a job says went wrong, in a line, or ""."""
    outcome, value = pickle_load(paths.result_pickle)
    return str(value).strip().splitlines()[-1] if outcome == "error" else ""


def _last_words(paths: JobPaths) -> tuple[str, str]:
    """The state of a job that failed by itself, and the last line that it wrote, with where the rest is.

    Without control groups Slurm calls a job failed that it has killed for memory; its log says why.
    """
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = paths.stderr.read_text(errors="replace").strip().splitlines()
    if any(OVER_MEMORY in line for line in lines):
        return "OUT_OF_MEMORY", ""
    return "FAILED", f": {lines[-1]} (all of it: {paths.stderr})" if lines else ""


def _done(words: Sequence[str]) -> JobReturn:
    """What Hydra gets of each cell: how it ended stands in the cell's folder."""
    done = JobReturn(overrides=list(words), status=JobStatus.COMPLETED)
    done.return_value = None
    return done
