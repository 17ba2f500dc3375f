"""Whether one setting beats another by more than chance, which has two sources: people and seeds.

All settings of a sweep are judged on the same queries, so average precisions are compared query by query.
The queries of one person are not independent, so people are resampled, not queries (the cluster bootstrap:
Davison and Hinkley, "Bootstrap methods and their application", 1997, section 3.8).  What a seed does shows
only in several trainings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reid.retrieval.bootstrap import Interval
from reid.retrieval.verify import Floats

#: A 95 % interval leaves so much on its upper side.
_TAIL = 0.025


@dataclass(frozen=True)
class Measured:
    """One setting as it was trained S times.

    Attributes:
        scores: (S,) mAP of each seed, fractions.
        average_precision: (S, Q), NaN-free; None where it was not kept.
        pids: (Q,), the person of each query.
    """

    scores: Floats
    average_precision: Floats | None = None
    pids: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Difference:
    """The first setting's mean mAP less the second's, a fraction, with its 95 % interval.

    people, seeds: the sources of chance that the interval holds; with neither it is NaN.
    """

    value: float
    interval: Interval
    people: bool
    seeds: bool

    @property
    def exceeds_noise(self) -> bool:
        """Whether the interval leaves out zero; False where there is no interval."""
        return self.interval.low > 0 or self.interval.high < 0


def difference(first: Measured, second: Measured, replicates: int = 1000, seed: int = 0) -> Difference:
    """The difference of two settings' mean mAP: value ± t * sqrt(v_people + s1^2 / S1 + s2^2 / S2).

    v_people is the variance of the paired difference when people are resampled and the trained models stay
    (`people_variance`); s is a setting's sample standard deviation over its S seeds, t the 97.5 % quantile of
    Student's distribution with the degrees of freedom of Welch and Satterthwaite ("An approximate
    distribution of estimates of variance components", Biometrics Bulletin 1946).  The variance that people
    and seeds have only together is in both terms, which errs on the wide side (Owen and Eckles,
    "Bootstrapping data arrays of arbitrary order", Annals of Applied Statistics 2012).  Seeds are not paired:
    the same seed in two settings trains two different networks.

    People are left out where one setting has no average precisions, or the queries differ; seeds where one
    has a single seed.

    Raises:
        ValueError: a setting without a score, or fewer than two replicates.
    """
    if len(first.scores) == 0 or len(second.scores) == 0:
        raise ValueError("a setting without a score cannot be compared; leave out those that did not finish")
    value = float(first.scores.mean() - second.scores.mean())
    parts: list[tuple[float, int]] = []  # a variance, and its degrees of freedom
    people = _same_queries(first, second)
    if people:
        assert first.average_precision is not None
        assert second.average_precision is not None
        assert first.pids is not None
        paired = first.average_precision.mean(axis=0) - second.average_precision.mean(axis=0)
        variance = people_variance(paired, first.pids, replicates, seed)
        parts.append((variance, len(np.unique(first.pids)) - 1))
    seeds = min(len(first.scores), len(second.scores)) > 1
    if seeds:
        parts += [
            (float(one.scores.var(ddof=1)) / len(one.scores), len(one.scores) - 1) for one in (first, second)
        ]
    if not parts:
        return Difference(value, Interval(math.nan, math.nan), people, seeds)
    half = _half_width(parts)
    return Difference(value, Interval(value - half, value + half), people, seeds)


def level(measured: Measured, replicates: int = 1000, seed: int = 0) -> Interval:
    """The 95 % interval of one setting's mean mAP: value ± t * sqrt(v_people + s^2 / S), see `difference`.

    NaN where neither the average precisions of several people nor a second seed are there.

    Raises:
        ValueError: there is no score, or fewer than two replicates.
    """
    if len(measured.scores) == 0:
        raise ValueError("a setting without a score has no interval; leave out those that did not finish")
    value = float(measured.scores.mean())
    parts: list[tuple[float, int]] = []
    if _same_queries(measured, measured):
        assert measured.average_precision is not None
        assert measured.pids is not None
        variance = people_variance(measured.average_precision.mean(axis=0), measured.pids, replicates, seed)
        parts.append((variance, len(np.unique(measured.pids)) - 1))
    seeds = len(measured.scores)
    if seeds > 1:
        parts.append((float(measured.scores.var(ddof=1)) / seeds, seeds - 1))
    if not parts:
        return Interval(math.nan, math.nan)
    half = _half_width(parts)
    return Interval(value - half, value + half)


def people_variance(
    values: Floats, pids: npt.NDArray[np.int64], replicates: int = 1000, seed: int = 0
) -> float:
    """Variance of the mean of `values` (Q,) over bootstrap samples of the people (Q,) that they belong to.

    A sample draws as many people as there are, with replacement, each with all their values.

    Raises:
        ValueError: fewer than two replicates, or lengths that differ.
    """
    if replicates < 2 or values.shape != pids.shape:
        raise ValueError(
            f"{replicates} replicates of values {values.shape} of people {pids.shape}; expected at least "
            "two, and a person for each value"
        )
    person = np.unique(pids, return_inverse=True)[1]
    sums, counts = np.bincount(person, weights=values), np.bincount(person)
    people = len(counts)
    drawn = np.random.default_rng(seed).multinomial(people, np.full(people, 1 / people), size=replicates)
    return float(((drawn @ sums) / (drawn @ counts)).var(ddof=1))


def _same_queries(first: Measured, second: Measured) -> bool:
    if first.average_precision is None or second.average_precision is None:
        return False
    if first.pids is None or second.pids is None:
        return False
    return np.array_equal(first.pids, second.pids) and len(np.unique(first.pids)) > 1


def _half_width(parts: list[tuple[float, int]]) -> float:
    """Half the interval of a sum of independent variances (variance, degrees of freedom)."""
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return 0.0
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    from scipy.special import stdtrit  # whoever ranks or compares images does without it

    return float(stdtrit(freedom, 1 - _TAIL)) * math.sqrt(variance)
