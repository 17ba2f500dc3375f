"""The whole path from files to scores at 1, 2, 4 and 8 times the images and people: how each part grows."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from experiments.benchmark.catalogue import Setup
from experiments.benchmark.crops import linked_market
from experiments.benchmark.growth import growth_goal
from experiments.benchmark.measurements.train_step import training_batches
from experiments.benchmark.outcome import Case
from experiments.benchmark.trainee import Trainee
from reid.data import load_dataset
from reid.data.image_store import open_store
from reid.judging.embed import embed
from reid.retrieval import evaluate

REPEATS = 3
FACTORS, QUICK_FACTORS = (1, 2, 4, 8), (1, 2)
#: People to train on at 1 x; half as many to test on.
PEOPLE, QUICK_PEOPLE, EACH = 96, 16, 8
SIZE, QUICK_SIZE = (64, 32), (32, 16)
RANKING = "ranking"


def measure(setup: Setup) -> list[Case]:
    """One case a part of the path, and one for all of it."""
    factors, size = (QUICK_FACTORS, QUICK_SIZE) if setup.quick else (FACTORS, SIZE)
    images, pairs = [], []
    seconds: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for factor in factors:
            people = factor * (QUICK_PEOPLE if setup.quick else PEOPLE)
            root = Path(folder) / f"x{factor}"
            dataset = linked_market(root, people, EACH)
            images.append(len(dataset.train) + len(dataset.query) + len(dataset.gallery))
            pairs.append(len(dataset.query) * len(dataset.gallery))
            setup.say(f"{factor} x: {images[-1]:,} images, {setup.repeats} times")
            for repeat in range(setup.repeats + 1):
                store = Path(folder) / f"store-{factor}-{repeat}"
                for part, spent in _path(root, store, people, size).items():
                    if repeat:  # the first one warms up
                        seconds.setdefault(part, {}).setdefault(f"{factor} x", []).append(spent)
    cases = []
    for part, times in seconds.items():
        medians = [statistics.median(values) for values in times.values()]
        work, what = (pairs, "query x gallery") if part == RANKING else (images, "images")
        cases.append(Case(part, [growth_goal(what, work, medians)], times))
    return cases


def _path(root: Path, folder: Path, people: int, size: tuple[int, int]) -> dict[str, float]:
    """Seconds of each part, from files to scores."""
    spent: dict[str, float] = {}

    @contextmanager
    def timed(part: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        spent[part] = time.perf_counter() - started

    device = torch.device("cpu")
    with timed("reading the folders"):
        dataset = load_dataset("folder", root)
    with timed("decoding into the store"):
        training = open_store(dataset.train, *size, folder)
        judged = open_store(dataset.query + dataset.gallery, *size, folder)
    with timed("an epoch's batches"):
        batches = training_batches(training, device)
        plan = batches.plan(1)
        for _ in batches.of(plan, 1):
            pass
    trainee = Trainee.build("resnet18", people, device)
    with timed("training an epoch"):
        trainee.suite(batches.of(plan, 1))
    with timed("embedding"):
        query, gallery = (
            embed(trainee.model, judged.subset(crops), trainee.compute, normalise=True)
            for crops in (dataset.query, dataset.gallery)
        )
    with timed(RANKING):
        evaluate(query, gallery)
    spent["all but the ranking"] = sum(value for part, value in spent.items() if part != RANKING)
    return spent
