"""Who is it, or nobody: an open-set search of enrolled people, and its error rates.

A probe is compared with every enrolled person. Each of them within the threshold is a candidate, and the
nearest comes first. Two things go wrong, and each has its rate, as ISO/IEC 19795-1:2021 and the IJB-C
benchmark (Maze et al., ICB 2018, section 4.3) define them:

- FPIR(T, N), the false positive identification rate: the share of the searches of strangers, who are not
  enrolled, that return a candidate. It grows with the number N of enrolled people.
- FNIR(T, N), the false negative identification rate: the share of the searches of enrolled people whose
  own entry is not the first candidate. DIR at rank 1, the detection and identification rate (Grother and
  Phillips, CVPR 2004), is 1 - FNIR.

Searches of one person are not independent, nor are those that one enrolled person answers wrongly, so
people of both kinds are resampled, not searches; see `open_set_intervals`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from reid.distance import distance_function, normalise
from reid.people import is_person
from reid.retrieval.bootstrap import Interval, interval
from reid.retrieval.embeddings import Embeddings
from reid.retrieval.protocol import EvaluationError, check_protocol
from reid.retrieval.verify import Floats

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

#: The wanted FPIR, by the names that `target` takes.
FPIR_TARGETS = {"fpir_1e-2": 1e-2, "fpir_1e-3": 1e-3, "fpir_1e-1": 1e-1}
#: How several crops of a person become one: the nearest of them, their mean, their mean by weights.
FUSIONS = ("best", "mean", "quality")
STRANGER = -1
#: Replicates are computed in parts of so many numbers.
_AT_ONCE = 2**22
# Distances of crops that lie in memory together.
_CHUNK = 2**23


@dataclass(frozen=True, eq=False)
class Searches:
    """P probes, each searched among N enrolled people.

    Attributes:
        distances: (P, N) of each probe to each enrolled person, all finite.
        mate: (P,) the column of the probe's own person; STRANGER where that person is not enrolled.
        person: (P,) whom a probe shows, by any number; what is resampled among strangers.
        pids: (N,) who is enrolled, one a column.

    Raises:
        ValueError: shapes that do not fit, or a mate that is no column.
    """

    distances: Floats
    mate: Ints
    person: Ints
    pids: Ints

    def __post_init__(self) -> None:
        probes, people = self.distances.shape
        if self.mate.shape != (probes,) or self.person.shape != (probes,) or self.pids.shape != (people,):
            raise ValueError(
                f"distances {self.distances.shape}, mates {self.mate.shape}, people {self.person.shape}, "
                f"enrolled {self.pids.shape}; expected (P, N), (P,), (P,) and (N,)"
            )
        if probes and not (self.mate.min() >= STRANGER and self.mate.max() < people):
            raise ValueError(f"a mate lies outside of the {people} columns")

    @property
    def strangers(self) -> Bools:
        """(P,) whose person is not enrolled."""
        return np.asarray(self.mate == STRANGER)

    def among(self, columns: Ints) -> Searches:
        """The same with these people alone enrolled; probes of an enrolled person who is left out go too."""
        place = np.full(len(self.pids) + 1, -2)
        place[columns] = np.arange(len(columns))
        place[STRANGER] = STRANGER
        mate = place[self.mate]
        kept = mate > -2
        return Searches(self.distances[kept][:, columns], mate[kept], self.person[kept], self.pids[columns])


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What decides each search, sorted by distance.

    Attributes:
        stranger: (S,) distance of a stranger's probe to the nearest enrolled person.
        stranger_person, stranger_column: (S,) whom the probe shows, and who that nearest person is.
        mated: (F,) distance to the own entry, of the probes whose own entry is nearer than all others.
        mated_column: (F,) that entry.
        lost_column: (L,) the own entry of the probes to which another entry is as near, or nearer: these are
            missed at any threshold.
        enrolled: N.
    """

    stranger: Floats
    stranger_person: Ints
    stranger_column: Ints
    mated: Floats
    mated_column: Ints
    lost_column: Ints
    enrolled: int

    @property
    def mated_searches(self) -> int:
        return len(self.mated) + len(self.lost_column)


