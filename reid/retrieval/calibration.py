"""How sure that two images show one person: from a distance to a likelihood ratio, and to a probability.

The log-likelihood ratio (LLR) of a distance is the logarithm of how much more often pairs of one person lie
there than pairs of two people. It depends on the model and the cameras. A probability needs a prior too: the
share of pairs that show one person where it is used. Then log odds = LLR + log(prior / (1 - prior)).

Fitted and measured on pairs of which each kind weighs the same, whatever their numbers (Brümmer and du Preez,
"Application-independent evaluation of speaker detection", Computer Speech and Language 2006).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from reid.people import is_person
from reid.retrieval.bootstrap import GroupCounts, Interval, identities_of, interval, replicate_counts
from reid.retrieval.embeddings import Embeddings
from reid.retrieval.pairs import PairBlock, bin_of, count_pairs, grid, pair_blocks
from reid.retrieval.protocol import EvaluationError
from reid.retrieval.verify import Counts, Floats

METHODS = ("logistic", "isotonic")
#: A camera pair has a calibration of its own from so many people on that were seen by both.
FEWEST_PEOPLE = 5
#: It counts n / (n + this) with n people, and that of all pairs the rest.
SHRINK = 20
#: LLRs are counted in cells from -RANGE to RANGE; those beyond are in the outermost.
RANGE, CELLS = 12.0, 300
#: At most so many groups of people are resampled.
MAX_GROUPS = 200
# Steps of the grid of distances of one camera pair.
_PAIR_GRID = 1024


@dataclass(frozen=True)
class Curve:
    """LLR over distance: straight lines between knots, constant beyond the outermost.

    distances rise, llrs do not; both are finite, as long and not empty.
    """

    distances: tuple[float, ...]
    llrs: tuple[float, ...]

    def __call__(self, distances: npt.ArrayLike) -> Floats:
        """The LLR of each distance, of its shape."""
        return np.asarray(np.interp(np.asarray(distances), self.distances, self.llrs))


@dataclass(frozen=True)
class CameraPair:
    """The calibration of pairs by two cameras: `curve` holds already what the one of all pairs counts in it.

    people: who were seen by both. weight: what the pair's own pairs count, from 0 to 1.
    """

    people: int
    weight: float
    curve: Curve


@dataclass(frozen=True)
class Calibration:
    """LLRs of distances, where enough is known by camera pair: (smaller camid, larger camid).

    genuine, impostor: numbers of pairs that it was fitted on; people: of how many.
    """

    method: str
    pooled: Curve
    pairs: Mapping[tuple[int, int], CameraPair]
    genuine: int
    impostor: int
    people: int

    @property
    def genuine_share(self) -> float:
        """Of the pairs that it was fitted on; a probability is never computed with this prior unasked."""
        return self.genuine / (self.genuine + self.impostor)

    def llr(self, distances: npt.ArrayLike, first: npt.ArrayLike = (), second: npt.ArrayLike = ()) -> Floats:
        """The LLR of each distance, of its shape, between images of these cameras; without them of any.

        first, second: camids that are broadcast to the distances. An unknown pair of cameras is any.
        """
        found = self.pooled(distances)
        one, other = np.asarray(first), np.asarray(second)
        if not self.pairs or not one.size or not other.size:
            return found
        low, high = (np.broadcast_to(end(one, other), found.shape) for end in (np.minimum, np.maximum))
        values = np.asarray(distances)
        for (a, b), pair in self.pairs.items():
            here = (low == a) & (high == b)
            if here.any():
                found[here] = pair.curve(values[here])
        return found


def probability(llr: npt.ArrayLike, prior: float) -> Floats:
    """The probability of one person, from the LLR and the prior, both in words above; never 0 or 1.

    Raises:
        ValueError: a prior that is not above 0 and below 1.
    """
    if not 0 < prior < 1:
        raise ValueError(f"prior is {prior}; expected the share of pairs of one person, above 0 and below 1")
    return _sigmoid(np.asarray(llr, dtype=np.float64) + _logit(prior))


def fit_calibration(
    images: Embeddings, metric: str, protocol: str, method: str = "logistic", camera_pairs: bool = True
) -> Calibration:
    """Learn from all pairs of these images.

    `logistic` draws a straight line, and `isotonic` a staircase (Zadrozny and Elkan, KDD 2002), between the
    middles of whose steps straight lines are drawn. Neither goes beyond what the people support: none of n
    pairs of two people at a distance says no more than an LLR of log(n + 1). Pairs of the same two people
    count once there, since they are not independent.

    Raises:
        EvaluationError: there is no genuine or no impostor pair.
        ValueError: unknown method, metric or protocol.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; allowed: {', '.join(METHODS)}")
    counts = count_pairs(images, metric, protocol)
    genuine, impostor = int(counts.genuine[-1]), int(counts.impostor[-1])
    if not genuine or not impostor:
        kind = "one person" if not genuine else "two people"
        raise EvaluationError(
            f"there is no pair of {kind} to learn from. With one camera or without camera ids, use "
            "eval.protocol=ignore_camera; else give more people"
        )
    centres = _centres(counts.thresholds)
    pids, camids = images.pids.cpu().numpy(), images.camids.cpu().numpy()
    people = len(np.unique(identities_of(pids)))
    limits = _limits(_people_with_pairs(pids, camids, protocol), people)
    cells = np.diff(counts.genuine, prepend=0), np.diff(counts.impostor, prepend=0)
    pooled = _fit(method, centres, *cells, limits)
    pairs: dict[tuple[int, int], CameraPair] = {}
    if camera_pairs and protocol == "cross_camera":
        for cameras, (own, two) in _counts_by_cameras(images, metric, protocol).items():
            seen = [set(pids[(camids == camera) & is_person(pids)].tolist()) for camera in cameras]
            both = len(seen[0] & seen[1])
            if both < FEWEST_PEOPLE or not own.sum() or not two.sum():
                continue
            edges = _coarse(images, metric)
            curve = _fit(method, _centres(edges), own, two, _limits(both, len(seen[0] | seen[1])))
            weight = both / (both + SHRINK)
            pairs[cameras] = CameraPair(both, weight, _mixed(curve, pooled, weight))
    return Calibration(method, pooled, pairs, genuine, impostor, int(is_person(np.unique(pids)).sum()))


