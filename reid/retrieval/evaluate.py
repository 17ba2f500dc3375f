"""Scores of a ranking: mAP, CMC, mINP.

All three follow from the ranks of each query's matches. So no row is sorted whole: the rank of a
match is one plus the number of gallery images before it, and those are counted, on a CPU by sorting
what is as near as the query's farthest match. Queries are taken in chunks, and memory stays near
`chunk_bytes` whatever the size of query and gallery.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reid.distance import squared_euclidean_less_own, squared_norms
from reid.people import NO_TRACKLET
from reid.retrieval.embeddings import Embeddings
from reid.retrieval.protocol import EvaluationError, count_matches, require_matches
from reid.words import percent

#: The gallery is read once a chunk: with less, a gallery of half a million is waited for, not computed with.
CHUNK_BYTES = 256 * 2**20


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores as fractions in [0, 1]; tensors are float64 on the CPU.

    Attributes:
        mAP: mean average precision over the valid queries.
        cmc: (max_rank,), `cmc[k - 1]` is the fraction of valid queries with a match among the first k.
        mINP: mean inverse negative penalty: (number of matches) / (rank of the last match), mean over
            the valid queries (Ye et al., TPAMI 2021, arXiv 2001.04193, equation 3).
        valid_queries: queries with at least one match; the others are skipped.
        average_precision: (Q,), in query order; NaN for a skipped query.
        first_match: (Q,) int64, rank of the first match, from 1; 0 for a skipped query.
    """

    mAP: float
    cmc: Tensor
    mINP: float
    valid_queries: int
    average_precision: Tensor
    first_match: Tensor

    def __repr__(self) -> str:
        return (
            f"Scores(mAP {percent(self.mAP)}, rank-1 {percent(self.rank(1))}, mINP {percent(self.mINP)}, "
            f"{self.valid_queries:,} queries)"
        )

    @property
    def skipped_queries(self) -> int:
        """Queries left without a match by the protocol."""
        return len(self.average_precision) - self.valid_queries

    def rank(self, k: int) -> float:
        """CMC at rank k, counted from 1: `rank(1)` is rank-1 accuracy."""
        if not 1 <= k <= len(self.cmc):
            raise ValueError(f"rank {k} was not computed; allowed: 1 to {len(self.cmc)}")
        return float(self.cmc[k - 1])