def outcomes(searches: Searches) -> Outcomes:
    """The nearest enrolled person of each stranger, and the own entry of everybody else.

    Raises:
        EvaluationError: no stranger, or nobody who is enrolled, is among the probes.
    """
    away = searches.strangers
    if not away.any() or away.all() or not len(searches.pids):
        what = "a stranger" if not away.any() else "somebody who is enrolled"
        raise EvaluationError(
            f"none of the {len(away):,} probes shows {what}: open-set rates need both. Give more people, or "
            "divide them otherwise"
        )
    outside = searches.distances[away]
    column = outside.argmin(axis=1)
    nearest = outside[np.arange(len(outside)), column]
    order = np.argsort(nearest, kind="stable")
    inside, mate = searches.distances[~away], searches.mate[~away]
    rows = np.arange(len(inside))
    own = inside[rows, mate]
    others = inside.copy()
    others[rows, mate] = np.inf
    first = own < others.min(axis=1)
    near = np.argsort(own[first], kind="stable")
    return Outcomes(
        stranger=nearest[order],
        stranger_person=np.unique(searches.person[away], return_inverse=True)[1][order],
        stranger_column=column[order],
        mated=own[first][near],
        mated_column=mate[first][near],
        lost_column=mate[~first],
        enrolled=len(searches.pids),
    )


def fpir(found: Outcomes, thresholds: npt.ArrayLike) -> Floats:
    """FPIR at each threshold, of its shape: strangers for whom somebody is at or below it."""
    return np.searchsorted(found.stranger, thresholds, side="right") / len(found.stranger)


def fnir(found: Outcomes, thresholds: npt.ArrayLike) -> Floats:
    """FNIR at rank 1 at each threshold, of its shape."""
    return 1 - np.searchsorted(found.mated, thresholds, side="right") / found.mated_searches


def threshold_for(found: Outcomes, wanted: float) -> float:
    """The largest of the strangers' distances whose FPIR does not exceed `wanted`.

    Where already the smallest exceeds it, since several are equal, a number just below that one.

    Raises:
        EvaluationError: fewer than 1 / `wanted` searches of strangers, so that one is already too many.
    """
    require_strangers(wanted, len(found.stranger))
    values, last = _steps(found.stranger)
    rates = (last + 1) / len(found.stranger)
    place = int(np.searchsorted(rates, wanted * (1 + 1e-12), side="right")) - 1
    return float(values[place]) if place >= 0 else float(np.nextafter(values[0], -np.inf))


def require_strangers(wanted: float, searches: int) -> None:
    """Refuse an FPIR that needs more searches of strangers than there are, also before any feature exists.

    Raises:
        EvaluationError: fewer than 1 / `wanted`, so that one who finds somebody is already too many.
    """
    if not enough_strangers(wanted, searches):
        raise EvaluationError(
            f"an FPIR of {wanted:g} needs at least {round(1 / wanted):,} searches of strangers, and there "
            f"are {searches:,}. Give more strangers, or ask for a larger FPIR"
        )


def enough_strangers(wanted: float, searches: int) -> bool:
    """Whether so many searches of strangers can measure such an FPIR."""
    return searches >= round(1 / wanted)


def dir_at_fpir(found: Outcomes, wanted: float) -> float:
    """DIR at rank 1 at the threshold for this FPIR; NaN where too few strangers can tell that."""
    if not enough_strangers(wanted, len(found.stranger)):
        return math.nan
    return 1 - float(fnir(found, threshold_for(found, wanted)))


