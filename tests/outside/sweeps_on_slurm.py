"""What the tests on Slurm share: a sweep's command, typed as often as it takes, and a table of its jobs."""

import csv
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from conftest import ROOT, TINY, environment
from outside.slurm import Slurm

from experiments.faults.sweep import start_python
from experiments.faults.verdict import Numbers, numbers_of
from reid.sweeps.slurm import Submission, read_jobs

#: Seconds within which something that was waited for happens, on a busy machine too.
PATIENCE_S = 900.0

#: The jobs that were seen, one row each; a scene that is seen again replaces its rows.
TABLE = ROOT / "experiments" / "cluster" / "results" / "jobs.csv"
COLUMNS = ("scene", "slurm", "cell", "job", "state", "finished", "cells")

#: Notes the jobs of a scene, and how many cells have finished of how many.
Note = Callable[[str, Slurm, Sequence[Submission], tuple[int, int]], None]
SLURM_WORDS = ("hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1")


@dataclass
class Command:
    """One sweep's command, typed as often as it takes; on this machine where there is no cluster."""

    home: Path
    words: Sequence[str]
    cluster: Slurm | None
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    read: int = 0

    @property
    def log(self) -> Path:
        return self.home / "command.log"

    def start(self, *more: str) -> None:
        """Type it, with more keys at its end; what is printed from here on is `printed`."""
        self.home.mkdir(exist_ok=True)
        self.read = self.log.stat().st_size if self.log.exists() else 0
        variables = environment(self.home) | (self.cluster.environment if self.cluster else {})
        words = ["reid.train", "-m", *TINY, *self.words, *more]
        self.process = start_python(words, variables, self.log)  # type: ignore[assignment]

    @property
    def printed(self) -> str:
        return self.log.read_bytes()[self.read :].decode(errors="replace")

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(PATIENCE_S)

    def run(self, *more: str) -> int:
        self.start(*more)
        return self.wait()

    def wait_for(self, text: str) -> str:
        """Wait until it has printed `text`, a regular expression; what the first group is."""
        until(lambda: re.search(text, self.printed) is not None, lambda: f"{text!r} in:\n{self.printed}")
        match = re.search(text, self.printed)
        assert match is not None
        return match[1] if match.groups() else match[0]

    @property
    def folder(self) -> Path:
        (folder,) = self.home.glob("multirun/*/")
        return folder

    @property
    def jobs(self) -> list[Submission]:
        return read_jobs(self.folder)

    def numbers(self) -> dict[str, Numbers]:
        """What each finished cell measured and its weights, by the hash of its config."""
        return {name: numbers for (name, _), numbers in numbers_of(self.home, self.store).items()}

    @property
    def store(self) -> str:
        return f"sqlite:///{self.home}/mlflow.db"


def until(happened: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline, f"did not come: {what()}"
        time.sleep(0.3)


def six(data: Path) -> list[str]:
    """The words of six cells."""
    return [f"data.root={data}", "epochs=3", "seed=range(0,6)"]


def write_table(scene: str, cluster: Slurm, jobs: Sequence[Submission], counts: tuple[int, int]) -> None:
    """Write these jobs into `TABLE`."""
    rows: list[dict[str, object]] = []
    if TABLE.exists():
        with TABLE.open(newline="") as file:
            rows += [row for row in csv.DictReader(file) if row["scene"] != scene]
    version = cluster.run("sinfo", "--version").split()[-1]
    for one in jobs:
        values = (scene, version, one.cell, one.job, one.state, *counts)
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    TABLE.parent.mkdir(exist_ok=True)
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
