"""Training steps of the table's networks at 256x128, against the bare network on one fixed batch."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from experiments.benchmark.catalogue import Setup
from experiments.benchmark.crops import linked_crops
from experiments.benchmark.outcome import Case, ratio
from experiments.benchmark.timing import Contest
from experiments.benchmark.trainee import BACKBONES, Trainee
from reid.data.augment import Augmentation
from reid.data.batches import Batch, BatchRecipe, TrainingBatches, resident_bytes
from reid.data.image_store import ImageStore, open_store
from reid.engine.compute import Compute

REPEATS = 5
HEIGHT, WIDTH, IDENTITIES, INSTANCES = 256, 128, 16, 4
STEPS, QUICK_STEPS = 2, 1


def measure(setup: Setup) -> list[Case]:
    """One case a network: the suite's throughput over the bare network's, both in images a second."""
    backbones = ("resnet18",) if setup.quick else BACKBONES
    with small_store(*((64, 32) if setup.quick else (HEIGHT, WIDTH))) as store:
        return [_case(backbone, store, setup) for backbone in backbones]


@contextmanager
def small_store(height: int, width: int) -> Iterator[ImageStore]:
    """The images of a few hundred drawn crops."""
    with tempfile.TemporaryDirectory() as folder:
        crops = linked_crops(Path(folder) / "crops", identities=64, each=8)
        yield open_store(crops, height, width, Path(folder) / "store")


def training_batches(store: ImageStore, device: torch.device, people: int = IDENTITIES) -> TrainingBatches:
    """The published batches and augmentation; the pixels lie where a run would keep them."""
    resident = Compute(device).keep_resident(None, resident_bytes(store))
    recipe = BatchRecipe(people, INSTANCES, Augmentation(), seed=0)
    return TrainingBatches(store, store.pids - 1, recipe, device, resident=resident)


def stream_of(batches: TrainingBatches) -> Generator[Batch, None, None]:
    """One epoch after the other, without end."""
    for epoch in itertools.count():
        yield from batches.of(batches.plan(epoch), epoch)


def _case(backbone: str, store: ImageStore, setup: Setup) -> Case:
    steps = QUICK_STEPS if setup.quick else STEPS
    setup.say(f"{backbone}, {setup.repeats} times {steps} steps")
    device = torch.device("cpu")
    trainee = Trainee.build(backbone, 64, device)
    stream = stream_of(training_batches(store, device))
    fixed = next(stream)
    contest = Contest(
        {
            "ours": lambda: trainee.suite(itertools.islice(stream, steps)),
            "bare network": lambda: trainee.bare(fixed, steps),
        }
    )
    seconds = {name: [one / steps for one in every] for name, every in contest.run(setup.repeats).items()}
    images = len(fixed.labels)
    return Case(
        f"{backbone}, {store.pixels.shape[1]}x{store.pixels.shape[2]}, batch {images}",
        [
            ratio("throughput / bare network", seconds["bare network"], seconds["ours"], at_least=0.95),
        ],
        seconds,
        facts={"images a second": images / sorted(seconds["ours"])[len(seconds["ours"]) // 2]},
    )