@dataclass(frozen=True)
class OpenSetIntervals:
    """95 % intervals. `fpir` and `dir` belong to one fixed threshold: what its user has to expect.

    `dir_at` and `threshold_at` belong to a wanted FPIR, its threshold chosen anew in each replicate.
    """

    fpir: Interval
    dir: Interval
    dir_at: Mapping[float, Interval]
    threshold_at: Mapping[float, Interval]
    replicates: int
    strangers: int
    enrolled: int


def open_set_intervals(
    found: Outcomes, threshold: float, wanted: Sequence[float], replicates: int = 1000, seed: int = 0
) -> OpenSetIntervals:
    """How sure the rates are when strangers and enrolled people are drawn anew, each with replacement.

    The pigeonhole bootstrap (Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007): a
    stranger drawn v times counts v times, and an enrolled person drawn w times counts w times, both with
    the own searches and with the strangers' searches that this person is nearest to. So a search of a
    stranger counts v w times. It errs on the wide side. People who are drawn twice do not make the gallery
    smaller, as they would if it were searched again.

    Raises:
        ValueError: fewer than one replicate.
    """
    if replicates < 1:
        raise ValueError(f"replicates is {replicates}; at least one is needed")
    drawn = _Drawn(found, replicates, seed)
    measurable = [rate for rate in wanted if enough_strangers(rate, len(found.stranger))]
    false, true = drawn.at(threshold)
    anew = {rate: drawn.at_fpir(rate) for rate in measurable}
    return OpenSetIntervals(
        fpir=interval(false),
        dir=interval(true),
        dir_at={rate: interval(values) for rate, (_, values) in anew.items()},
        threshold_at={rate: interval(values) for rate, (values, _) in anew.items()},
        replicates=len(false),
        strangers=drawn.strangers,
        enrolled=found.enrolled,
    )