def _people_with_pairs(pids: Counts, camids: Counts, protocol: str) -> int:
    """How many people have a genuine pair."""
    seen: dict[int, set[int]] = {}
    counts: dict[int, int] = {}
    for pid, camid in zip(pids.tolist(), camids.tolist(), strict=True):
        if is_person(pid):
            seen.setdefault(pid, set()).add(camid)
            counts[pid] = counts.get(pid, 0) + 1
    if protocol == "cross_camera":
        return sum(len(cameras) > 1 for cameras in seen.values())
    return sum(count > 1 for count in counts.values())


def _limits(genuine_people: int, people: int) -> tuple[float, float]:
    """The least and the largest LLR that so many people support."""
    return -math.log(genuine_people + 1), math.log(people * (people - 1) // 2 + 1)


def _centres(edges: Floats) -> Floats:
    """The middle of each cell that ends at an edge."""
    return np.concatenate([edges[:1], (edges[1:] + edges[:-1]) / 2])


def _coarse(images: Embeddings, metric: str) -> Floats:
    edges = grid(images, metric)
    return np.asarray(torch.linspace(0, float(edges[-1]), _PAIR_GRID + 1, dtype=torch.float64))


def _counts_by_cameras(
    images: Embeddings, metric: str, protocol: str
) -> dict[tuple[int, int], tuple[Counts, Counts]]:
    """Genuine and impostor pairs of each two cameras, by cell of distance."""
    edges = torch.from_numpy(_coarse(images, metric)).to(images.features.device)
    cameras, camera = torch.unique(images.camids, return_inverse=True)
    count, size = len(cameras), len(edges)
    bins = torch.zeros(2, count * count * size, dtype=torch.int64, device=edges.device)
    for block in pair_blocks(images, metric, protocol):
        rows = camera[block.first : block.first + len(block.distance), None]
        columns = camera[None, block.first :]
        pair = torch.minimum(rows, columns) * count + torch.maximum(rows, columns)
        place = pair * size + bin_of(block.distance.double(), edges)
        for kind, chosen in enumerate((block.genuine, block.impostor)):
            bins[kind] += torch.bincount(place[chosen], minlength=bins.shape[1])
    found = bins.view(2, count, count, size).cpu().numpy()
    names = cameras.tolist()
    return {
        (names[a], names[b]): (found[0, a, b], found[1, a, b]) for a in range(count) for b in range(a, count)
    }


def _fit(
    method: str, distances: Floats, genuine: Counts, impostor: Counts, limits: tuple[float, float]
) -> Curve:
    """The curve of counts by distance, both kinds weighing the same."""
    used = (genuine + impostor) > 0
    x = distances[used]
    weights = [kind[used] / kind.sum() for kind in (genuine, impostor)]
    fit = _logistic if method == "logistic" else _isotonic
    return fit(x, weights[0], weights[1], limits)


def _logistic(x: Floats, genuine: Floats, impostor: Floats, limits: tuple[float, float]) -> Curve:
    from sklearn.linear_model import LogisticRegression  # heavy, and of no use to who only applies a curve

    centre = float(np.average(x, weights=genuine + impostor))
    scale = float(np.sqrt(np.average((x - centre) ** 2, weights=genuine + impostor))) or 1.0
    model = LogisticRegression(C=1e4, max_iter=1000)
    both = np.concatenate([(x - centre) / scale] * 2)[:, None]
    label = np.repeat([1, 0], len(x))
    model.fit(both, label, sample_weight=np.concatenate([genuine, impostor]))
    slope = float(model.coef_[0, 0]) / scale
    offset = float(model.intercept_[0]) - slope * centre
    low, high = limits
    if slope >= 0:  # nearer pairs are no more often of one person: the distance says nothing
        return Curve((centre,), (0.0,))
    return Curve(((high - offset) / slope, (low - offset) / slope), (high, low))


def _isotonic(x: Floats, genuine: Floats, impostor: Floats, limits: tuple[float, float]) -> Curve:
    from sklearn.isotonic import IsotonicRegression

    weight = genuine + impostor
    share = IsotonicRegression(increasing=False).fit_transform(x, genuine / weight, sample_weight=weight)
    step = np.concatenate([[0], np.cumsum(np.diff(share) != 0)])
    mass = np.bincount(step, weights=weight)
    middle = np.bincount(step, weights=weight * x) / mass
    height = np.bincount(step, weights=genuine) / mass
    with np.errstate(divide="ignore"):
        llr = np.clip(np.log(height) - np.log1p(-height), *limits)
    return Curve(tuple(middle.tolist()), tuple(llr.tolist()))


def _mixed(own: Curve, pooled: Curve, weight: float) -> Curve:
    """The weighted mean of two curves, exactly: its knots are those of both."""
    knots = np.union1d(own.distances, pooled.distances)
    llr = weight * own(knots) + (1 - weight) * pooled(knots)
    return Curve(tuple(knots.tolist()), tuple(llr.tolist()))


# ---- how good it is


#: The LLRs (R, C) of the pairs of a block.
Scorer = Callable[[PairBlock], Floats]


def calibrated(calibration: Calibration, images: Embeddings) -> Scorer:
    """Scores the pairs of these images by a calibration."""
    camids = images.camids.cpu().numpy()

    def score(block: PairBlock) -> Floats:
        rows = camids[block.first : block.first + len(block.distance), None]
        return calibration.llr(block.distance.double().cpu().numpy(), rows, camids[None, block.first :])

    return score


def naive(images: Embeddings, metric: str) -> Scorer:
    """Takes similarity itself for a probability, as is done where nothing is calibrated.

    (1 + cosine) / 2: of unit features 1 - d^2 / 4 of the Euclidean distance d, and 1 - d / 2 of the cosine
    distance. Of features of other lengths 1 - d / (the largest distance that there can be).
    """
    edge = float(grid(images, metric)[-1])
    unit = metric == "cosine" or bool((images.features.norm(dim=1) - 1).abs().max() < 1e-3)

    def score(block: PairBlock) -> Floats:
        distance = block.distance.double().cpu().numpy()
        if metric == "cosine":
            share = distance / 2
        elif unit:
            share = distance**2 / 4
        else:
            share = distance / edge
        return -np.asarray(_logit(np.clip(share, 1e-9, 1 - 1e-9)))

    return score


@dataclass(frozen=True, eq=False)
class ScoredPairs:
    """All pairs of some images, counted by the cell of their LLR and by the group of their people.

    Attributes:
        counts: as `replicate_counts` takes them, the cells from the largest LLR on.
        chance, cost: (2, T) mean probability, and mean of log2(1 + exp(∓ LLR)), of the genuine and of the
            impostor pairs of each cell; 0 in an empty one.
        prior: the share of pairs of one person that probabilities were computed with.
        identities: how many people.
    """

    counts: GroupCounts
    chance: Floats
    cost: Floats
    prior: float
    identities: int

    @property
    def totals(self) -> tuple[Floats, Floats]:
        """Pairs of one and of two people in each cell, (T,) each."""
        genuine = self.counts.genuine.sum(dim=1).double().cpu().numpy()
        impostor = self.counts.impostor.sum(dim=(1, 2)).double().cpu().numpy()
        return np.diff(genuine, prepend=0), impostor


def score_pairs(
    images: Embeddings, metric: str, protocol: str, scorer: Scorer, prior: float, seed: int = 0,
    shifted: bool = True,
) -> ScoredPairs:  # fmt: skip
    """Score and count all pairs.

    shifted: whether the prior enters the probability; that of a naive score knows none.
    """
    generator = np.random.default_rng(seed)
    identity = identities_of(images.pids.cpu().numpy())
    identities = int(identity.max()) + 1
    groups = min(identities, MAX_GROUPS)
    group = generator.permutation(identities)[identity] % groups
    edges = np.linspace(-RANGE, RANGE, CELLS + 1)[1:-1]
    genuine = np.zeros(CELLS * groups, np.int64)
    impostor = np.zeros(CELLS * groups * groups, np.int32)
    sums = np.zeros((2, 2, CELLS))  # probability and cost, of both kinds
    shift = _logit(prior) if shifted else 0.0
    for block in pair_blocks(images, metric, protocol):
        llr = scorer(block)
        cell = CELLS - 1 - np.searchsorted(edges, llr)
        for kind, (chosen, sign) in enumerate(((block.genuine, -1), (block.impostor, 1))):
            row, column = np.nonzero(chosen.cpu().numpy())
            value, place = llr[row, column], cell[row, column]
            sums[0, kind] += np.bincount(place, weights=_sigmoid(value + shift), minlength=CELLS)
            cost = np.logaddexp(0, sign * value) / math.log(2)
            sums[1, kind] += np.bincount(place, weights=cost, minlength=CELLS)
            first, second = group[block.first + row], group[block.first + column]
            if kind == 0:
                genuine += np.bincount(place * groups + first, minlength=len(genuine))
            else:
                np.add.at(impostor, (place * groups + first) * groups + second, 1)
    counts = GroupCounts(
        torch.arange(CELLS, dtype=torch.float64),
        torch.from_numpy(genuine.reshape(CELLS, groups).cumsum(0)),
        torch.from_numpy(impostor.reshape(CELLS, groups, groups)),
    )
    pairs = np.stack([genuine.reshape(CELLS, groups).sum(1), impostor.reshape(CELLS, -1).sum(1)])
    means = sums / np.maximum(pairs, 1)
    return ScoredPairs(counts, means[0], means[1], prior, identities)


@dataclass(frozen=True)
class ReliabilityBin:
    """Pairs that got about the same probability.

    mass: their share of all pairs, at the prior. predicted: the mean probability. observed: the share that
    show one person, with its 95 % interval over people.
    """

    mass: float
    predicted: float
    observed: float
    interval: Interval


@dataclass(frozen=True)
class Reliability:
    """How far probabilities can be believed, at the prior; intervals are 95 %, over people.

    Attributes:
        ece: expected calibration error: the mean over bins of |predicted - observed|, by mass (Guo et al.,
            ICML 2017).
        corrected: the same less its bias. With few pairs even perfect probabilities differ from what is
            observed, so `ece` is too large. The bootstrap repeats that once more, and what it adds is taken
            off; not below 0.
        ece_interval: of the corrected one, from the bootstrap's basic interval.
        cllr: cost of the LLRs in bits: 0 if perfect, 1 for one that says nothing, more for one that misleads.
        replicates: how often people were drawn.
    """

    ece: float
    corrected: float
    ece_interval: Interval
    cllr: float
    cllr_interval: Interval
    bins: tuple[ReliabilityBin, ...]
    replicates: int


def reliability(scored: ScoredPairs, bins: int = 15, replicates: int = 1000, seed: int = 0) -> Reliability:
    """Measure scored pairs; in bins of equal width from 0 to 1.

    Raises:
        EvaluationError: there is no genuine or no impostor pair.
        ValueError: fewer than two replicates or bins.
    """
    if replicates < 2 or bins < 2:
        raise ValueError(f"{replicates} replicates and {bins} bins; expected two or more of both")
    genuine, impostor = scored.totals
    if not genuine.sum() or not impostor.sum():
        raise EvaluationError("there is no pair of one kind: give more people")
    whole = _Cells(scored, bins, genuine[None], impostor[None])
    drawn = _Cells(scored, bins, *replicated(scored, replicates, seed))
    ece, each = float(whole.ece[0]), drawn.ece
    bias = float(each.mean()) - ece
    low, high = interval(each)
    basic = Interval(max(0.0, 2 * ece - high), max(0.0, 2 * ece - low))
    rows = []
    for number in range(bins):
        mass = float(whole.mass[0, number])
        if mass > 0:
            seen = drawn.mass[:, number] > 0
            shares = drawn.genuine[seen, number] / drawn.mass[seen, number]
            rows.append(
                ReliabilityBin(
                    mass,
                    float(whole.predicted[0, number]) / mass,
                    float(whole.genuine[0, number]) / mass,
                    interval(shares),
                )
            )
    return Reliability(
        ece, max(0.0, ece - bias), basic, float(whole.cllr[0]), interval(drawn.cllr), tuple(rows), len(each)
    )


def replicated(scored: ScoredPairs, replicates: int, seed: int) -> tuple[Floats, Floats]:
    """Pairs of each kind in each cell, (B, T), where people are drawn anew; the same people by the same seed.

    Replicates that lack one kind are left out.
    """
    groups = scored.counts.genuine.shape[1]
    generator = np.random.default_rng([seed, groups])
    drawn = generator.multinomial(groups, np.full(groups, 1 / groups), size=replicates)
    genuine, impostor = replicate_counts(scored.counts, torch.from_numpy(drawn))
    both = (genuine[:, -1] > 0) & (impostor[:, -1] > 0)
    return tuple(np.diff(kind[both], prepend=0, axis=1) for kind in (genuine, impostor))  # type: ignore[return-value]


@dataclass(eq=False)
class _Cells:
    """What follows from counts of pairs, (B, T) of both kinds: by bin, (B, bins), and in all, (B,)."""

    scored: ScoredPairs
    bins: int
    one: Floats
    two: Floats
    genuine: Floats = field(init=False)
    mass: Floats = field(init=False)
    predicted: Floats = field(init=False)
    ece: Floats = field(init=False)
    cllr: Floats = field(init=False)

    def __post_init__(self) -> None:
        scored, prior = self.scored, self.scored.prior
        one = prior * self.one / self.one.sum(axis=1, keepdims=True)
        two = (1 - prior) * self.two / self.two.sum(axis=1, keepdims=True)
        # The two kinds of a cell have the same LLR but for the cell's width.
        pairs = np.stack(scored.totals)
        chance = (scored.chance * pairs).sum(0) / np.maximum(pairs.sum(0), 1)
        place = np.minimum((chance * self.bins).astype(int), self.bins - 1)
        into = np.eye(self.bins)[place]
        self.genuine, self.mass = one @ into, (one + two) @ into
        self.predicted = (one * scored.chance[0] + two * scored.chance[1]) @ into
        self.ece = np.abs(self.predicted - self.genuine).sum(axis=1)
        costs = [
            (kind / kind.sum(axis=1, keepdims=True)) @ scored.cost[number]
            for number, kind in enumerate((self.one, self.two))
        ]
        self.cllr = (costs[0] + costs[1]) / 2


def rates(one: Floats, two: Floats) -> tuple[Floats, Floats]:
    """FAR and TAR (B, T + 1) of counts of pairs (B, T), from the point that accepts nothing on."""
    nothing = np.zeros((len(one), 1))
    true, false = (np.hstack([nothing, kind.cumsum(axis=1)]) for kind in (one, two))
    return false / false[:, -1:], true / true[:, -1:]


def _logit(share: Any) -> Any:
    return np.log(share) - np.log1p(-share)


def _sigmoid(value: Any) -> Any:
    # Either end by itself, so that neither becomes 0 or 1 long before a float must.
    small = np.exp(-np.abs(value))
    return np.where(value > 0, 1, small) / (1 + small)
