"""Ranked list loss, forward and backward, against the bare distance matrix, a loop and a library."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from pytorch_metric_learning.losses import RankedListLoss as LibraryLoss
from torch import Tensor

from experiments.benchmark.catalogue import Setup
from experiments.benchmark.outcome import Case, ratio
from experiments.benchmark.references import euclidean_matrix, ranked_list_loss
from experiments.benchmark.timing import Contest, agree
from reid.losses import RankedListLoss

REPEATS = 15
IMAGES, QUICK_IMAGES = (64, 256, 1024), (16,)
DIMENSIONS, QUICK_DIMENSIONS = 2048, 64
INSTANCES = 4
ALPHA, MARGIN, TEMPERATURE = 2.0, 1.3, 1.0


def measure(setup: Setup) -> list[Case]:
    """One case a batch size; batches are of 4 images a person, as in training."""
    dimensions = QUICK_DIMENSIONS if setup.quick else DIMENSIONS
    return [_case(images, dimensions, setup) for images in (QUICK_IMAGES if setup.quick else IMAGES)]


def _case(images: int, dimensions: int, setup: Setup) -> Case:
    # Independent directions: every positive lies beyond the radius, so that the library, which averages over
    # those alone, computes the same loss.
    features = torch.randn(images, dimensions, generator=torch.Generator().manual_seed(0)).requires_grad_()
    pids = torch.arange(images) // INSTANCES
    ours = RankedListLoss(ALPHA, MARGIN, TEMPERATURE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = LibraryLoss(margin=MARGIN, Tn=TEMPERATURE, alpha=ALPHA, imbalance=0.5)

    contestants: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: ours(features, pids),
        "bare distance matrix": lambda: euclidean_matrix(features).sum(),
        "loop": lambda: ranked_list_loss(features, pids, ALPHA, MARGIN, TEMPERATURE),
        # The library halves the sum of both halves.
        "pytorch-metric-learning": lambda: 2 * library(features, pids),
    }
    _compare("loop", contestants["ours"], contestants["loop"], features)
    # The library adds its 1e-5 once an image, the published code once an anchor.
    _compare(
        "pytorch-metric-learning",
        contestants["pytorch-metric-learning"],
        lambda: ranked_list_loss(features, pids, ALPHA, MARGIN, TEMPERATURE, 1e-5 * images),
        features,
    )

    def forward_backward(loss: Callable[[], Tensor]) -> Callable[[], None]:
        def step() -> None:
            features.grad = None
            loss().backward()

        return step

    setup.say(f"{images} x {dimensions}")
    contest = Contest({name: forward_backward(loss) for name, loss in contestants.items()})
    seconds = contest.run(setup.repeats)
    our_seconds = seconds["ours"]
    return Case(
        f"{images} x {dimensions}",
        [
            ratio("time / bare distance matrix", our_seconds, seconds["bare distance matrix"], at_most=1.3),
            ratio("loop / time", seconds["loop"], our_seconds, at_least=8),
            ratio(
                "pytorch-metric-learning / time", seconds["pytorch-metric-learning"], our_seconds, at_least=2
            ),
        ],
        seconds,
        limit_seconds=2 * setup.limits.product_seconds(images, images, dimensions),
        limit="two products of N x N x D: distances and gradient, a pair's two directions as one",
    )


def _compare(name: str, one: Callable[[], Tensor], other: Callable[[], Tensor], features: Tensor) -> None:
    """Value and gradient must agree."""
    values, gradients = [], []
    for loss in (one(), other()):
        values.append(float(loss.detach()))
        gradients.append(torch.autograd.grad(loss, features)[0])
    agree(f"loss of {name}", values[0], values[1], 1e-5 * abs(values[0]))
    largest = float((gradients[0] - gradients[1]).abs().max() / gradients[1].abs().max())
    agree(f"gradient of {name}, largest relative difference", largest, 0.0, 2e-4)