class _Drawn:
    """Replicates of the people of some searches."""

    def __init__(self, found: Outcomes, replicates: int, seed: int) -> None:
        generator = np.random.default_rng(seed)
        self._found = found
        self.strangers = int(found.stranger_person.max()) + 1
        self._strangers = _draws(generator, self.strangers, replicates)
        self._enrolled = _draws(generator, found.enrolled, replicates)
        self._values, self._last = _steps(found.stranger)

    def _parts(self) -> list[slice]:
        longest = max(len(self._found.stranger), self._found.mated_searches, 1)
        step = max(1, _AT_ONCE // longest)
        return [slice(start, start + step) for start in range(0, len(self._strangers), step)]

    def _rates(self, part: slice) -> tuple[Floats, Floats]:
        """FPIR at each distinct distance of strangers (B, T), and DIR (B, F + 1) after each own distance."""
        found, people = self._found, self._enrolled[part]
        weights = self._strangers[part][:, found.stranger_person] * people[:, found.stranger_column]
        false = weights.cumsum(axis=1)
        mated = people[:, found.mated_column].cumsum(axis=1)
        lost = people[:, found.lost_column].sum(axis=1)
        all_mated = lost + (mated[:, -1] if mated.shape[1] else 0)
        with np.errstate(invalid="ignore", divide="ignore"):  # nobody was drawn: NaN, left out below
            rates = false[:, self._last] / false[:, -1:]
            true = np.hstack([np.zeros((len(mated), 1)), mated]) / all_mated[:, None]
        return rates, true

    def at(self, threshold: float) -> tuple[Floats, Floats]:
        """FPIR and DIR of the replicates at one threshold, (B,) each."""
        place = int(np.searchsorted(self._values, threshold, side="right"))
        own = int(np.searchsorted(self._found.mated, threshold, side="right"))
        false, true = [], []
        for part in self._parts():
            rates, found = self._rates(part)
            false.append(rates[:, place - 1] if place else np.where(np.isnan(rates[:, -1]), np.nan, 0.0))
            true.append(found[:, own])
        return _known(np.concatenate(false)), _known(np.concatenate(true))

    def at_fpir(self, wanted: float) -> tuple[Floats, Floats]:
        """The threshold for this FPIR, and DIR there, of each replicate, (B,) each."""
        limits = np.concatenate([[np.nextafter(self._values[0], -np.inf)], self._values])
        own = np.searchsorted(self._found.mated, limits, side="right")
        thresholds, true = [], []
        for part in self._parts():
            rates, found = self._rates(part)
            place = (rates <= wanted * (1 + 1e-12)).sum(axis=1)
            thresholds.append(np.where(np.isnan(rates[:, -1]), np.nan, limits[place]))
            true.append(found[np.arange(len(found)), own[place]])
        return _known(np.concatenate(thresholds)), _known(np.concatenate(true))


@dataclass(frozen=True)
class SizeRow:
    """What a gallery of `enrolled` people does, over `draws` random choices of them.

    `fpir` and `dir` are means at the threshold that stays; `dir_at` the mean DIR at a wanted FPIR, whose
    threshold follows the size (NaN where it cannot be measured). `modelled` is the FPIR that the one-to-one
    rate promises; `model_fails` says that it lies outside of the measured interval. `spread` are the lowest
    and the highest FPIR of a draw.
    """

    enrolled: int
    draws: int
    fpir: float
    fpir_interval: Interval
    spread: Interval
    modelled: float
    dir: float
    dir_interval: Interval
    dir_at: float
    dir_at_interval: Interval

    @property
    def model_fails(self) -> bool:
        return not self.fpir_interval.low <= self.modelled <= self.fpir_interval.high


def false_match_rate(searches: Searches, threshold: float) -> float:
    """The one-to-one rate p: the share of pairs of a stranger's probe and an enrolled person that match."""
    return float((searches.distances[searches.strangers] <= threshold).mean())


def modelled_fpir(rate: float, enrolled: int) -> float:
    """1 - (1 - p)^N: the FPIR among N people if each of them matched a stranger independently.

    They do not. Some strangers look like many people, in clothes that are common, and most look like none.
    For strangers with rates p_i of their own the mean of 1 - (1 - p_i)^N is at most this value (Jensen, as
    the function is concave), so the model promises too many false positives, the more the larger N is.
    """
    return float(-np.expm1(enrolled * np.log1p(-min(rate, 1 - 1e-16))))


def by_gallery_size(
    searches: Searches,
    sizes: Sequence[int],
    threshold: float,
    wanted: float,
    draws: int = 20,
    replicates: int = 1000,
    seed: int = 0,
) -> list[SizeRow]:
    """The rates of galleries of these sizes, each a random choice of the enrolled, drawn `draws` times.

    Sizes above the number of enrolled people are left out; all of them are one draw. The interval of a row
    is over people and over the choice: replicates are shared out among the draws.

    Raises:
        EvaluationError: there is no stranger, or nobody who is enrolled.
        ValueError: a size or a number of draws or replicates below one.
    """
    if min(sizes, default=1) < 1 or draws < 1 or replicates < 1:
        raise ValueError(f"sizes {list(sizes)}, {draws} draws, {replicates} replicates: expected 1 or more")
    people, rows = len(searches.pids), []
    rate = false_match_rate(searches, threshold)
    for size in sorted({size for size in sizes if size <= people}):
        generator = np.random.default_rng([seed, size])
        times = 1 if size == people else draws
        each = math.ceil(replicates / times)
        false: list[Floats] = []
        true: list[Floats] = []
        anew: list[Floats] = []
        plain: list[tuple[float, float, float]] = []
        for number in range(times):
            part = (
                searches if size == people else searches.among(np.sort(generator.permutation(people)[:size]))
            )
            try:
                found = outcomes(part)
            except EvaluationError:
                if size == people:
                    raise
                continue  # the few who were drawn have no probe of their own
            plain.append(
                (float(fpir(found, threshold)), 1 - float(fnir(found, threshold)), dir_at_fpir(found, wanted))
            )
            drawn = _Drawn(found, each, seed + number)
            one, two = drawn.at(threshold)
            false.append(one)
            true.append(two)
            if enough_strangers(wanted, len(found.stranger)):
                anew.append(drawn.at_fpir(wanted)[1])
        if not plain:
            continue
        means = np.mean(plain, axis=0)
        nothing = np.empty(0)
        rows.append(
            SizeRow(
                enrolled=size,
                draws=len(plain),
                fpir=float(means[0]),
                fpir_interval=interval(np.concatenate(false)),
                spread=Interval(min(one[0] for one in plain), max(one[0] for one in plain)),
                modelled=modelled_fpir(rate, size),
                dir=float(means[1]),
                dir_interval=interval(np.concatenate(true)),
                dir_at=float(means[2]),
                dir_at_interval=interval(np.concatenate(anew) if anew else nothing),
            )
        )
    return rows


# ---- several crops of a person


def search(
    enrolled: Embeddings,
    probes: Embeddings,
    probe: Tensor,
    *,
    metric: str,
    unit: bool,
    fusion: str = "best",
    protocol: str = "cross_camera",
    enrolled_weights: Tensor | None = None,
    probe_weights: Tensor | None = None,
) -> Searches:
    """The distance of each probe to each enrolled person, the crops of either fused.

    `best` takes the nearest two crops; `mean` compares the means of the features, and `quality` their means
    by the weights. Under `cross_camera` a probe is not compared with crops of its own person by its own
    camera, as in the ranking protocol; the entry of that person is then made of the other crops. A probe
    whose person has no other crop is left out.

    Args:
        enrolled: E crops; distractors (pid 0) are left out.
        probes: crops; those of pid 0 are strangers, each crop's probe a person of its own.
        probe: (crops,) int64, which probe each crop belongs to; the crops of one show one person by one
            camera.
        metric: as `reid.distance.distance_function` takes it.
        unit: whether features have unit length, and so have means of them.
        enrolled_weights, probe_weights: (E,), (crops,) above 0; for `quality`.

    Raises:
        ValueError: unknown fusion, metric or protocol, crops of several people or cameras in one probe,
            `quality` without weights, or weights that are not above 0.
    """
    check_protocol(protocol)
    if fusion not in FUSIONS:
        raise ValueError(f"fusion is {fusion!r}; allowed: {', '.join(FUSIONS)}")
    known = is_person(enrolled.pids)
    enrolled_weights = _weights(enrolled_weights, enrolled, fusion)[known]
    probe_weights = _weights(probe_weights, probes, fusion)
    enrolled = enrolled.select(known)
    number, place = torch.unique(probe, return_inverse=True)
    first = torch.full_like(number, len(place)).scatter_reduce_(
        0, place, torch.arange(len(place), device=place.device), "amin"
    )
    pids, camids = probes.pids[first], probes.camids[first]
    if bool(((probes.pids != pids[place]) | (probes.camids != camids[place])).any()):
        raise ValueError("the crops of one probe show several people or cameras; expected one of each")
    people, column = torch.unique(enrolled.pids, return_inverse=True)
    mate = _columns_of(people, pids)
    if fusion == "best":
        size = len(number), len(people)
        distances = _nearest_crops(enrolled, column, probes, place, size, metric, protocol)
    else:
        templates = _means(enrolled.features, enrolled_weights, column, len(people), unit)
        features = _means(probes.features, probe_weights, place, len(number), unit)
        distances = distance_function(metric)(features, templates)
        if protocol == "cross_camera":
            _without_own_camera(
                distances, features, enrolled, enrolled_weights, column, mate, camids, metric, unit
            )
    kept = (mate == STRANGER) | distances.gather(1, mate.clamp(min=0)[:, None])[:, 0].isfinite()
    # A probe of nobody's pid is a stranger of its own.
    person = torch.where(is_person(pids), pids, -1 - number)
    return Searches(
        distances[kept].double().cpu().numpy(),
        mate[kept].cpu().numpy(),
        person[kept].cpu().numpy(),
        people.cpu().numpy(),
    )


def _weights(weights: Tensor | None, images: Embeddings, fusion: str) -> Tensor:
    if fusion != "quality":
        return torch.ones(len(images), device=images.features.device)
    if weights is None or weights.shape != images.pids.shape or not bool((weights > 0).all()):
        raise ValueError("fusion by quality needs a weight above 0 for each crop")
    return weights


def _columns_of(people: Tensor, pids: Tensor) -> Tensor:
    if not len(people):
        return torch.full_like(pids, STRANGER)
    place = torch.searchsorted(people, pids).clamp(max=len(people) - 1)
    return torch.where(people[place] == pids, place, STRANGER)


def _means(features: Tensor, weights: Tensor, group: Tensor, groups: int, unit: bool) -> Tensor:
    """The weighted mean of the features of each group, (G, D)."""
    weights = weights.to(features.dtype)
    total = torch.zeros(groups, features.shape[1], dtype=features.dtype, device=features.device)
    total.index_add_(0, group, features * weights[:, None])
    mass = torch.zeros(groups, dtype=features.dtype, device=features.device).index_add_(0, group, weights)
    means = total / mass[:, None]
    return normalise(means) if unit else means


def _without_own_camera(
    distances: Tensor, features: Tensor, enrolled: Embeddings, weights: Tensor, column: Tensor, mate: Tensor,
    camids: Tensor, metric: str, unit: bool,
) -> None:  # fmt: skip
    """Set the distance of each mated probe to its own person, without the crops of the probe's camera."""
    inside = mate >= 0
    for person, camid in torch.unique(torch.stack([mate[inside], camids[inside]], 1), dim=0).tolist():
        rows = ((mate == person) & (camids == camid)).nonzero().flatten()
        own = column == person
        others = own & (enrolled.camids != camid)
        if bool((others == own).all()):
            continue
        if not bool(others.any()):
            distances[rows, person] = torch.inf
            continue
        kept = others.nonzero().flatten()
        template = _means(enrolled.features[kept], weights[kept], torch.zeros_like(kept), 1, unit)
        distances[rows, person] = distance_function(metric)(features[rows], template)[:, 0]


def _nearest_crops(
    enrolled: Embeddings, column: Tensor, probes: Embeddings, place: Tensor, size: tuple[int, int],
    metric: str, protocol: str,
) -> Tensor:  # fmt: skip
    """(P, N) = `size`: the nearest crop of each person to the nearest crop of each probe."""
    device = enrolled.features.device
    dtype = torch.promote_types(enrolled.features.dtype, torch.float32)
    nearest = torch.full(size, torch.inf, dtype=dtype, device=device)
    step = max(1, _CHUNK // max(1, len(enrolled)))
    for start in range(0, len(probes), step):
        rows = slice(start, start + step)
        distance = distance_function(metric)(probes.features[rows], enrolled.features)
        if protocol == "cross_camera":
            junk = probes.pids[rows, None] == enrolled.pids[None]
            junk &= probes.camids[rows, None] == enrolled.camids[None]
            distance = distance.masked_fill(junk, torch.inf)
        crops = torch.full((len(distance), size[1]), torch.inf, dtype=dtype, device=device)
        crops.scatter_reduce_(1, column.expand(len(distance), -1), distance, "amin")
        nearest.scatter_reduce_(0, place[rows, None].expand(-1, size[1]), crops, "amin")
    return nearest


def _draws(generator: np.random.Generator, people: int, replicates: int) -> Floats:
    """How often each of them is drawn, (B, people)."""
    return generator.multinomial(people, np.full(people, 1 / people), size=replicates).astype(np.float64)


def _steps(values: Floats) -> tuple[Floats, Ints]:
    """The distinct ones of sorted values, and where each is found last."""
    distinct, first = np.unique(values, return_index=True)
    return distinct, np.append(first[1:], len(values)) - 1


def _known(values: Floats) -> Floats:
    return values[~np.isnan(values)]
