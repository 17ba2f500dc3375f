"""One small sweep as a user starts it: the real command, in processes of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

from reid.home import source_root
from reid.tracking import JOURNAL

#: Seconds on one core a cell; the smallest network of the suite, so that a checkpoint is small too.
TINY = (
    "dataset=synthetic", "dataset.preset=tiny", "backbone=mobilenet_v2", "backbone.weights=none",
    "image.height=32", "image.width=16", "image.padding=2", "batch.identities=4", "tricks.warmup=1",
    "epochs=2", "eval.period=1", "device=cpu", "tracking.images=false",
)  # fmt: skip

LAUNCHERS = {"basic": "basic", "joblib": "joblib", "submitit": "submitit_local"}

#: A part of the command line of a process that runs jobs, by launcher.
WORKERS = {"joblib": "popen_loky_posix", "submitit": "submitit.core._submit"}

PATIENCE_S = 1800.0


class CampaignError(Exception):
    """The campaign itself could not go on: no sweep, no worker, no end."""


class Process(Protocol):
    """What is used of a command under way."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: signal.Signals, /) -> None: ...


def start_python(words: list[str], environment: dict[str, str], log: Path) -> Process:
    """`python -m words…`, with what it prints at the end of `log`."""
    with log.open("ab") as file:
        file.write(b"--- start\n")
        file.flush()
        return subprocess.Popen(
            [sys.executable, "-m", *words], env=environment, stdout=file, stderr=file, cwd=log.parent
        )


@dataclass
class Sweep:
    """A sweep whose outputs lie in `home`; started as often as it takes.

    words: the cells.  uri: tracking server, None: the store in `home`.  exits: exit codes so far, negative
    where the launcher was killed by that signal.  begin: how the command is started.
    """

    home: Path
    launcher: str
    words: Sequence[str]
    uri: str | None = None
    exits: list[int] = field(default_factory=list)
    begin: Callable[[list[str], dict[str, str], Path], Process] = start_python
    process: Process | None = field(default=None, repr=False)

    def start(self) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "REID_"))}
        own = {"REID_HOME": str(self.home), "PYTHONPATH": str(source_root() or ""), "OMP_NUM_THREADS": "1"}
        where = {"MLFLOW_TRACKING_URI": self.uri} if self.uri else {}
        words = ["reid.train", "-m", *TINY, *self.words, f"hydra/launcher={LAUNCHERS[self.launcher]}"]
        self.process = self.begin(words, {**kept, **own, **where}, self.log)

    @property
    def log(self) -> Path:
        """What all starts printed; beside `home`, which may be a full disk."""
        return self.home.parent / f"{self.home.name}.log"

    def move(self, home: Path) -> None:
        """Take all that was written to another place, where it goes on."""
        log = self.log
        self.home.rename(home)
        self.home = home
        log.rename(self.log)

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def wait(self) -> int:
        """Wait until the command has ended, and return its exit code."""
        assert self.process is not None
        code = self.process.wait(PATIENCE_S)
        self.exits.append(code)
        return code

    def progress(self) -> int:
        """Operations that its cells have tracked so far: a clock that a busy machine does not change."""
        journals = self.home.glob(f"multirun/*/*/{JOURNAL}")
        return sum(path.read_bytes().count(b"\n") for path in journals)

    def wait_for(self, operations: int) -> bool:
        """Wait until its cells have tracked that many operations; False where it ended before."""
        deadline = time.monotonic() + PATIENCE_S
        while self.progress() < operations:
            if not self.running():
                return False
            if time.monotonic() > deadline:
                raise CampaignError(f"the sweep in {self.home} does not go on; see {self.log}")
            time.sleep(0.2)
        return self.running()

    def workers(self) -> list[psutil.Process]:
        """The processes that run jobs for the launcher, which runs them itself in the basic one."""
        assert self.process is not None
        me = psutil.Process(self.process.pid)
        if self.launcher == "basic":
            return [me]
        return [child for child in me.children(recursive=True) if _runs(child, WORKERS[self.launcher])]

    def family(self) -> list[psutil.Process]:
        """The launcher's children of any depth; what is left of them after its death are orphans."""
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)


def wait_for_orphans(orphans: Sequence[psutil.Process]) -> None:
    """Wait until these processes have ended by themselves."""
    deadline = time.monotonic() + PATIENCE_S
    while any(_alive(one) for one in orphans):
        if time.monotonic() > deadline:
            raise CampaignError(f"orphans do not end: {[one.pid for one in orphans if _alive(one)]}")
        time.sleep(0.2)


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _runs(process: psutil.Process, word: str) -> bool:
    try:
        return any(word in part for part in process.cmdline())
    except psutil.Error:  # it has ended
        return False
