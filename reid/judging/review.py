"""What a model does query by query: the ranked list of each, and why it failed; the labels that it doubts.

Pure functions on embeddings. They compute block by block: at 20,000 images memory stays near `chunk_bytes`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, StrEnum

import torch
from torch import Tensor

from reid.distance import (
    SMALLEST_DISTANCE,
    distance_function,
    normalise,
    squared_euclidean,
    squared_euclidean_less_own,
    squared_norms,
)
from reid.people import DISTRACTOR
from reid.retrieval.embeddings import Embeddings
from reid.retrieval.evaluate import evaluate
from reid.retrieval.tracklets import junk

CHUNK_BYTES = 128 * 2**20

#: A right match behind this rank is not seen by who looks through the first of a list.
SEEN = 20
#: So many of the nearest images have to show one other person before a query's own label is doubted.
AGREEING = 3
#: A crop of less than this share of the median area is tiny: half as high and half as wide.
TINY_AREA = 0.25
#: The share of the queries whose features are the shortest; see `review_queries`. On the Market train-half
#: split (MobileNetV2, 7 epochs) 49 % of these found another person first, and 18 % of the other queries.
WEAKEST = 0.05
#: A list of suspects ends halfway between the usual, 0, and the doubt's own case, 1.
LEAST_SCORE = 0.5


class Mark(IntEnum):
    """What a gallery image is to a query; junk stands in the list and does not count."""

    WRONG = 0
    RIGHT = 1
    JUNK = 2
    DISTRACTOR = 3


class Kind(StrEnum):
    """How a query went. `review_queries` says by what rule."""

    FOUND = "found"
    LABEL_SUSPECT = "label suspect"
    OCCLUDED_OR_TINY = "occluded or tiny"
    NO_MATCH_NEAR = "no match near"
    LOOK_ALIKE_FIRST = "look-alike first"
    NOT_JUDGED = "not judged"


@dataclass(frozen=True, eq=False)
class Ranking:
    """The first images of the rankings of B queries, junk among them.

    Attributes:
        order: (B, top) int64, gallery rows, the nearest first.
        marks: (B, top) int8, values of `Mark`.
        distances: (B, top) in the metric of the model, or as they were given.
    """

    order: Tensor
    marks: Tensor
    distances: Tensor


@dataclass(frozen=True, eq=False)
class QueryReview:
    """One query and its ranking.

    Attributes:
        query: its row among the queries, from 0.
        kind: how it went.
        ap: average precision as `evaluate` has it; None for a query that it skips.
        first_match: the rank of the first right match, from 1, junk not counted; None as above.
        match: the gallery row of that match, and `match_distance` its distance; None as above.
        cameras: the query's camid and that of the first right match, -1 as above.
        order, marks, distances: as in `Ranking`, (top,) each, on the CPU.
    """

    query: int
    kind: Kind
    ap: float | None
    first_match: int | None
    match: int | None
    match_distance: float | None
    cameras: tuple[int, int]
    order: Tensor
    marks: Tensor
    distances: Tensor


@torch.no_grad()
def ranking(
    query: Embeddings,
    gallery: Embeddings,
    *,
    protocol: str = "cross_camera",
    metric: str = "euclidean",
    distance: Tensor | None = None,
    top: int = 50,
    distractor: int | None = DISTRACTOR,
) -> Ranking:
    """The ranked lists of a few queries, as `review_queries` has them; it keeps (B, G) numbers."""
    values = _values(query, gallery, squared_norms(gallery.features), distance)
    order = first_sorted(values, min(top, len(gallery)))
    marks = _marks(query, gallery, protocol, distractor).gather(1, order)
    return Ranking(order, marks, _shown(query, gallery, order, metric, distance))


@torch.no_grad()
def review_queries(
    query: Embeddings,
    gallery: Embeddings,
    *,
    protocol: str = "cross_camera",
    metric: str = "euclidean",
    threshold: float | None = None,
    distance: Tensor | None = None,
    sizes: Tensor | None = None,
    strengths: Tensor | None = None,
    top: int = 50,
    distractor: int | None = DISTRACTOR,
    chunk_bytes: int = CHUNK_BYTES,
) -> list[QueryReview]:
    """Every query's ranked list, its average precision, and how it went, in the order of the queries.

    The kind is the first of these that holds:

    - `not judged`: the protocol leaves no right match for it, so it enters no score.
    - `found`: the first image of its ranking (junk not counted) shows its person.
    - `label suspect`: the first AGREEING images all show one other person, each within the threshold, while
      no right match is near (see below). A look-alike that was seen often looks the same: look at both.
    - `occluded or tiny`: its picture has less than TINY_AREA of the median area of all queries, or its
      feature before any normalisation is among the WEAKEST share of the queries' by length: few places of the
      map said anything. That is a hint, not a measurement of what stands before the person.
    - `no match near`: no right match is near: the first one lies behind rank SEEN or beyond the threshold.
    - `look-alike first`: what is left: another person comes first, and a right match is near.

    Without a threshold only the ranks speak.

    Args:
        query, gallery: as `evaluate` takes them, so normalised where the model's space is.
        protocol: "cross_camera" or "ignore_camera".
        metric: "euclidean" or "cosine", of the distances that are listed. The order is that of `evaluate`, by
            squared Euclidean distances, which for normalised features is the same.
        threshold: the stored one of this space; a distance of at most this counts as the same person.
        distance: (Q, G) that are ranked by instead, e.g. re-ranked; no threshold holds for those.
        sizes: (Q, 2) whole numbers, height and width of the queries' pictures in pixels.
        strengths: (Q,) L2 norms of the queries' features before they are normalised.
        top: how many of each ranking are listed.

    Raises:
        EvaluationError, ValueError: as `evaluate`.
    """
    scores = evaluate(query, gallery, distance=distance, protocol=protocol, distractor=distractor)
    weak = _weak(len(query), sizes, strengths)
    limit = threshold if distance is None else None
    norms = squared_norms(gallery.features)
    reviews: list[QueryReview] = []
    for rows in torch.arange(len(query), device=query.pids.device).split(
        max(1, chunk_bytes // (24 * len(gallery)))
    ):
        some = query.select(rows)
        known = None if distance is None else distance[rows.to(distance.device)]
        values = _values(some, gallery, norms, known)  # ours to change
        marks = _marks(some, gallery, protocol, distractor)
        order = first_sorted(values, min(top, len(gallery)))
        listed_marks = marks.gather(1, order).cpu()
        first, agree = _agreed(values.masked_fill_(marks == Mark.JUNK, torch.inf), marks, gallery.pids)
        match = values.masked_fill_(marks != Mark.RIGHT, torch.inf).argmin(dim=1, keepdim=True)
        columns = torch.cat([match, first, order], dim=1)
        shown = _shown(some, gallery, columns, metric, known)
        own, others, listed = (part.cpu() for part in shown.split([1, first.shape[1], order.shape[1]], dim=1))
        if limit is not None:
            agree = agree.cpu() & (others <= limit).all(dim=1)
        order = order.cpu()
        for number, row in enumerate(rows.tolist()):
            rank, place = int(scores.first_match[row]), int(match[number])
            far = rank > SEEN or (limit is not None and float(own[number]) > limit)
            reviews.append(
                QueryReview(
                    row,
                    _kind(rank, far, bool(agree[number]), bool(weak[row])),
                    float(scores.average_precision[row]) if rank else None,
                    rank or None,
                    place if rank else None,
                    float(own[number]) if rank else None,
                    (int(some.camids[number]), int(gallery.camids[place]) if rank else -1),
                    order[number],
                    listed_marks[number],
                    listed[number],
                )
            )
    return reviews


def _kind(rank: int, far: bool, agree: bool, weak: bool) -> Kind:
    """The rules of `review_queries`; `far`: no right match is near."""
    if rank == 0:
        return Kind.NOT_JUDGED
    if rank == 1:
        return Kind.FOUND
    if far and agree:
        return Kind.LABEL_SUSPECT
    if weak:
        return Kind.OCCLUDED_OR_TINY
    return Kind.NO_MATCH_NEAR if far else Kind.LOOK_ALIKE_FIRST


def _values(some: Embeddings, gallery: Embeddings, norms: Tensor, distance: Tensor | None) -> Tensor:
    """(B, G) that order as `evaluate` does."""
    if distance is not None:
        return distance.to(gallery.features.device, copy=True)
    return squared_euclidean_less_own(some.features, gallery.features, norms)


def _shown(
    some: Embeddings, gallery: Embeddings, columns: Tensor, metric: str, values: Tensor | None
) -> Tensor:
    """(B, L) distances to the columns: those of `values`, where they were given, or in the metric."""
    if values is not None:
        return values.to(columns.device).gather(1, columns)
    return _listed_distances(some.features, gallery.features, columns, metric)


def _weak(queries: int, sizes: Tensor | None, strengths: Tensor | None) -> Tensor:
    """(Q,) bool: the tiny pictures and the weakest features."""
    weak = torch.zeros(queries, dtype=torch.bool)
    if sizes is not None and queries:
        area = sizes.double().prod(dim=1).cpu()
        weak |= area < TINY_AREA * area.median()
    if strengths is not None and queries:
        strengths = strengths.double().cpu()
        weak |= strengths < strengths.quantile(WEAKEST)
    return weak


def _marks(some: Embeddings, gallery: Embeddings, protocol: str, distractor: int | None) -> Tensor:
    """(B, G) int8, values of `Mark`."""
    right = some.pids[:, None] == gallery.pids[None, :]
    if distractor is not None:
        right &= (some.pids != distractor)[:, None]
    marks = right.to(torch.int8)
    if distractor is not None:
        marks.masked_fill_((gallery.pids == distractor)[None, :], Mark.DISTRACTOR)
    return marks.masked_fill_(right & junk(some, gallery, protocol), Mark.JUNK)


def _agreed(counted: Tensor, marks: Tensor, pids: Tensor) -> tuple[Tensor, Tensor]:
    """The first AGREEING columns of each ranking without junk, and whether they show one other person.

    (B, A) and (B,).
    """
    count = min(AGREEING, counted.shape[1])
    first = first_sorted(counted, count)
    other = (marks.gather(1, first) == Mark.WRONG).all(dim=1)
    shown = pids[first]
    return first, other & (shown == shown[:, :1]).all(dim=1) & (count == AGREEING)


def first_sorted(values: Tensor, count: int) -> Tensor:
    """(B, count) columns of the smallest of `values` (B, G), rising; equal ones in their order."""
    more = min(count + 1, values.shape[1])
    near, columns = values.topk(more, dim=1, largest=False)
    if more > count > 0:  # `topk` takes any of those that are as far as the last
        for row in (near[:, -1] == near[:, -2]).nonzero().flatten().tolist():
            columns[row] = values[row].sort(stable=True).indices[:more]
    columns = columns[:, :count].sort(dim=1).values
    return columns.gather(1, values.gather(1, columns).sort(dim=1, stable=True).indices)


def _listed_distances(features: Tensor, gallery: Tensor, columns: Tensor, metric: str) -> Tensor:
    """(B, L) distances of each row of `features` (B, C) to the rows `columns` (B, L) of `gallery`.

    From differences, in float32 at least: nothing cancels, so near pairs keep their digits.
    """
    distance_function(metric)  # refuses another name
    dtype = torch.promote_types(features.dtype, torch.float32)
    found = torch.empty(columns.shape, dtype=dtype, device=features.device)
    for row, (feature, listed) in enumerate(zip(features.to(dtype), columns, strict=True)):
        others = gallery[listed].to(dtype)
        if metric == "cosine":
            found[row] = (1 - normalise(others) @ normalise(feature[None])[0]).clamp_(0, 2)
        else:
            found[row] = (others - feature).norm(dim=1).clamp_(min=SMALLEST_DISTANCE)
    return found


class SuspectKind(StrEnum):
    """What a suspect pair puts in question."""

    TWO_NAMES = "one person under two names"
    WRONG_NAME = "a crop under the wrong name"
    ONE_NAME = "two people under one name"


@dataclass(frozen=True)
class Suspect:
    """A pair of images whose labels the model doubts.

    Attributes:
        first, second: rows of the embeddings. Under two names, the nearest pair between them. Of a crop under
            the wrong name, that crop and the nearest of another name. Under one name, the crop that lies
            apart, and of the others the one that lies nearest to all of them.
        distance: of the two, in the metric.
        kind: what is in question.
        score: how sure it is, see `suspects`.
    """

    first: int
    second: int
    distance: float
    kind: SuspectKind
    score: float


@torch.no_grad()
def suspects(
    images: Embeddings,
    *,
    metric: str = "euclidean",
    threshold: float | None = None,
    count: int = 200,
    per_person: int = 3,
    without: Iterable[tuple[int, int]] = (),
    distractor: int | None = DISTRACTOR,
    chunk_bytes: int = CHUNK_BYTES,
) -> list[Suspect]:
    """The pairs of N images that the model thinks the same under two names, and different under one name.

    With own(i) the distance of image i to the nearest other image of its name, other(i) that to the nearest
    image of another name, apart(i) its mean distance to the others of its name, and between(A, B) the mean
    distance of the images of two names, the kinds are sorted by

    - one person under two names, A and B: the mean of apart(i) over the images of both, less between(A, B). B
      is the name that most images of A have as their nearest. The score is 0 where this is as usual
      (the median over all such pairs of names) and 1 where the two lie no farther apart than each in itself.
    - a crop under the wrong name: own(i) - other(i). The score is 0 where this is as usual and 1 where i is
      as near to another name as to its own.
    - two people under one name: apart(i). The score is 0 where this is as usual and 1 where i is as far
      from its own name as the images of all others are on the average.

    Each list ends where the score is not above LEAST_SCORE. Given a threshold, a pair is also left out
    where the distance speaks against it: above the threshold under two names, within it under one. Two
    names that are listed as one person are in no pair of the second kind, and the first image of a listed
    pair is in no later one of its kind: its neighbours would be listed for its sake alone.

    Args:
        images: of one split or of several, as they are compared: normalised where the model's space is.
        metric, threshold: of the distances.
        count: how many pairs of each kind at most.
        per_person: in how many pairs of each kind one name stands at most, so that one bad identity does not
            fill the list.
        without: pairs of rows that have a verdict already, each in any order.
        distractor: the pid of those who are not one person; they are in no pair.

    Returns:
        One kind after the other, each by falling score.

    Raises:
        ValueError: unknown metric.
    """
    people = torch.arange(len(images), device=images.pids.device)
    if distractor is not None:
        people = people[images.pids != distractor]
    some = images.select(people)
    groups = _groups(some.pids)
    if len(groups) < 2:
        return []
    own, apart, typical = _within_names(some, groups, metric)
    other, nearest, strangers = _other_names(some, groups, metric, chunk_bytes)
    names = _whole_names(some, groups, apart, nearest, metric)
    doubt = _doubt(own - other)
    crops = [(float(doubt[first]), first, int(second)) for first, second in enumerate(nearest)]
    usual = float(apart.median())
    far = (apart - usual) / (strangers - usual) if strangers > usual else apart - usual
    outliers = [(float(far[first]), first, int(second)) for first, second in enumerate(typical)]

    seen = {frozenset(pair) for pair in without}
    found: list[Suspect] = []
    one_person: set[frozenset[int]] = set()
    for kind, candidates in (
        (SuspectKind.TWO_NAMES, names),
        (SuspectKind.WRONG_NAME, crops),
        (SuspectKind.ONE_NAME, outliers),
    ):
        doubted: set[int] = set()
        stands: Counter[int] = Counter()
        listed = 0
        for score, first, second in sorted(candidates, key=lambda one: (-one[0], *one[1:])):
            if listed == count or score <= LEAST_SCORE:
                break
            pids = frozenset((int(some.pids[first]), int(some.pids[second])))
            rows = int(people[first]), int(people[second])
            if second < 0 or doubted & {first, second} or pids in one_person or frozenset(rows) in seen:
                continue
            if any(stands[pid] >= per_person for pid in pids):
                continue
            columns = torch.tensor([[second]], device=people.device)
            distance = float(_listed_distances(some.features[[first]], some.features, columns, metric))
            if threshold is not None and (distance > threshold) != (kind is SuspectKind.ONE_NAME):
                continue
            found.append(Suspect(*rows, distance, kind, score))
            doubted.add(first)
            stands.update(pids)
            listed += 1
            if kind is SuspectKind.TWO_NAMES:
                one_person.add(pids)
    return found


def _groups(pids: Tensor) -> list[Tensor]:
    """The rows of each pid, by rising pid."""
    order = pids.sort(stable=True).indices
    return list(order.split(pids.unique(return_counts=True)[1].tolist()))


def _within_names(some: Embeddings, groups: list[Tensor], metric: str) -> tuple[Tensor, Tensor, Tensor]:
    """Of each image, among the others of its name: the nearest one's distance, the mean distance, and which
    of them lies nearest to all; (N,) each. Where there is no other these are the medians, and -1."""
    distance = distance_function(metric)
    dtype = torch.promote_types(some.features.dtype, torch.float32)
    own = torch.full(some.pids.shape, torch.nan, dtype=dtype, device=some.pids.device)
    apart, typical = own.clone(), torch.full_like(some.pids, -1)
    for rows in groups:
        if len(rows) == 1:
            continue
        within = distance(some.features[rows], some.features[rows]).fill_diagonal_(0)
        mean = within.sum(dim=1) / (len(rows) - 1)
        apart[rows] = mean
        own[rows] = within.fill_diagonal_(torch.inf).amin(dim=1)
        first, second = first_sorted(mean[None], 2)[0].tolist()
        typical[rows] = rows[first]
        typical[rows[first]] = rows[second]
    for values in (own, apart):
        alone = values.isnan()
        values[alone] = values[~alone].median() if bool((~alone).any()) else 0.0
    return own, apart, typical


def _other_names(
    some: Embeddings, groups: list[Tensor], metric: str, chunk_bytes: int
) -> tuple[Tensor, Tensor, float]:
    """Of each image, the distance to the nearest one of another name, and its row, (N,) each; and how far
    images of two names are on the average.

    Each distance is computed once for the two images that it lies between. The average is that of the
    squares, whose sum over all pairs needs no pair: sum |a - b|^2 = 2 N sum |a|^2 - 2 |sum a|^2.
    """
    order = torch.cat(groups)  # a name's images side by side
    features = some.features[order]
    features = normalise(features) if metric == "cosine" else features
    norms = squared_norms(features)
    best = torch.full_like(norms, torch.inf)
    nearest = torch.zeros_like(order)
    sizes = [len(rows) for rows in groups]
    tiles = _tiles(sizes, side=max(1, math.isqrt(chunk_bytes // (4 * norms.itemsize))))

    def update(images: slice, first: int, found: torch.return_types.min) -> None:
        nearer = found.values < best[images]
        best[images] = torch.where(nearer, found.values, best[images])
        nearest[images] = torch.where(nearer, found.indices + first, nearest[images])

    for number, (rows, within) in enumerate(tiles):
        values = squared_euclidean(features[rows], features[rows], norms[rows], a_squared_norms=norms[rows])
        for start, end in within:
            values[start:end, start:end] = torch.inf
        update(rows, rows.start, values.min(dim=1))
        for columns, _ in tiles[number + 1 :]:
            values = squared_euclidean(
                features[rows], features[columns], norms[columns], a_squared_norms=norms[rows]
            )
            update(rows, columns.start, values.min(dim=1))
            update(columns, rows.start, values.min(dim=0))

    whole = _sum_of_squares(features, norms) - sum(
        _sum_of_squares(*one) for one in zip(features.split(sizes), norms.split(sizes), strict=True)
    )
    mean = whole / (len(order) ** 2 - sum(size**2 for size in sizes))
    other, back = torch.empty_like(best), torch.empty_like(order)
    # Of unit vectors the cosine distance is half the squared one.
    shown = best / 2 if metric == "cosine" else best.clamp(min=SMALLEST_DISTANCE**2).sqrt()
    other[order], back[order] = shown, order[nearest]
    return other, back, mean / 2 if metric == "cosine" else mean**0.5


def _tiles(sizes: list[int], side: int) -> list[tuple[slice, list[tuple[int, int]]]]:
    """Runs of whole names of about `side` images, each with where its names begin and end in it."""
    tiles, start, within = [], 0, list[tuple[int, int]]()
    for size in sizes:
        if within and within[-1][1] + size > side:
            tiles.append((slice(start, start + within[-1][1]), within))
            start, within = start + within[-1][1], []
        begin = within[-1][1] if within else 0
        within.append((begin, begin + size))
    return [*tiles, (slice(start, start + within[-1][1]), within)]


def _sum_of_squares(features: Tensor, norms: Tensor) -> float:
    """Of the distances of all ordered pairs."""
    total = features.sum(dim=0, dtype=torch.float64)
    return 2 * len(features) * float(norms.sum(dtype=torch.float64)) - 2 * float(total @ total)


def _whole_names(
    some: Embeddings, groups: list[Tensor], apart: Tensor, nearest: Tensor, metric: str
) -> list[tuple[float, int, int]]:
    """Score and nearest pair of every name and the one that most of its images are nearest to."""
    distance = distance_function(metric)
    place = {int(some.pids[rows[0]]): number for number, rows in enumerate(groups)}
    margins, pairs = [], []
    for rows in groups:
        counted = Counter(some.pids[nearest[rows]].tolist())
        most = max(counted.values())
        others = groups[place[min(pid for pid, times in counted.items() if times == most)]]
        between = distance(some.features[rows], some.features[others])
        margins.append(apart[torch.cat([rows, others])].mean() - between.mean())
        first, second = divmod(int(between.argmin()), len(others))
        pairs.append(tuple(sorted((int(rows[first]), int(others[second])))))
    scores = _doubt(torch.stack(margins)).tolist()
    best: dict[tuple[int, ...], float] = {}
    for pair, score in zip(pairs, scores, strict=True):
        best[pair] = max(score, best.get(pair, score))
    return [(score, first, second) for (first, second), score in best.items()]


def _doubt(margins: Tensor) -> Tensor:
    """0 where a margin is the usual one, their median, and 1 where it is 0; in proportion elsewhere."""
    usual = -float(margins.double().median())
    # A model that tells nobody apart has no usual margin below 0: then the margins stand for themselves.
    return 1 + margins.double() / (usual if usual > 0 else 1.0)
