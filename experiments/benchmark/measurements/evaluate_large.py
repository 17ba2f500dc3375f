"""mAP and CMC at MSMT17's size: complete in 8 GiB, and how time grows with Q x G."""

from __future__ import annotations

import time

from experiments.benchmark.catalogue import Setup
from experiments.benchmark.features import draw
from experiments.benchmark.large import large_case, scale_of
from experiments.benchmark.outcome import Case
from reid.retrieval import evaluate

REPEATS = 3
DIMENSIONS, QUICK_DIMENSIONS = (512, 2048), (32,)


def measure(setup: Setup) -> list[Case]:
    """One case a number of dimensions."""
    return [
        large_case(
            work,
            setup,
            dimensions,
            growth="Q x G",
            amount=lambda scale: scale.queries * scale.gallery,
            limit_seconds=lambda scale: setup.limits.product_seconds(
                scale.queries, scale.gallery, scale.dimensions
            ),
            limit="the matrix product",
        )
        for dimensions in (QUICK_DIMENSIONS if setup.quick else DIMENSIONS)
    ]


def work(dimensions: int, fraction: float, quick: bool) -> dict[str, float]:
    """Draw a fraction of the images and people, evaluate them: seconds and scores."""
    query, gallery = draw(scale_of(dimensions, fraction, quick))
    start = time.perf_counter()
    scores = evaluate(query, gallery)
    return {"seconds": time.perf_counter() - start, "mAP": scores.mAP, "rank-1": scores.rank(1)}
