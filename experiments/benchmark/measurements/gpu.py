"""A GPU's images a second for each network of the table, against the bare network, and a cell's minutes."""

from __future__ import annotations

import gc
import itertools
import statistics
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import torch

from experiments.benchmark.catalogue import NotHere, Setup
from experiments.benchmark.measurements.train_step import (
    HEIGHT,
    IDENTITIES,
    INSTANCES,
    WIDTH,
    small_store,
    stream_of,
    training_batches,
)
from experiments.benchmark.outcome import Case, Goal, ratio
from experiments.benchmark.trainee import BACKBONES, Trainee
from reid.data.batches import Batch
from reid.data.image_store import ImageStore
from reid.engine.compute import choose_device

REPEATS = 5
STEPS = 30
#: A cell of the table on Market-1501: images an epoch, epochs, and the minutes that it may take.
EPOCH_IMAGES, EPOCHS, MINUTES = 12_936, 120, 10


def measure(setup: Setup) -> list[Case]:
    """bf16, channels last, the fused optimizer; eager and compiled."""
    if not torch.cuda.is_available():
        raise NotHere("no CUDA device here")
    backbones = ("resnet18",) if setup.quick else BACKBONES
    with small_store(HEIGHT, WIDTH) as store:
        return [_case(backbone, store, setup) for backbone in backbones]


def _case(backbone: str, store: ImageStore, setup: Setup) -> Case:
    device = choose_device("cuda")
    # As published: the two SE networks train on 12 x 4.
    identities = 12 if backbone.startswith("se_") else IDENTITIES
    setup.say(f"{backbone}, {setup.repeats} times {STEPS} steps, eager and compiled")
    times: dict[str, list[float]] = {}
    waits: list[float] = []
    peaks = {}
    for how in ("", ", compiled"):
        gc.collect()  # the network before it must not count
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        trainee = Trainee.build(backbone, 64, device, "bf16", compiled=bool(how))
        stream = stream_of(training_batches(store, device, identities))
        ours, bare, waited = _alternate(trainee, stream, setup.repeats)
        stream.close()
        times |= {f"ours{how}": ours, f"bare network{how}": bare}
        waits += waited
        peaks[f"GPU memory{how}"] = torch.cuda.max_memory_allocated() / 2**20
        del trainee, stream
    images = identities * INSTANCES
    medians = {name: statistics.median(values) for name, values in times.items()}
    best = min(medians["ours"], medians["ours, compiled"])
    return Case(
        f"{backbone}, batch {images}",
        [
            ratio("throughput / bare network", times["bare network"], times["ours"], at_least=0.95),
            ratio("gain of compiling", times["ours"], times["ours, compiled"]),
            Goal(
                f"a cell of the table: {EPOCHS} epochs of {EPOCH_IMAGES:,} images, training alone",
                best / images * EPOCH_IMAGES * EPOCHS / 60,
                MINUTES,
                "<=",
                "min",
            ),
            Goal(
                "share of a step that the host waits for its batch",
                100 * statistics.median(waits),
                None,
                "<=",
                "%",
            ),
        ],
        times,
        peak_mib=peaks,
        facts={"images a second": images / medians["ours"], "compiled": images / medians["ours, compiled"]},
    )


def _alternate(
    trainee: Trainee, stream: Generator[Batch, None, None], repeats: int
) -> tuple[list[float], list[float], list[float]]:
    """Seconds a step of the suite's loop and of the bare network, in turn, and the share of the loop's time
    that the host waited for its batch."""
    fixed = next(stream)
    ours: list[float] = []
    bare: list[float] = []
    waits: list[float] = []
    for _ in range(1 + repeats):
        with _timed(ours):
            totals = trainee.suite(itertools.islice(stream, STEPS))
        with _timed(bare):
            trainee.bare(fixed, STEPS)
        waits.append(totals.waited / totals.seconds)
    return ours[1:], bare[1:], waits[1:]  # the first warms up, and compiles


@contextmanager
def _timed(seconds: list[float]) -> Iterator[None]:
    """Add a GPU's seconds a step of what is done in here."""
    began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    began.record()
    yield
    ended.record()
    torch.cuda.synchronize()
    seconds.append(began.elapsed_time(ended) / 1000 / STEPS)
