"""Several models or features as one: the sum of their log-likelihood ratios, with weights.

Each distance becomes an LLR by a calibration of its own. If the models erred independently, the LLRs would
simply be added; they do not, so weights are fitted on held-out people by logistic regression (Pigeon,
Druyts and Verlinde, "Applying logistic regression to the fusion of the NIST'99 1-speaker submissions",
Digital Signal Processing 2000). A model that would get a negative weight gets none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reid.distance import distance_function
from reid.retrieval.calibration import Curve, Scorer, fit_calibration
from reid.retrieval.embeddings import Embeddings
from reid.retrieval.pairs import PairBlock, pair_blocks
from reid.retrieval.verify import Floats

#: Impostor pairs that weights are fitted on, drawn at random where there are more.
MOST_PAIRS = 200_000


@dataclass(frozen=True)
class Fusion:
    """LLR = offset + sum of weight times LLR of each model; within `limits`, which the people support."""

    curves: tuple[Curve, ...]
    metrics: tuple[str, ...]
    weights: tuple[float, ...]
    offset: float
    limits: tuple[float, float]


def fit_fusion(images: Sequence[Embeddings], metrics: Sequence[str], protocol: str, seed: int = 0) -> Fusion:
    """Calibrate each model on all pairs of the same images, and weigh them.

    images: of each model, the same rows in the same order.

    Raises:
        EvaluationError: there is no genuine or no impostor pair.
        ValueError: other images in one than in another, or a number of metrics that does not fit.
    """
    _check_same(images, metrics)
    fitted = [
        fit_calibration(one, metric, protocol, camera_pairs=False)
        for one, metric in zip(images, metrics, strict=True)
    ]
    curves = tuple(calibration.pooled for calibration in fitted)
    genuine, impostor = _llrs(images, metrics, curves, protocol, fitted[0].impostor, seed)
    weights, offset = _weights(genuine, impostor)
    highest = max(curve.llrs[0] for curve in curves)
    lowest = min(curve.llrs[-1] for curve in curves)
    return Fusion(curves, tuple(metrics), weights, offset, (lowest, highest))


def fused(fusion: Fusion, images: Sequence[Embeddings]) -> Scorer:
    """Scores the pairs of the first of these sets of embeddings; the others are of the same images."""

    def score(block: PairBlock) -> Floats:
        parts = _block_llrs(images, fusion.metrics, fusion.curves, block)
        total = sum(weight * part for weight, part in zip(fusion.weights, parts, strict=True))
        return np.asarray(np.clip(fusion.offset + total, *fusion.limits))

    return score


def alone(fusion: Fusion, number: int, images: Sequence[Embeddings]) -> Scorer:
    """Scores the same pairs by one of the models, by its calibration."""

    def score(block: PairBlock) -> Floats:
        return _block_llrs(images, fusion.metrics, fusion.curves, block)[number]

    return score


def fused_distances(fusion: Fusion, query: Sequence[Embeddings], gallery: Sequence[Embeddings]) -> Tensor:
    """(Q, G) of a ranking: minus the sum of the LLRs.

    Their lines go straight on beyond the ends of the curves, where all pairs would be alike.
    """
    total = torch.zeros(len(query[0]), len(gallery[0]), dtype=torch.float64)
    for weight, curve, metric, one, other in zip(
        fusion.weights, fusion.curves, fusion.metrics, query, gallery, strict=True
    ):
        distance = distance_function(metric)(one.features, other.features).double().cpu()
        ends, llrs = curve.distances, curve.llrs
        slope = (llrs[-1] - llrs[0]) / (ends[-1] - ends[0]) if len(ends) > 1 else 0.0
        total -= weight * slope * distance
    return total


def _check_same(images: Sequence[Embeddings], metrics: Sequence[str]) -> None:
    if not images or len(images) != len(metrics):
        raise ValueError(f"{len(images)} models and {len(metrics)} metrics; expected as many, at least one")
    for one in images[1:]:
        if not (torch.equal(one.pids, images[0].pids) and torch.equal(one.camids, images[0].camids)):
            raise ValueError("the models have embedded other images, or in another order; expected the same")


def _block_llrs(
    images: Sequence[Embeddings], metrics: Sequence[str], curves: Sequence[Curve], block: PairBlock
) -> list[Floats]:
    rows = slice(block.first, block.first + len(block.distance))
    found = []
    for number, (one, metric, curve) in enumerate(zip(images, metrics, curves, strict=True)):
        distance = block.distance if number == 0 else distance_function(metric)(
            one.features[rows], one.features[block.first :]
        )  # fmt: skip
        found.append(curve(distance.double().cpu().numpy()))
    return found


def _llrs(
    images: Sequence[Embeddings], metrics: Sequence[str], curves: Sequence[Curve], protocol: str,
    impostors: int, seed: int,
) -> tuple[Floats, Floats]:  # fmt: skip
    """The LLRs (pairs, models) of all genuine pairs, and of impostor pairs drawn at random."""
    generator = np.random.default_rng(seed)
    share = min(1.0, MOST_PAIRS / impostors)
    kinds: tuple[list[Floats], list[Floats]] = ([], [])
    for block in pair_blocks(images[0], metrics[0], protocol):
        llrs = np.stack(_block_llrs(images, metrics, curves, block), axis=-1)
        kinds[0].append(llrs[block.genuine.cpu().numpy()])
        others = llrs[block.impostor.cpu().numpy()]
        kinds[1].append(others if share == 1 else others[generator.random(len(others)) < share])
    return np.concatenate(kinds[0]), np.concatenate(kinds[1])


def _weights(genuine: Floats, impostor: Floats) -> tuple[tuple[float, ...], float]:
    """The weights of the columns and the offset, both kinds of pairs weighing the same."""
    from sklearn.linear_model import LogisticRegression  # heavy, and of no use to who only applies weights

    both = np.concatenate([genuine, impostor])
    label = np.repeat([1, 0], [len(genuine), len(impostor)])
    by = np.repeat([1 / len(genuine), 1 / len(impostor)], [len(genuine), len(impostor)])
    used = [column for column in range(both.shape[1]) if np.ptp(both[:, column]) > 0]
    weights, offset = np.zeros(both.shape[1]), 0.0
    while used:
        model = LogisticRegression(C=1e4, max_iter=1000).fit(both[:, used], label, sample_weight=by)
        found, offset = model.coef_[0], float(model.intercept_[0])
        if found.min() >= 0:
            weights[used] = found
            break
        used.pop(int(found.argmin()))
        offset = 0.0
    return tuple(weights.tolist()), offset
