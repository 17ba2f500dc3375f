"""What the suite is measured against: the same numbers, computed plainly, the way the published code went.

Loops over anchors and queries, whole matrices, full sorts. Written for reading, used by benchmarks alone.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from reid.retrieval import Embeddings

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.integer]


def euclidean_matrix(features: Tensor) -> Tensor:
    """(N, N) distances of normalised (N, D) features: all that a loss on pairs cannot do without."""
    unit = features / (features.norm(dim=1, keepdim=True) + 1e-12)
    squares = unit.pow(2).sum(dim=1, keepdim=True).expand(len(unit), len(unit))
    squared = (squares + squares.t()).addmm(unit, unit.t(), beta=1, alpha=-2)
    return squared.clamp(min=1e-12).sqrt()


def ranked_list_loss(
    features: Tensor, pids: Tensor, alpha: float, margin: float, temperature: float, epsilon: float = 1e-5
) -> Tensor:
    """The ranked list loss anchor by anchor."""
    distance = euclidean_matrix(features)
    total = features.new_zeros(())
    for anchor in range(len(pids)):
        same = pids == pids[anchor]
        other = ~same
        same[anchor] = False
        positives, negatives = distance[anchor][same], distance[anchor][other]
        negatives = negatives[negatives < alpha]
        weight = torch.exp(temperature * (alpha - negatives))
        pull = torch.clamp(positives - (alpha - margin), min=0).sum() / (len(positives) + epsilon)
        push = (weight * (alpha - negatives)).sum() / (weight.sum() + epsilon)
        total = total + pull + push
    return total / len(pids)


def distance_matrix(query: Tensor, gallery: Tensor) -> Floats:
    """(Q, G) squared Euclidean distances, whole."""
    squares = query.pow(2).sum(dim=1, keepdim=True) + gallery.pow(2).sum(dim=1)
    return squares.addmm(query, gallery.t(), beta=1, alpha=-2).numpy()


def evaluate_loop(
    distance: Floats, query: Embeddings, gallery: Embeddings, max_rank: int = 50
) -> tuple[float, Floats]:
    """mAP and CMC (max_rank,): every row sorted at once, then one query after the other, rank after rank."""
    query_pids, gallery_pids = query.pids.numpy(), gallery.pids.numpy()
    query_camids, gallery_camids = query.camids.numpy(), gallery.camids.numpy()
    ranking = np.argsort(distance, axis=1)
    matches = gallery_pids[ranking] == query_pids[:, None]
    precisions, curves = [], []
    for row, order in enumerate(ranking):
        junk = matches[row] & (gallery_camids[order] == query_camids[row])
        match = matches[row][~junk]
        if not match.any():
            continue
        found = match.cumsum()
        curves.append(np.minimum(found, 1)[:max_rank])
        precision = [count / (rank + 1) for rank, count in enumerate(found)]
        precisions.append((np.asarray(precision) * match).sum() / match.sum())
    return float(np.mean(precisions)), np.asarray(curves, dtype=np.float64).mean(axis=0)


def rerank_dense(
    query: Tensor,
    gallery: Tensor,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    dtype: npt.DTypeLike = np.float16,
) -> Floats:
    """(Q, G) re-ranked distances, with all images by all images in full; weights are kept in `dtype`."""
    images = torch.cat([query, gallery])
    queries, count = len(query), len(images)
    original = distance_matrix(images, images)
    original = (original / original.max(axis=0)).T
    ranking = np.argsort(original).astype(np.int32)
    weights = np.zeros((count, count), dtype=dtype)
    half = int(np.around(k1 / 2))
    for image in range(count):
        unexpanded = _reciprocal(ranking, image, k1)
        expanded = unexpanded
        for member in unexpanded:
            candidates = _reciprocal(ranking, int(member), half)
            if len(np.intersect1d(candidates, unexpanded)) > 2 / 3 * len(candidates):
                expanded = np.append(expanded, candidates)
        expanded = np.unique(expanded)
        weight = np.exp(-original[image, expanded])
        weights[image, expanded] = weight / weight.sum()
    original = original[:queries]
    if k2 > 1:
        averaged = np.zeros_like(weights)
        for image in range(count):
            averaged[image] = weights[ranking[image, :k2]].mean(axis=0)
        weights = averaged
    owners = [np.nonzero(weights[:, column])[0] for column in range(count)]
    jaccard = np.zeros_like(original)
    for row in range(queries):
        shared = np.zeros(count, dtype=original.dtype)
        for column in np.nonzero(weights[row])[0]:
            who = owners[column]
            shared[who] += np.minimum(weights[row, column], weights[who, column])
        jaccard[row] = 1 - shared / (2 - shared)
    final = jaccard * (1 - lambda_value) + original * lambda_value
    return final[:, queries:]


def _reciprocal(ranking: Integers, image: int, k: int) -> Integers:
    """The first k + 1 of an image's ranking, itself included, that have it among their own first k + 1."""
    forward = ranking[image, : k + 1]
    backward = ranking[forward, : k + 1]
    return forward[np.nonzero(backward == image)[0]]
