"""What the tests on Slurm share: a sweep's command, typed as often as it takes, and a table of its jobs."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from conftest import TINY, environment
from outside.slurm import Slurm

from experiments.faults.sweep import start_python
from experiments.faults.verdict import Numbers, numbers_of
from reid.sweeps.slurm import Submission, read_jobs

#: Seconds within which something that was waited for happens, on a busy machine too.
PATIENCE_S = 900.0

#: A file to which the jobs that were seen are written, one row each, such as
#: experiments/cluster/results/jobs.csv.
TABLE = "REID_CLUSTER_TABLE"

Recorder = Callable[[str, object], None]
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


def note(
    record: Recorder, scene: str, cluster: Slurm, jobs: Sequence[Submission], counts: tuple[int, int]
) -> None:
    """Note jobs, and how many cells have finished of how many, for the log of the tests and for `TABLE`."""
    record("jobs", " ".join(f"{one.job} {one.state}" for one in jobs))
    record("finished", f"{counts[0]} of {counts[1]}")
    if TABLE not in os.environ:
        return
    table = Path(os.environ[TABLE])
    if not table.exists():
        table.write_text("slurm,scene,cell,job,state,finished,cells\n")
    version = cluster.run("sinfo", "--version").split()[-1]
    with table.open("a") as file:
        for one in jobs:
            file.write(f"{version},{scene},{one.cell},{one.job},{one.state},{counts[0]},{counts[1]}\n")
