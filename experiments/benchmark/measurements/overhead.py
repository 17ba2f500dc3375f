"""What tracking adds to 50 training steps, and what a sweep's job takes to its first step."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from experiments.benchmark.catalogue import Setup
from experiments.benchmark.measurements.train_step import small_store, stream_of, training_batches
from experiments.benchmark.outcome import Case, Goal
from experiments.benchmark.timing import Contest
from experiments.benchmark.trainee import Trainee
from reid.data.image_store import ImageStore
from reid.home import source_root
from reid.tracking import JOURNAL, Tracker, default_store

REPEATS = 7
#: A run of 50 steps in epochs of ten: real epochs have more steps, so that tracking costs them less.
EPOCHS, STEPS = 5, 10
SWEEP = (
    "dataset=synthetic", "dataset.preset=tiny", "backbone=resnet18", "backbone.weights=none",
    "image.height=64", "image.width=32", "image.padding=4", "batch.identities=4", "tricks.warmup=1",
    "epochs=2", "eval.period=0", "device=cpu", "schedule.milestones=[]",
)  # fmt: skip

QUICK_SWEEP = ("backbone=mobilenet_v2", "image.height=32", "image.width=16", "image.padding=2")


def measure(setup: Setup) -> list[Case]:
    """One case for the steps, one for the start."""
    with small_store(64, 32) as store, tempfile.TemporaryDirectory() as folder:
        return [_steps(setup, store, Path(folder)), _start(setup, Path(folder))]


def _steps(setup: Setup, store: ImageStore, folder: Path) -> Case:
    epochs, steps = (2, 2) if setup.quick else (EPOCHS, STEPS)
    setup.say(f"{epochs * steps} steps of ResNet18 at 64x32, {setup.repeats} times with and without tracking")
    trainee = Trainee.build("resnet18", 64, torch.device("cpu"))
    stream = stream_of(training_batches(store, trainee.compute.device))
    runs = itertools.count()
    around, within, closing = [], [], []
    checkpoint = folder / "model.pt"
    torch.save(trainee.model.state_dict(), checkpoint)

    def untracked() -> None:
        for _ in range(epochs):
            trainee.suite(itertools.islice(stream, steps)).means()

    def tracked() -> None:
        started = time.perf_counter()
        place = folder / "runs" / str(next(runs))
        tracker = Tracker.start(default_store(folder, None), "overhead", place, "run")
        opened = time.perf_counter() - started
        spent = 0.0
        for epoch in range(epochs):
            values = trainee.suite(itertools.islice(stream, steps)).means()
            started = time.perf_counter()
            tracker.metrics({f"train/{name}": value for name, value in values.items()}, epoch + 1)
            spent += time.perf_counter() - started
        os.link(checkpoint, place / checkpoint.name)
        started = time.perf_counter()
        card = tracker.text("# A card", "model_card.md")
        tracker.model(place / checkpoint.name, card, height=64, width=32, embedding_size=512, step=epochs)
        tracker.finish()
        closing.append(time.perf_counter() - started)
        around.append(opened + closing[-1])
        within.append(spent)

    seconds = Contest({"tracked": tracked, "untracked": untracked}).run(setup.repeats)
    # What opening and closing take is shown apart: it does not grow with the steps.
    del around[0], within[0], closing[0]
    net = [all_of_it - once for all_of_it, once in zip(seconds["tracked"], around, strict=True)]
    added = [100 * (a / b - 1) for a, b in zip(net, seconds["untracked"], strict=True)]
    count = epochs * steps
    return Case(
        f"{count} steps, an epoch of {steps}",
        [
            Goal("tracking adds to a step", statistics.median(added), 1, "<=", "%", min(added), max(added)),
            Goal(
                "of it measured within the tracker's calls",
                statistics.median(100 * a / b for a, b in zip(within, seconds["untracked"], strict=True)),
                1,
                "<=",
                "%",
            ),
        ],
        {name: [one / count for one in every] for name, every in seconds.items()},
        facts={
            "opening and closing the run, once, s": statistics.median(around),
            "of it the model with its card, and the end, s": statistics.median(closing),
        },
    )


def _start(setup: Setup, home: Path) -> Case:
    cells = 2 if setup.quick else 1 + setup.repeats
    words = (*SWEEP, *QUICK_SWEEP) if setup.quick else SWEEP
    if not setup.quick:
        setup.say(f"a sweep of {cells} jobs, after one that draws and decodes the data")
        _sweep(home, "first", [99], words)
    entered = time.time()
    _sweep(home, "timed", list(range(cells)), words)
    starts, first = [], 0.0
    for cell in range(cells):
        place = home / "multirun" / "timed" / str(cell)
        first_step = _first_step(place)
        starts.append(first_step - (place / ".hydra" / "config.yaml").stat().st_mtime)
        if cell == 0:
            first = first_step - entered
    later = starts[1:]
    return Case(
        "start of a sweep's job to its first step",
        [Goal("seconds", statistics.median(later), 3, "<=", "s", min(later), max(later))],
        {"job": later},
        facts={"from typing the command to its first step, s": first, "the first job of it, s": starts[0]},
    )


def _sweep(home: Path, name: str, seeds: list[int], overrides: Sequence[str]) -> None:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "REID_"))}
    words = [
        *overrides, f"seed={','.join(map(str, seeds))}", "sweep.take=none",
        f"hydra.sweep.dir={home / 'multirun' / name}",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "reid.train", "-m", *words],
        env={**kept, "REID_HOME": str(home), "PYTHONPATH": str(source_root())},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the sweep failed: {(done.stderr or done.stdout).strip()[-500:]}")


def _first_step(place: Path) -> float:
    """When a job began its first step: the end of its first epoch, less what the second took."""
    ends: dict[int, float] = {}
    for line in (place / JOURNAL).read_text().splitlines():
        operation: Mapping[str, object] = json.loads(line)
        if operation["op"] == "metrics" and any(
            name.startswith("train/")
            for name in operation["values"]  # type: ignore[attr-defined]
        ):
            ends[int(str(operation["step"]))] = float(str(operation["time"])) / 1000
    return 2 * ends[1] - ends[2]
