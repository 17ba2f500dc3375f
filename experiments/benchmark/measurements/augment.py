"""What each operation on a batch of training images costs, as a share of the step that it is prepared for."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from experiments.benchmark.catalogue import Setup
from experiments.benchmark.measurements.train_step import small_store
from experiments.benchmark.outcome import Case, Goal
from experiments.benchmark.trainee import Trainee
from reid.data.augment import Augmentation
from reid.data.batches import Batch, MappedImages
from reid.data.blur import RandomBlur
from reid.data.colour import RandomColour
from reid.data.policies import RandomPolicy
from reid.data.random_patch import RandomPatch
from reid.data.resize import resized

REPEATS = 9
HEIGHT, WIDTH, BATCH = 128, 64, 64
#: Each for every image of the batch: a probability makes it cheaper.
OPERATIONS = {
    "colour jitter": Augmentation(coloured=(RandomColour(1, 0.15, 0.15, 0.1, 0.1, 0),)),
    "grey": Augmentation(coloured=(RandomColour(0, 0, 0, 0, 0, 1),)),
    "blur, sigma to 1": Augmentation(coloured=(RandomBlur(1, 1.0),)),
    "blur, sigma to 2": Augmentation(coloured=(RandomBlur(1, 2.0),)),
    "random patch": Augmentation(first=(RandomPatch(1),)),
    "AutoAugment": Augmentation(first=(RandomPolicy("autoaugment", 1),)),
    "RandAugment": Augmentation(first=(RandomPolicy("randaugment", 1),)),
    "erasing with noise": Augmentation(fill="noise"),
}


def measure(setup: Setup) -> list[Case]:
    """CPU seconds of one core, since a CPU prepares batches on one core while it trains."""
    height, width = (64, 32) if setup.quick else (HEIGHT, WIDTH)
    backbone = "resnet18" if setup.quick else "mobilenet_v2"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with small_store(height, width) as store:
            indices = torch.arange(BATCH)
            images = MappedImages(store).read(indices)
            generator = torch.Generator()
            plain = Augmentation()

            def augmented(by: Augmentation) -> Callable[[], object]:
                return lambda: by(images, generator.manual_seed(0))

            setup.say(f"{len(OPERATIONS)} operations and a step of {backbone}, {setup.repeats} times")
            batch = Batch(plain(images, generator), torch.arange(BATCH) // 4, indices)
            trainee = Trainee.build(backbone, BATCH // 4, torch.device("cpu"))
            contestants: dict[str, Callable[[], object]] = {
                "training step": lambda: trainee.suite([batch]),
                "published": augmented(plain),
                **{name: augmented(by) for name, by in OPERATIONS.items()},
                "resize to half": lambda: resized(images, height // 2, width // 2),
            }
            seconds: dict[str, list[float]] = {name: [] for name in contestants}
            for turn in range(setup.repeats + 1):
                for name, call in contestants.items():
                    started = time.process_time()
                    call()
                    if turn:  # the first one allocates
                        seconds[name].append(time.process_time() - started)
    finally:
        torch.set_num_threads(threads)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    step = medians["training step"]
    goals = []
    for name in contestants:
        if name != "training step":
            beside = medians["published"] if name in OPERATIONS else 0.0
            goals.append(Goal(name, 100 * (medians[name] - beside) / step, None, "<=", "% of a step"))
    return [Case(f"{backbone}, {height}x{width}, batch {BATCH}", goals, seconds)]
