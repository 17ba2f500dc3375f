"""Memory, open files and threads of a training run over 200 epochs: none of them may grow."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from experiments.benchmark.catalogue import Setup
from experiments.benchmark.outcome import Case, Goal
from reid.home import source_root

REPEATS = 1
EPOCHS, QUICK_EPOCHS = 200, 8
EVERY_S = 0.1
#: Of the epochs, at the beginning of each is what a run takes once: caches, a first judgement, a connection.
SETTLED = 0.25
MOST_MIB = 8
RUN = (
    "dataset=synthetic", "dataset.preset=tiny", "backbone=mobilenet_v2", "backbone.weights=none",
    "image.height=32", "image.width=16", "image.padding=2", "batch.identities=4", "tricks.warmup=1",
    "eval.period=5", "device=cpu", "schedule.milestones=[]",
)  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """A process at one moment: epochs done, MiB resident, open files, threads."""

    epoch: int
    mib: float
    files: int
    threads: int


def measure(setup: Setup) -> list[Case]:
    """The tiny preset, judged every fifth epoch and tracked, as the command runs it."""
    epochs = QUICK_EPOCHS if setup.quick else EPOCHS
    setup.say(f"{epochs} epochs of the tiny preset")
    started = time.perf_counter()
    samples = watch_run(epochs)
    seconds = time.perf_counter() - started
    early = window(samples, SETTLED * epochs, 2 * SETTLED * epochs)
    # What follows the last epoch, a judgement with its pictures, is no training.
    late = window(samples, (1 - SETTLED) * epochs, epochs)
    mib, files, threads = (
        ([getattr(one, name) for one in early], [getattr(one, name) for one in late])
        for name in ("mib", "files", "threads")
    )
    return [
        Case(
            f"{epochs} epochs of the tiny preset",
            [
                _growth("peak resident memory", *mib, MOST_MIB, "MiB"),
                _growth("the most open files", *files, 0, ""),
                _growth("the most threads", *threads, 0, ""),
            ],
            {"the run": [seconds]},
            peak_mib={
                "second quarter": max(mib[0]),
                "last quarter": max(mib[1]),
                "with the last judgement and its pictures": max(one.mib for one in samples),
            },
            facts={
                "growth of the median, MiB": statistics.median(mib[1]) - statistics.median(mib[0]),
                "samples": str(len(samples)),
            },
        )
    ]


def watch_run(epochs: int) -> list[Sample]:
    """Start the command and look at it ten times a second until it ends."""
    with tempfile.TemporaryDirectory() as folder:
        place, log = Path(folder) / "run", Path(folder) / "log"
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "REID_"))}
        words = [*RUN, f"epochs={epochs}", f"hydra.run.dir={place}"]
        with log.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "reid.train", *words],
                env={**kept, "REID_HOME": folder, "PYTHONPATH": str(source_root())},
                stdout=file,
                stderr=file,
            )
        samples = []
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            history = place / "history.csv"
            try:
                done = max(0, len(history.read_text().splitlines()) - 1) if history.exists() else 0
                with watched.oneshot():
                    samples.append(
                        Sample(
                            done, watched.memory_info().rss / 2**20, watched.num_fds(), watched.num_threads()
                        )
                    )
            except (psutil.Error, OSError):
                break  # it ended meanwhile
            time.sleep(EVERY_S)
        if process.wait() != 0:
            raise RuntimeError(f"the run failed: {log.read_text().strip()[-500:]}")
        return samples


def window(samples: Sequence[Sample], first: float, last: float) -> list[Sample]:
    """The samples with at least `first` and fewer than `last` epochs done.

    Raises:
        RuntimeError: the run went by too fast to be seen there.
    """
    found = [one for one in samples if first <= one.epoch < last]
    if not found:
        raise RuntimeError(f"no sample between the epochs {first:g} and {last:g}: the run was too short")
    return found


def _growth(what: str, early: Sequence[float], late: Sequence[float], most: float, unit: str) -> Goal:
    """The most in the last quarter less the most in the second."""
    return Goal(f"growth of {what}", max(late) - max(early), most, "<=", unit)
