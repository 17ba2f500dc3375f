"""All pairs of a set of images, counted by their distance in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from reid.distance import distance_function
from reid.people import NO_TRACKLET, is_person
from reid.retrieval.embeddings import Embeddings
from reid.retrieval.protocol import check_protocol
from reid.retrieval.tracklets import same_tracklet

#: Steps of the grid on which distances are counted: 1.2e-4 where the largest distance is 2.
GRID = 2**14
# A chunk's distances, masks and bins, for each pair.
_BYTES_A_PAIR = 24


class PairBlock(NamedTuple):
    """The pairs of images first, first + 1, … (R rows) with images first, first + 1, … (C columns).

    `genuine` and `impostor` (R, C) say which entries are pairs that count; each pair is in one block once.
    """

    first: int
    distance: Tensor
    genuine: Tensor
    impostor: Tensor


@dataclass(frozen=True)
class PairCounts:
    """How many pairs lie at or below each threshold, (T,) each."""

    thresholds: npt.NDArray[np.float64]
    genuine: npt.NDArray[np.int64]
    impostor: npt.NDArray[np.int64]


def pair_blocks(
    images: Embeddings, metric: str, protocol: str, chunk_bytes: int = 64 * 2**20
) -> Iterator[PairBlock]:
    """Every unordered pair of N images, block by block.

    Genuine pairs show one person, under `cross_camera` by two cameras, and never one tracklet; impostor
    pairs show two people, by any cameras, as the ranking protocol keeps them too. Distractors (pid 0) are
    people that are not known
    apart: they make impostor pairs with everybody else and none among themselves.

    Raises:
        ValueError: unknown metric or protocol.
    """
    check_protocol(protocol)
    distance = distance_function(metric)
    count = len(images)
    position = torch.arange(count, device=images.pids.device)
    first = 0
    while first < count - 1:
        rows = max(1, min(count - first, chunk_bytes // _BYTES_A_PAIR // (count - first)))
        a, b = slice(first, first + rows), slice(first, count)
        later = position[None, b] > position[a, None]
        same = images.pids[a, None] == images.pids[None, b]
        genuine = later & same & is_person(images.pids[a, None])
        if protocol == "cross_camera":
            genuine &= images.camids[a, None] != images.camids[None, b]
        if images.tracklets is not None:
            genuine &= ~same_tracklet(images.tracklets[a], images.tracklets[b])
        yield PairBlock(first, distance(images.features[a], images.features[b]), genuine, later & ~same)
        first += rows


def count_pairs(images: Embeddings, metric: str, protocol: str, chunk_bytes: int = 64 * 2**20) -> PairCounts:
    """Count all pairs on a grid of GRID steps from 0 to the largest distance that there can be.

    The counts at the grid's thresholds are exact; distances between two of them count as one.
    """
    edges = grid(images, metric)
    bins = torch.zeros(2, len(edges), dtype=torch.int64, device=edges.device)
    for block in pair_blocks(images, metric, protocol, chunk_bytes):
        place = bin_of(block.distance, edges)
        for kind, chosen in enumerate((block.genuine, block.impostor)):
            bins[kind] += torch.bincount(place[chosen], minlength=len(edges))
    genuine, impostor = bins.cumsum(1).cpu().numpy()
    return PairCounts(edges.cpu().double().numpy(), genuine, impostor)


def grid(images: Embeddings, metric: str) -> Tensor:
    """(GRID + 1,) rising thresholds in the dtype of the distances, the last of them above every distance."""
    dtype = torch.promote_types(images.features.dtype, torch.float32)
    longest = float(images.features.norm(dim=1).max()) if metric == "euclidean" and len(images) else 1.0
    # A little more than the diameter, for rounding; a set of zeros has none.
    limit = max(2 * longest * (1 + 1e-4), 1e-3)
    return torch.linspace(0, limit, GRID + 1, dtype=dtype, device=images.features.device)


def bin_of(distance: Tensor, edges: Tensor) -> Tensor:
    """Index of the smallest edge that is not below each distance; int64, of the same shape."""
    return torch.bucketize(distance, edges).clamp_(max=len(edges) - 1)


def pair_totals(
    pids: Tensor, camids: Tensor, protocol: str, tracklets: Tensor | None = None
) -> tuple[int, int]:
    """How many genuine and impostor pairs N images make, from their ids (N,), before any feature exists.

    Raises:
        ValueError: unknown protocol.
    """
    check_protocol(protocol)
    known = is_person(pids)
    within = _pairs_within(pids[known, None])
    if protocol == "cross_camera":
        within -= _pairs_within(torch.stack([pids[known], camids[known]], dim=1))
    if tracklets is not None:
        framed = known & (tracklets != NO_TRACKLET)
        labels = torch.stack([pids[framed], tracklets[framed], camids[framed]], dim=1)
        within -= _pairs_within(labels[:, :2])
        if protocol == "cross_camera":  # those were taken off as pairs of one camera
            within += _pairs_within(labels)
    return within, len(pids) * (len(pids) - 1) // 2 - _pairs_within(pids[:, None])


def _pairs_within(labels: Tensor) -> int:
    """Unordered pairs of rows (N, K) that are equal."""
    sizes = torch.unique(labels, dim=0, return_counts=True)[1]
    return int((sizes * (sizes - 1) // 2).sum())


def hardest_pairs(images: Embeddings, metric: str, batch: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The hardest positive and negative distance of each anchor of one P x K batch, (N,) each.

    The largest distance to another image of its person and the smallest to one of another pid, whatever the
    cameras: what batch-hard mining would pick (Hermans et al., arXiv 1703.07737, section 2). NaN where an
    anchor has none.

    Args:
        images: what the batch is drawn from.
        metric: of the distances.
        batch: (N,) indices of the batch's images; by default each of them once. One that stands in it twice,
            since its person has fewer than K, is no positive of itself.
    """
    if batch is None:
        batch = torch.arange(len(images))
    batch = batch.to(images.pids.device)
    images = images.select(batch)
    distance = distance_function(metric)(images.features, images.features)
    same = images.pids[:, None] == images.pids[None, :]
    positive = same & (batch[:, None] != batch[None, :]) & is_person(images.pids[:, None])
    hardest_positive = distance.masked_fill(~positive, -torch.inf).amax(dim=1)
    hardest_negative = distance.masked_fill(same, torch.inf).amin(dim=1)
    return (
        hardest_positive.masked_fill_(hardest_positive.isinf(), torch.nan),
        hardest_negative.masked_fill_(hardest_negative.isinf(), torch.nan),
    )
