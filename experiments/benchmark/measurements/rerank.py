"""Re-ranking at Market-1501's size, against the bare (Q+G)^2 product and the dense reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from experiments.benchmark.catalogue import Setup
from experiments.benchmark.features import Scale, draw, market, size
from experiments.benchmark.memory import in_child
from experiments.benchmark.outcome import Case, Goal, ratio
from experiments.benchmark.references import rerank_dense
from experiments.benchmark.timing import Contest, agree
from reid.retrieval import Embeddings, evaluate, rerank

REPEATS = 3
DIMENSIONS, QUICK_DIMENSIONS = (512, 2048), (64,)
#: The dense reference, with its peak of some 8 GiB, is timed here only.
DENSE_DIMENSIONS = 512


def measure(setup: Setup) -> list[Case]:
    """One case a number of dimensions."""
    return [_case(dimensions, setup) for dimensions in (QUICK_DIMENSIONS if setup.quick else DIMENSIONS)]


def _case(dimensions: int, setup: Setup) -> Case:
    scale = _scale(dimensions, setup.quick)
    query, gallery = draw(scale)
    images = torch.cat([query.features, gallery.features])
    _check_definition(query, gallery)
    functions: dict[str, Callable[[], Any]] = {
        "ours": lambda: rerank(query.features, gallery.features),
        "bare (Q+G)^2 product": lambda: product_in_parts(images),
    }
    dense = setup.quick or dimensions == DENSE_DIMENSIONS
    if dense:
        functions["dense"] = lambda: rerank_dense(query.features, gallery.features)

    setup.say(f"{size(scale)}: each once, to compare what they return")
    contest = Contest(functions)
    ours = contest.results["ours"]
    plain, scores = evaluate(query, gallery), evaluate(query, gallery, distance=ours)
    if dense:
        # The dense one keeps its weights in float16, as published: 3e-3, and more where a tie of the ranking
        # falls otherwise.
        difference = np.abs(ours.numpy() - contest.results["dense"])
        agree("re-ranked distances, 99.9 % of them", float(np.quantile(difference, 0.999)), 0.0, 5e-3)
        other = evaluate(query, gallery, distance=torch.from_numpy(contest.results["dense"]))
        agree("mAP of the re-ranked distances", scores.mAP, other.mAP, 2e-3)
        del difference
    del ours

    setup.say(f"{size(scale)}: timed, {setup.repeats} times in turn")
    seconds = contest.run(setup.repeats)
    setup.say(f"{size(scale)}: peak memory, in processes of their own")
    idle, working = (
        in_child(peak, dimensions=dimensions, quick=setup.quick, work=work) for work in (False, True)
    )
    goals = [
        ratio("time / bare (Q+G)^2 product", seconds["ours"], seconds["bare (Q+G)^2 product"], at_most=1.5)
    ]
    if dense:
        goals.append(ratio("dense / time", seconds["dense"], seconds["ours"], at_least=12))
    bound = 1536.0 if dimensions == DENSE_DIMENSIONS else None
    goals.append(Goal("memory beyond the features", working.peak_mib - idle.peak_mib, bound, "<=", "MiB"))
    return Case(
        size(scale),
        goals,
        seconds,
        limit_seconds=setup.limits.product_seconds(len(images), len(images), dimensions) / 2,
        limit="half of the (Q+G)^2 product: it is symmetric",
        peak_mib={"features only": idle.peak_mib, "re-ranking": working.peak_mib},
        facts={"mAP": plain.mAP, "mAP re-ranked": scores.mAP, "rank-1 re-ranked": scores.rank(1)},
    )


def peak(dimensions: int, quick: bool, work: bool) -> None:
    """Draw the features, re-rank a corner of them, and, if `work`, re-rank them all."""
    query, gallery = draw(_scale(dimensions, quick))
    rerank(query.features[:32], gallery.features[:256])
    if work:
        rerank(query.features, gallery.features)


def product_in_parts(images: torch.Tensor, part_bytes: int = 64 * 2**20) -> None:
    """All rows by all rows, a part of the rows at a time into the same memory: nothing but the product."""
    rows = max(1, part_bytes // (images.element_size() * len(images)))
    buffer = images.new_empty(rows, len(images))
    for part in images.split(rows):
        torch.mm(part, images.t(), out=buffer[: len(part)])


def _check_definition(query: Embeddings, gallery: Embeddings) -> None:
    """A corner in float64 with exact weights must agree to rounding."""
    one, other = query.features[:40].double(), gallery.features[:400].double()
    expected = rerank_dense(one, other, dtype=np.float64)
    largest = float(np.abs(rerank(one, other).numpy() - expected).max())
    agree("re-ranked distances of a corner, in float64", largest, 0.0, 1e-9)


def _scale(dimensions: int, quick: bool) -> Scale:
    return market(dimensions).part(0.03) if quick else market(dimensions)
