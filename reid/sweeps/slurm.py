"""What a sweep asks of Slurm: what the cluster takes, which jobs a sweep has there, and what became of each.

States come from `squeue`, which every cluster has. `sacct` would need accounting, and answers nothing without
it.
"""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reid.config.checks import ConfigError
from reid.errors import RunError

#: Hydra's launcher of this name.
LAUNCHER_NAME = "submitit_slurm"

#: Which job was at which cell of a sweep: a table in its folder.
JOBS = "slurm.csv"

#: Below the folder of a sweep: scripts, logs and results of its jobs.
SUBMITTED = ".submitit"

#: States in which a job stays. Whatever else Slurm calls a job, it may still run.
ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
    "REVOKED", "TIMEOUT",
}  # fmt: skip

#: How the words begin with which Slurm says that a job waits for a person.
HELD = ("JobHeld", "launch failed", "job requeued in held state")

#: Keys of the launcher that are no flags of sbatch.
_NO_FLAGS = {
    "_target_", "submitit_folder", "stderr_to_stdout", "signal_delay_s", "max_num_timeout",
    "additional_parameters", "array_parallelism", "setup",
}  # fmt: skip
#: Keys that sbatch calls otherwise.
_FLAGS = {"timeout_min": "time", "mem_gb": "mem", "name": "job-name", "tasks_per_node": "ntasks-per-node"}

#: What a job leaves in its environment that a job which it submits must not inherit.
_OF_A_JOB = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")


class SlurmError(RunError):
    """Slurm did not take a job, or did not answer."""


@dataclass(frozen=True)
class Queued:
    """A job as Slurm knows it; `reason` is why it waits, or how it ended."""

    state: str
    reason: str

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def held(self) -> bool:
        waits = self.state == "PENDING" and self.reason.lower().startswith(tuple(map(str.lower, HELD)))
        return waits or self.state in ("REQUEUE_HOLD", "SPECIAL_EXIT")


@dataclass
class Submission:
    """A job that was submitted for a cell; `state` is "" until it has ended."""

    cell: int
    job: str
    state: str = ""


def limits() -> dict[str, int]:
    """How many jobs an array and the queue of this cluster take, by the names in its configuration.

    Raises:
        ConfigError: there is no Slurm on this machine.
        SlurmError: the controller does not answer.
    """
    answer = _answer("scontrol", "show", "config")
    known = re.findall(r"^(MaxArraySize|MaxJobCount)\s*=\s*(\d+)", answer, re.MULTILINE)
    return {name: int(value) for name, value in known}


def check_cluster(keys: Mapping[str, Any], cells: int) -> None:
    """Have Slurm look at a job with these keys of the launcher, without submitting it.

    Raises:
        ConfigError: it refuses them, or there is no Slurm on this machine.
        SlurmError: the controller does not answer.
    """
    parallel = int(keys.get("array_parallelism") or cells)
    flags = _flags(keys) + ([f"--array=0-{cells - 1}%{parallel}"] if cells > 1 else [])
    with outside_of_a_job():
        done = _run("sbatch", "--test-only", *flags, "--wrap", "true")
    if done.returncode == 0:
        return
    said = _said(done.stderr)
    if _is_away(said):
        raise SlurmError(f"the Slurm controller does not answer: {said}")
    typed = " ".join(flag for flag in flags if not flag.startswith("--job-name"))
    partitions = [line.split() for line in _run("sinfo", "-h", "-o", "%P %l").stdout.splitlines()]
    there = ", ".join(f"{name.rstrip('*')} (at most {limit})" for name, limit in partitions)
    raise ConfigError(
        f"Slurm refuses such jobs: {said}. sbatch was called with {typed}, from the keys hydra.launcher.*. "
        f"Partitions here: {there}"
    )


def batch_size(cells: int, typed: int | None) -> int | None:
    """How many cells go into one array, where fewer than all; None where one array takes them.

    typed: hydra.sweeper.max_batch_size, where the user has set it.

    Raises:
        ConfigError: it is more than an array or the queue takes.
        SlurmError: the controller does not answer.
    """
    known = limits()
    if not known:
        return None
    name = min(known, key=lambda one: known[one])
    most = known[name]
    if typed is not None and min(typed, cells) > most:
        raise ConfigError(
            f"hydra.sweeper.max_batch_size={typed}: this cluster takes at most {most} jobs at a time "
            f"({name}). Leave it out, and the sweep is cut to fit"
        )
    return most if typed is None and cells > most else None


