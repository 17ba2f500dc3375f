"""What `compile=true` gains on a CPU for each step of training, and what compiling takes first."""

from __future__ import annotations

import time

import torch

from experiments.benchmark.catalogue import NotHere, Setup
from experiments.benchmark.measurements.train_step import small_store, stream_of, training_batches
from experiments.benchmark.outcome import Case, ratio
from experiments.benchmark.timing import Contest
from experiments.benchmark.trainee import Trainee
from reid.config.checks import ConfigError
from reid.data.image_store import ImageStore
from reid.engine.runtime import require_compiler

REPEATS = 5
BACKBONES = ("mobilenet_v2", "resnet50")
HEIGHT, WIDTH = 128, 64
STEPS = 4


def measure(setup: Setup) -> list[Case]:
    """One case a network; a GPU's gain is in `gpu`."""
    if setup.quick:
        raise NotHere("compiling takes as long for small images: leave --quick out")
    try:
        require_compiler(torch.device("cpu"))
    except ConfigError as error:
        raise NotHere(str(error)) from error
    with small_store(HEIGHT, WIDTH) as store:
        return [_case(backbone, store, setup) for backbone in BACKBONES]


def _case(backbone: str, store: ImageStore, setup: Setup) -> Case:
    setup.say(f"{backbone}: compiling, then {setup.repeats} times {STEPS} steps")
    device = torch.device("cpu")
    eager, compiled = (Trainee.build(backbone, 64, device, compiled=how) for how in (False, True))
    fixed = next(stream_of(training_batches(store, device)))
    started = time.perf_counter()
    compiled.suite([fixed])
    compiling = time.perf_counter() - started
    contest = Contest(
        {
            "eager": lambda: eager.suite(STEPS * [fixed]),
            "compiled": lambda: compiled.suite(STEPS * [fixed]),
        }
    )
    seconds = {name: [one / STEPS for one in every] for name, every in contest.run(setup.repeats).items()}
    return Case(
        f"{backbone}, {store.pixels.shape[1]}x{store.pixels.shape[2]}, batch {len(fixed.labels)}",
        [ratio("gain of compiling", seconds["eager"], seconds["compiled"])],
        seconds,
        facts={"the first step, with compiling, s": compiling},
    )
