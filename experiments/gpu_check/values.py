"""Rankings of drawn features on a device against the CPU's: `python -m experiments.gpu_check.values DEVICE`.

Prints the differences as JSON; exits 1 where one is too large.
"""

from __future__ import annotations

import json
import sys

import torch
from torch import Tensor

from experiments.benchmark.features import Scale, draw
from reid.distance import cosine, euclidean
from reid.engine.compute import Compute
from reid.losses import ClusteredRankedListLoss, RankedListLoss, TripletLoss
from reid.retrieval import Embeddings, count_pairs, evaluate, rerank

SCALE = Scale(
    queries=400, gallery=2_400, identities=100, cameras=4, dimensions=128, distractors=400, strangers=80
)
#: In float64 both order alike but for ties; in float32 a swap of neighbours moves a score by little.
EXACT, ROUNDED = 1e-9, 2e-3


def compare(device: torch.device) -> dict[str, tuple[float, float]]:
    """The largest difference of each value from the CPU's, and what is allowed."""
    found: dict[str, tuple[float, float]] = {}
    query, gallery = draw(SCALE)
    for dtype, allowed in ((torch.float64, EXACT), (torch.float32, ROUNDED)):
        name = str(dtype).removeprefix("torch.")
        both = [
            [
                Embeddings(one.features.to(place, dtype), one.pids.to(place), one.camids.to(place))
                for one in (query, gallery)
            ]
            for place in (torch.device("cpu"), device)
        ]
        plain, there = (evaluate(first, second) for first, second in both)
        found[f"{name}: mAP"] = abs(plain.mAP - there.mAP), allowed
        found[f"{name}: mINP"] = abs(plain.mINP - there.mINP), allowed
        one_query = 1.5 / SCALE.queries if dtype == torch.float32 else 0.0
        found[f"{name}: rank-1"] = abs(plain.rank(1) - there.rank(1)), max(allowed, one_query)
        distances = [rerank(first.features, second.features) for first, second in both]
        # Float32 may take another neighbour among nearly equal ones, which moves few distances, and far.
        found[f"{name}: re-ranked distances"] = _mean_difference(*distances), allowed
        scores = [
            evaluate(first, second, distance=distance).mAP
            for (first, second), distance in zip(both, distances, strict=True)
        ]
        found[f"{name}: re-ranked mAP"] = abs(scores[0] - scores[1]), allowed
        for distance in (euclidean, cosine):
            values = [distance(first.features, second.features) for first, second in both]
            found[f"{name}: {distance.__name__} distances"] = _mean_difference(*values), allowed / 10
        counts = [count_pairs(pair[0], "euclidean", "cross_camera") for pair in both]
        # A pair that lies on an edge of the grid may be counted on either side of it.
        apart = abs(counts[0].genuine - counts[1].genuine).max() / counts[0].genuine[-1]
        found[f"{name}: genuine pairs at a threshold"] = float(apart), 1e-2
        losses: tuple[torch.nn.Module, ...] = (RankedListLoss(), ClusteredRankedListLoss(), TripletLoss())
        for loss in losses:
            results = [
                _loss(loss.to(place), pair[0])
                for place, pair in zip((torch.device("cpu"), device), both, strict=True)
            ]
            label = f"{name}: {type(loss).__name__}"
            found[label] = abs(results[0][0] - results[1][0]), allowed
            found[f"{label}'s gradient"] = _mean_difference(results[0][1], results[1][1]), allowed / 10
    return found


def _loss(loss: torch.nn.Module, images: Embeddings) -> tuple[float, Tensor]:
    """The loss of the first 64 images, and its gradient."""
    features = images.features[:64].clone().requires_grad_()
    value = loss(features, images.pids[:64])
    (gradient,) = torch.autograd.grad(value, features)
    return value.item(), gradient


def _mean_difference(plain: Tensor, there: Tensor) -> float:
    return float((plain - there.cpu()).abs().mean())


def main() -> int:
    """Exit code 0: all alike; 1: not."""
    found = compare(Compute.set_up(sys.argv[1]).device)
    for name, (difference, allowed) in found.items():
        if not difference <= allowed:
            print(f"{name}: {difference:.3g} apart from the CPU's, {allowed:.3g} allowed")
    print(json.dumps({name: difference for name, (difference, _) in found.items()}))
    return int(any(not difference <= allowed for difference, allowed in found.values()))


if __name__ == "__main__":
    sys.exit(main())
