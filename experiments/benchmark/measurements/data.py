"""Batches of Market's 9,628 crops at 256x128 with all augmentations, against PIL and a DataLoader."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from experiments.benchmark.catalogue import Setup
from experiments.benchmark.crops import linked_crops
from experiments.benchmark.measurements.train_step import IDENTITIES as IDENTITIES_A_BATCH
from experiments.benchmark.measurements.train_step import INSTANCES, training_batches
from experiments.benchmark.outcome import Case, Goal, ratio
from experiments.benchmark.plain_data import PlainCrops, plain_loader
from experiments.benchmark.timing import agree
from experiments.benchmark.trainee import Trainee
from reid.data.batches import TrainingBatches, plain_batches
from reid.data.image_store import ImageStore, open_store

REPEATS = 5
#: The identities and images of the Market train-half split, to the nearest even number of images each.
IDENTITIES, EACH = 566, 17
HEIGHT, WIDTH, PADDING = 256, 128, 10
#: The reference reads so many batches of an epoch: an image takes it as long in the first as in the last.
REFERENCE_BATCHES = 15
STEPS, QUICK_STEPS = 8, 1


def measure(setup: Setup) -> list[Case]:
    """An epoch of batches by CPU time, and what a training step waits for its data."""
    device = torch.device("cpu")
    height, width = (64, 32) if setup.quick else (HEIGHT, WIDTH)
    with tempfile.TemporaryDirectory() as folder:
        crops = linked_crops(Path(folder) / "crops", *((20, 8) if setup.quick else (IDENTITIES, EACH)))
        setup.say(f"decoding {len(crops):,} crops into a store, once")
        started = _now()
        store = open_store(crops, height, width, Path(folder) / "store")
        building = _spent(started)
        plain = PlainCrops(crops, height, width, 0.5, PADDING, 0.5)
        _compare(PlainCrops(crops[:64], height, width, 0.0, 0, 0.0), store.subset(crops[:64]))
        batches = training_batches(store, device)
        waiting = _waiting(setup, batches)

        plan = batches.plan(0)
        some = plan[:REFERENCE_BATCHES]
        setup.say(f"{len(plan)} batches, and {len(some)} by the reference, {setup.repeats} times in turn")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # a core's worth: threads that wait for each other would count as work
        try:
            ours, reference = [], []
            for epoch in range(1, setup.repeats + 1):
                ours.append(_cpu_seconds(lambda e=epoch: _exhaust(batches.of(plan, e))) / _images(plan))  # type: ignore[misc]
                reference.append(_cpu_seconds(lambda: _exhaust(plain_loader(plain, some))) / _images(some))
        finally:
            torch.set_num_threads(threads)
    size = 3 * height * width
    return [
        Case(
            f"{len(crops):,} crops, {height}x{width}",
            [ratio("images a second and core / PIL + DataLoader", reference, ours, at_least=10)],
            {"ours, CPU time an image": ours, "PIL + DataLoader, CPU time an image": reference},
            # Bytes are read once and numbers of 4 bytes written once.
            limit_seconds=setup.limits.move_seconds(5 * size),
            limit="the pixels read once and the floats written once",
            facts={
                "images a second and core": 1 / statistics.median(ours),
                "PIL + DataLoader, images a second and core": 1 / statistics.median(reference),
                "building the store, once, CPU seconds": building,
                "epochs of PIL + DataLoader in that time": building
                / (statistics.median(reference) * len(crops)),
            },
        ),
        waiting,
    ]


def _waiting(setup: Setup, batches: TrainingBatches) -> Case:
    """The share of a training step's time that it waits for its batch."""
    backbone = "resnet18" if setup.quick else "resnet34"
    steps = QUICK_STEPS if setup.quick else STEPS
    setup.say(f"{steps} training steps of {backbone}, {setup.repeats} times")
    trainee = Trainee.build(backbone, len(set(batches.labels.tolist())), torch.device("cpu"))
    shares, seconds = [], []
    for epoch in range(setup.repeats + 1):
        stream = batches.of(batches.plan(epoch), epoch)
        # An epoch's first batch has no step before it to hide behind.
        trainee.suite(itertools.islice(stream, 1))
        totals = trainee.suite(itertools.islice(stream, steps))
        stream.close()
        shares.append(100 * totals.waited / totals.seconds)
        seconds.append(totals.seconds / totals.steps)
    shares, seconds = shares[1:], seconds[1:]
    return Case(
        f"{backbone}, batch {IDENTITIES_A_BATCH * INSTANCES}",
        [Goal("share of a training step spent waiting for data", statistics.median(shares), 2, "<=", "%",
              min(shares), max(shares))],
        {"training step": seconds},
    )  # fmt: skip


def _compare(plain: PlainCrops, store: ImageStore) -> None:
    """Without augmentation both must give the same images."""
    (theirs, _), = plain_loader(plain, [torch.arange(len(plain))])  # fmt: skip
    (ours,) = plain_batches(store, len(plain), torch.device("cpu"))
    agree("images, largest difference", float((ours - theirs).abs().max()), 0.0, 1e-5)


def _images(plan: list[torch.Tensor]) -> int:
    return sum(len(batch) for batch in plan)


def _exhaust(batches: object) -> None:
    for _ in batches:  # type: ignore[attr-defined]
        pass


def _now() -> float:
    return time.process_time()


def _spent(started: float) -> float:
    return time.process_time() - started


def _cpu_seconds(function: Callable[[], None]) -> float:
    started = _now()
    function()
    return _spent(started)
