"""Re-ranking at MSMT17's size: complete in 8 GiB, and how time grows with (Q+G)^2."""

from __future__ import annotations

import time

from experiments.benchmark.catalogue import Setup
from experiments.benchmark.features import draw
from experiments.benchmark.large import large_case, scale_of
from experiments.benchmark.outcome import Case
from reid.retrieval import evaluate, rerank

REPEATS = 3
DIMENSIONS, QUICK_DIMENSIONS = (512, 2048), (32,)


def measure(setup: Setup) -> list[Case]:
    """One case a number of dimensions."""
    return [
        large_case(
            work,
            setup,
            dimensions,
            growth="(Q+G)^2",
            amount=lambda scale: (scale.queries + scale.gallery) ** 2,
            limit_seconds=lambda scale: (
                setup.limits.product_seconds(
                    scale.queries + scale.gallery, scale.queries + scale.gallery, scale.dimensions
                )
                / 2
            ),
            limit="half of the (Q+G)^2 product: it is symmetric",
        )
        for dimensions in (QUICK_DIMENSIONS if setup.quick else DIMENSIONS)
    ]


def work(dimensions: int, fraction: float, quick: bool) -> dict[str, float]:
    """Draw a fraction of the images and people, re-rank them: seconds, and scores of what came out."""
    query, gallery = draw(scale_of(dimensions, fraction, quick))
    start = time.perf_counter()
    distance = rerank(query.features, gallery.features)
    seconds = time.perf_counter() - start
    scores = evaluate(query, gallery, distance=distance)
    return {"seconds": seconds, "mAP": scores.mAP, "rank-1": scores.rank(1)}