@torch.no_grad()
def evaluate(
    query: Embeddings,
    gallery: Embeddings,
    max_rank: int = 50,
    distance: Tensor | None = None,
    protocol: str = "cross_camera",
    chunk_bytes: int = CHUNK_BYTES,
    distractor: int | None = None,
) -> Scores:
    """Rank the gallery for each query and score the rankings as published.

    Features are used as they are: call `Embeddings.normalised` first for the published protocol.
    Under `cross_camera`, gallery images with the query's pid and camera are left out of its ranking;
    under `ignore_camera` none is, and query and gallery must share no image. Under both, gallery images of
    the query's own tracklet are left out. Equal distances keep
    gallery order. A query left with no match is skipped. Distractors stay in every ranking; as in the
    published code queries of pid 0, which no benchmark has, match them unless `distractor=0` says that they
    are nobody.

    Average precision is the mean, over the matches, of the precision at each match's rank.

    Args:
        query: Q images.
        gallery: G images, on the same device.
        max_rank: length of the CMC curve, which is constant beyond a smaller gallery.
        distance: (Q, G) floats, smaller is nearer, e.g. re-ranked. None for squared Euclidean
            distances of the features, computed chunk by chunk.
        protocol: "cross_camera" or "ignore_camera".
        chunk_bytes: memory that this function aims to use beyond its inputs.
        distractor: the pid of distractors, who match nobody; None: all pids are people.

    Raises:
        EvaluationError: no query has a match, or a distance is not finite.
        ValueError: unknown protocol, max_rank < 1, shapes or devices that do not fit.
    """
    _check_arguments(query, gallery, max_rank, distance)
    counts = count_matches(
        query.pids, query.camids, gallery.pids, gallery.camids, protocol, distractor,
        query.tracklets, gallery.tracklets,
    )  # fmt: skip
    require_matches(counts, protocol)

    # Queries with a similar number of matches share a chunk: their lists are padded to the longest.
    valid = (counts.usable > 0).nonzero().flatten()
    order = valid[torch.argsort(counts.total[valid], stable=True)]
    lengths = counts.total[order].tolist()
    matches = _MatchLists(query, gallery, drop_same_camera=protocol == "cross_camera")
    distances = _Distances(query, gallery, distance)
    row_bytes = len(gallery) * distances.dtype.itemsize
    chunk = max(1, min(len(order), chunk_bytes // 2 // row_bytes))

    precision = torch.full((len(query),), torch.nan, dtype=torch.float64, device=order.device)
    first_rank = torch.empty(len(order), dtype=torch.int64, device=order.device)
    inverse_penalty = torch.empty(len(order), dtype=torch.float64, device=order.device)
    for start in range(0, len(order), chunk):
        rows = order[start : start + chunk]
        columns, usable, junk = matches.of(rows, lengths[start : start + chunk][-1])
        nearness = distances.of(rows)
        # Junk moves behind every finite distance, so that no match ever counts it.
        junk_row, junk_slot = junk.nonzero(as_tuple=True)
        threshold = nearness.gather(1, columns).masked_fill_(~usable, -torch.inf)
        nearness[junk_row, columns[junk_row, junk_slot]] = torch.inf
        rank = _count_before(nearness, threshold, columns, chunk_bytes // 2) + 1
        rank = rank.masked_fill_(~usable, torch.iinfo(torch.int64).max).sort(dim=1).values

        number = usable.sum(dim=1)
        nth = torch.arange(1, rank.shape[1] + 1, device=rank.device)
        hit_precision = (nth.double() / rank.double()).masked_fill_(nth > number[:, None], 0.0)
        precision[rows] = hit_precision.sum(dim=1) / number
        first_rank[start : start + chunk] = rank[:, 0]
        last_rank = rank.gather(1, number[:, None] - 1).squeeze(1)
        inverse_penalty[start : start + chunk] = number.double() / last_rank.double()

    first_match = torch.zeros(len(query), dtype=torch.int64, device=order.device)
    first_match[order] = first_rank
    histogram = torch.bincount(first_rank.clamp(max=max_rank + 1), minlength=max_rank + 2)[1 : max_rank + 1]
    return Scores(
        mAP=float(precision[valid].mean()),
        cmc=(histogram.cumsum(0).double() / len(order)).cpu(),
        mINP=float(inverse_penalty.mean()),
        valid_queries=len(order),
        average_precision=precision.cpu(),
        first_match=first_match.cpu(),
    )


class _MatchLists:
    """The gallery positions of each query's pid, padded to a rectangle."""

    def __init__(self, query: Embeddings, gallery: Embeddings, drop_same_camera: bool) -> None:
        self.query, self.gallery, self.drop_same_camera = query, gallery, drop_same_camera
        sorted_pids, self.by_pid = torch.sort(gallery.pids, stable=True)
        self.begin = torch.searchsorted(sorted_pids, query.pids)
        self.end = torch.searchsorted(sorted_pids, query.pids, right=True)

    def of(self, rows: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Columns (B, length) of the same-pid images of the queries `rows`; which are matches; which junk."""
        slot = self.begin[rows, None] + torch.arange(length, device=rows.device)
        listed = slot < self.end[rows, None]
        columns = self.by_pid[slot.clamp(max=len(self.by_pid) - 1)]
        left_out = torch.zeros_like(listed)
        if self.drop_same_camera:
            left_out = self.gallery.camids[columns] == self.query.camids[rows, None]
        if self.query.tracklets is not None and self.gallery.tracklets is not None:
            own = self.query.tracklets[rows, None]
            left_out = left_out | ((self.gallery.tracklets[columns] == own) & (own != NO_TRACKLET))
        return columns, listed & ~left_out, listed & left_out


class _Distances:
    """Rows that order as the (Q, G) distances do: computed chunk by chunk, or taken from `distance`."""

    def __init__(self, query: Embeddings, gallery: Embeddings, distance: Tensor | None) -> None:
        self.query, self.gallery, self.distance = query, gallery, distance
        source = query.features.dtype if distance is None else distance.dtype
        self.dtype = torch.promote_types(source, torch.float32)
        self.chunk = gallery.features.new_empty(0, dtype=self.dtype)
        if distance is None:
            self.gallery_norms = squared_norms(gallery.features)
            # No number on the way to a distance is larger than this.
            self.largest = 2 * (squared_norms(query.features) + self.gallery_norms.amax())

    def of(self, rows: Tensor) -> Tensor:
        """(B, G) for the queries `rows`, to be changed at will; the next call overwrites them."""
        if self.distance is not None:
            chunk = self.distance[rows.to(self.distance.device)].to(rows.device, self.dtype)
            _check_finite(rows, chunk.sum(dim=1))
            return chunk
        _check_finite(rows, self.largest[rows])
        if len(self.chunk) < len(rows):
            self.chunk = self.chunk.new_empty(len(rows), len(self.gallery))
        features = self.query.features[rows]
        chunk = self.chunk[: len(rows)]
        return squared_euclidean_less_own(features, self.gallery.features, self.gallery_norms, chunk)


def _check_finite(rows: Tensor, values: Tensor) -> None:
    """Refuse the queries `rows` (B,) where `values` (B,) are not finite."""
    finite = values.isfinite()
    if not bool(finite.all()):
        bad = rows[~finite].tolist()
        raise EvaluationError(
            f"distances of {len(bad)} queries are NaN, infinite or too large to sum, first of query row "
            f"{min(bad)}; ranks exist for finite distances only"
        )


def _count_before(distance: Tensor, threshold: Tensor, columns: Tensor, budget: int) -> Tensor:
    """How many gallery images come before each listed one: nearer, or as near and earlier in the gallery.

    Args:
        distance: (B, G).
        threshold: (B, M), distances at `columns`; -inf where the list is padded, which counts none.
        columns: (B, M) int64.
        budget: bytes of workspace on a GPU.

    Returns:
        (B, M) int64.
    """
    if distance.device.type == "cpu":
        return count_by_row(distance, threshold, columns)
    return count_by_block(distance, threshold, columns, budget)


def count_by_row(distance: Tensor, threshold: Tensor, columns: Tensor) -> Tensor:
    """`_count_before`, one query at a time: what is as near as its farthest match is sorted, and all its
    matches are looked up there."""
    before = torch.zeros_like(columns)
    rows, bounds, positions, counts = (x.numpy() for x in (distance, threshold, columns, before))
    for values, bound, position, count in zip(rows, bounds, positions, counts, strict=True):
        listed = bound > -np.inf
        wanted = bound[listed]
        near = values[values <= wanted.max(initial=-np.inf)]
        near.sort()
        nearer = near.searchsorted(wanted)
        equal = near.searchsorted(wanted, side="right") - nearer
        for slot in np.flatnonzero(equal > 1):  # The match itself is one of them.
            nearer[slot] += np.count_nonzero(values[: position[listed][slot]] == wanted[slot])
        count[listed] = nearer
    return before


def count_by_block(distance: Tensor, threshold: Tensor, columns: Tensor, budget: int) -> Tensor:
    """`_count_before`, as many matches at a time as fit `budget` bytes, with three (G,) masks each."""
    queries, listed = threshold.shape
    position = torch.arange(distance.shape[1], device=distance.device)
    matches = max(1, budget // (3 * len(position)))
    slots = min(listed, matches)
    block = matches // slots
    before = torch.zeros_like(columns)
    for row in range(0, queries, block):
        for slot in range(0, listed, slots):
            part = slice(row, row + block), slice(slot, slot + slots)
            values, bound = distance[part[0], None, :], threshold[part][:, :, None]
            comes_before = values == bound
            comes_before &= position < columns[part][:, :, None]
            comes_before |= values < bound
            before[part] = comes_before.sum(dim=2)
    return before


def _check_arguments(query: Embeddings, gallery: Embeddings, max_rank: int, distance: Tensor | None) -> None:
    if max_rank < 1:
        raise ValueError(f"max_rank is {max_rank}; it must be at least 1")
    if len(gallery) == 0:
        raise EvaluationError("the gallery is empty; at least one image is needed")
    if query.features.device != gallery.features.device:
        raise ValueError(
            f"query is on {query.features.device}, gallery on {gallery.features.device}; move one with .to()"
        )
    if distance is None and query.features.shape[1] != gallery.features.shape[1]:
        raise ValueError(
            f"query features have {query.features.shape[1]} dimensions, gallery features "
            f"{gallery.features.shape[1]}; both must come from the same model"
        )
    expected = (len(query), len(gallery))
    if distance is not None and (distance.shape != expected or not distance.is_floating_point()):
        raise ValueError(
            f"distance is {distance.dtype} of shape {tuple(distance.shape)}; "
            f"expected floats of shape {expected}: one row a query, one column a gallery image"
        )
