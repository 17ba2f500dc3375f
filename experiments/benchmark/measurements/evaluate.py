"""mAP and CMC at Market-1501's size, against the bare matrix product and a loop over queries."""

from __future__ import annotations

import torch

from experiments.benchmark.catalogue import Setup
from experiments.benchmark.features import draw, market, size
from experiments.benchmark.memory import in_child
from experiments.benchmark.outcome import Case, Goal, ratio
from experiments.benchmark.references import distance_matrix, evaluate_loop
from experiments.benchmark.timing import Contest, agree
from reid.retrieval import evaluate

REPEATS = 5
SMALL_PART = 0.05


def measure(setup: Setup) -> list[Case]:
    """One case: features to scores, and scores of ready distances."""
    scale = market(64).part(SMALL_PART) if setup.quick else market(2048)
    query, gallery = draw(scale)
    distance = distance_matrix(query.features, gallery.features)
    ready = torch.from_numpy(distance)
    product = torch.empty(len(query), len(gallery))

    setup.say("each once, to compare what they return")
    contest = Contest(
        {
            "ours": lambda: evaluate(query, gallery),
            "bare product": lambda: torch.mm(query.features, gallery.features.t(), out=product),
            "loop": lambda: evaluate_loop(distance_matrix(query.features, gallery.features), query, gallery),
            "ours, distances given": lambda: evaluate(query, gallery, distance=ready),
            "loop, distances given": lambda: evaluate_loop(distance, query, gallery),
        }
    )
    mean_ap, cmc = contest.results["loop"]
    for name in ("ours", "ours, distances given"):
        scores = contest.results[name]
        agree(f"mAP of {name}", scores.mAP, mean_ap, 1e-5)
        agree(f"rank-1 of {name}", scores.rank(1), float(cmc[0]), 1e-3)
    facts = {"mAP": round(scores.mAP, 3), "rank-1": round(scores.rank(1), 3)}

    setup.say(f"timed, {setup.repeats} times in turn")
    seconds = contest.run(setup.repeats)
    setup.say("peak memory, in processes of their own")
    idle, working = (in_child(peak, quick=setup.quick, work=work) for work in (False, True))
    least = setup.limits.product_seconds(scale.queries, scale.gallery, scale.dimensions)
    return [
        Case(
            size(scale),
            [
                ratio("time / bare product", seconds["ours"], seconds["bare product"], at_most=1.3),
                ratio("loop / time", seconds["loop"], seconds["ours"], at_least=20),
                ratio(
                    "loop / time, both given the distances",
                    seconds["loop, distances given"],
                    seconds["ours, distances given"],
                    at_least=20,
                ),
                Goal("memory beyond the features", working.peak_mib - idle.peak_mib, 400, "<=", "MiB"),
            ],
            seconds,
            limit_seconds=least,
            limit="the matrix product",
            peak_mib={"features only": idle.peak_mib, "evaluation": working.peak_mib},
            facts=facts,
        )
    ]


def peak(quick: bool, work: bool) -> None:
    """Draw the features, evaluate a corner of them, and, if `work`, evaluate them all."""
    scale = market(64).part(SMALL_PART) if quick else market(2048)
    query, gallery = draw(scale)
    corner = torch.arange(min(64, len(query)))
    evaluate(query.select(corner), gallery.select(torch.arange(len(gallery))[: 64 * len(corner)]))
    if work:
        evaluate(query, gallery)