def jobs_of(folder: Path) -> dict[str, Queued]:
    """The jobs that Slurm knows of the sweep in `folder`, by their ids; those that ended minutes ago too.

    They are known by the script that they run, which lies in that folder.

    Raises:
        ConfigError: there is no Slurm on this machine.
        SlurmError: the controller does not answer.
    """
    place = f"{folder.absolute() / SUBMITTED}/"
    answer = _answer("squeue", "-h", "-r", "-t", "all", "-u", str(os.getuid()), "-o", "%i|%T|%r|%o")
    found = {}
    for line in answer.splitlines():
        job, state, reason, script = (*line.split("|", 3), "", "", "")[:4]
        if script.startswith(place):
            found[job] = Queued(state, reason)
    return found


def cancel(jobs: Sequence[str]) -> None:
    """Take these jobs out of the queue, and end those that run.

    Raises:
        SlurmError: the controller does not answer.
    """
    if jobs:
        _answer("scancel", *jobs)


def read_jobs(folder: Path) -> list[Submission]:
    """What was submitted for the cells of the sweep in `folder`, the oldest first; [] where nothing was."""
    try:
        with (folder / JOBS).open(newline="") as file:
            return [Submission(int(row["cell"]), row["job"], row["state"]) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError):
        return []


def write_jobs(folder: Path, submissions: Sequence[Submission]) -> None:
    """Write that table, in one piece."""
    partial = folder / f".{JOBS}.partial"
    with partial.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("cell", "job", "state"))
        writer.writerows((one.cell, one.job, one.state) for one in submissions)
    partial.replace(folder / JOBS)


def in_words(job: str, state: str) -> str:
    """What became of a job that left no result."""
    how = {
        "CANCELLED": "was cancelled (scancel)",
        "COMPLETED": "ended without a result",
        "DEADLINE": "was ended at its deadline",
        "NODE_FAIL": "was lost with its node",
        "OUT_OF_MEMORY": "was killed for memory: hydra.launcher.mem_gb gives it more",
        "PREEMPTED": "made room for another job",
        "TIMEOUT": "was ended at its time limit: hydra.launcher.timeout_min and max_num_timeout give it more",
        "": "is not known to Slurm any more, and left no result",
    }.get(state, f"ended as {state}")
    return f"Slurm job {job} {how}"


def ranges(jobs: Sequence[str]) -> str:
    """Ids of jobs as `scancel` takes them, each array once: `12_[0-2,5] 13`."""
    arrays: dict[str, list[int]] = {}
    for job in jobs:
        array, _, task = job.partition("_")
        arrays.setdefault(array, []).extend([int(task)] if task else [])
    words = []
    for array, tasks in arrays.items():
        parts: list[list[int]] = []
        for number in sorted(tasks):
            if parts and parts[-1][-1] == number - 1:
                parts[-1].append(number)
            else:
                parts.append([number])
        shown = ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
        words.append(f"{array}_[{shown}]" if shown else array)
    return " ".join(words)


def warning_signals() -> list[int]:
    """Within a job of a sweep: the signal by which Slurm warns it before its time is up; [] anywhere else."""
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return []
    return [int(signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"])]


@contextmanager
def outside_of_a_job() -> Iterator[None]:
    """Within, the environment is that of no job: what is submitted gets its own cores and memory.

    Where Slurm's configuration lies is kept.
    """
    ours = {}
    if "SLURM_JOB_ID" in os.environ:
        names = [name for name in os.environ if name.startswith(_OF_A_JOB) and name != "SLURM_CONF"]
        ours = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(ours)


def _flags(keys: Mapping[str, Any]) -> list[str]:
    """The flags of sbatch that stand for these keys of the launcher."""
    flags = []
    for key, value in keys.items():
        if key in _NO_FLAGS or value is None or "${" in str(value):
            continue
        unit = "G" if key == "mem_gb" else ""
        flags.append(f"--{_FLAGS.get(key, key).replace('_', '-')}={value}{unit}")
    for key, value in (keys.get("additional_parameters") or {}).items():
        flag = f"--{key.replace('_', '-')}"
        flags.append(flag if value is True else f"{flag}={value}")
    return flags


def _answer(*words: str) -> str:
    done = _run(*words)
    if done.returncode:
        said = _said(done.stderr)
        away = _is_away(said)
        raise SlurmError(f"the Slurm controller does not answer: {said}" if away else f"{words[0]}: {said}")
    return done.stdout


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(words, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise ConfigError(
            f"hydra/launcher={LAUNCHER_NAME} needs Slurm, and {words[0]} is not on this machine. Type the "
            "command on a machine of the cluster that may submit jobs; hydra/launcher=joblib runs the jobs "
            "here"
        ) from error


def _said(stderr: str) -> str:
    """What Slurm said, in one line."""
    lines = [re.sub(r"^(\w+: )?(error: |fatal: )?", "", line).strip() for line in stderr.splitlines()]
    return "; ".join(line for line in lines if line) or "no reason was named"


def _is_away(said: str) -> bool:
    return "Unable to contact" in said or "Zero Bytes were transmitted" in said or "timed out" in said
