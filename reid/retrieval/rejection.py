"""Error against rejection: what accuracy is left when the queries that a score thinks worst are set aside.

The curve is that of Grother and Tabassi ("Performance of biometric quality measures", IEEE TPAMI 2007). One
number sums it up: of the way from setting aside at random to setting aside by the accuracy itself (an oracle,
which no score can beat), the share that the score goes. 0 is chance, 1 the oracle, below 0 worse than chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reid.retrieval.bootstrap import Interval, interval, mean_intervals
from reid.retrieval.verify import Floats

Places = npt.NDArray[np.int64]

#: Shares of the queries that are set aside.
SHARES = tuple(step / 20 for step in range(19))


@dataclass(frozen=True, eq=False)
class Rejection:
    """What a score of quality is worth.

    Attributes:
        shares: (S,) of the queries that are set aside, the worst first, from 0 on.
        left: (S,) mean of the values of those that stay.
        intervals: of `left`, 95 % over people; empty with fewer than two people.
        random: the mean of all, which is what is left, on average, of any share that chance sets aside.
        oracle: (S,) the same where the values themselves say which queries are the worst.
        gain: the share of the way from `random` to `oracle` that the score goes, over all shares from 0 to 1;
            NaN where all values are equal, so that there is no way.
        gain_interval: 95 % over people; NaN ends where it is not known.
    """

    shares: Floats
    left: Floats
    intervals: list[Interval]
    random: float
    oracle: Floats
    gain: float
    gain_interval: Interval


def rejection(
    scores: Floats, values: Floats, pids: npt.NDArray[np.int64], replicates: int = 1000, seed: int = 0
) -> Rejection:
    """The curve of a score over queries.

    Of queries with equal scores those that come first are set aside first. The intervals resample people,
    each with all their queries; at a share it is fixed which queries stay.

    Args:
        scores: (Q,) quality, higher is better.
        values: (Q,) what accuracy is to be measured by, such as average precisions.
        pids: (Q,) whose queries they are.

    Raises:
        ValueError: lengths differ, there is no query, or a number is not finite.
    """
    if not len(scores) == len(values) == len(pids) or len(scores) == 0:
        raise ValueError(
            f"{len(scores)} scores, {len(values)} values and {len(pids)} people; expected one each for one "
            "query or more"
        )
    if not (np.isfinite(scores).all() and np.isfinite(values).all()):
        raise ValueError("a score or a value is NaN or infinite; leave such queries out")
    by_score, by_value = np.argsort(scores, kind="stable"), np.argsort(values, kind="stable")
    cut = [min(len(scores) - 1, round(share * len(scores))) for share in SHARES]
    intervals = []
    for first in cut:
        kept = by_score[first:]
        found = mean_intervals({"left": values[kept]}, pids[kept], replicates, seed)
        intervals.append(found.get("left", Interval(math.nan, math.nan)))
    ones = np.ones(len(scores))
    gain = _gain(values, ones, by_score, by_value)
    return Rejection(
        shares=np.array(SHARES),
        left=np.array([values[by_score[first:]].mean() for first in cut]),
        intervals=intervals,
        random=float(values.mean()),
        oracle=np.array([values[by_value[first:]].mean() for first in cut]),
        gain=gain,
        gain_interval=_gain_interval(values, pids, by_score, by_value, replicates, seed),
    )


def _gain(values: Floats, weights: Floats, by_score: Places, by_value: Places) -> float:
    mean = float(weights @ values / weights.sum())
    way = area_left(values[by_value], weights[by_value]) - mean
    if way <= 1e-12:
        return math.nan
    return (area_left(values[by_score], weights[by_score]) - mean) / way


def area_left(values: Floats, weights: Floats) -> float:
    """The mean, over all shares from 0 to 1, of the mean that is left of `values` (Q,), the worst first.

    A query of weight w, a whole number, stands for w queries; one of weight 0 is not there.
    """
    left = np.cumsum((values * weights)[::-1])[::-1]
    many = np.cumsum(weights[::-1])[::-1]
    there = weights > 0
    return float((left[there] / many[there] * weights[there]).sum() / weights.sum())


def _gain_interval(
    values: Floats,
    pids: npt.NDArray[np.int64],
    by_score: Places,
    by_value: Places,
    replicates: int,
    seed: int,
) -> Interval:
    person = np.unique(pids, return_inverse=True)[1]
    people = int(person.max()) + 1
    if people < 2:
        return Interval(math.nan, math.nan)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(people, np.full(people, 1 / people), size=replicates)
    gains = np.array([_gain(values, row[person].astype(np.float64), by_score, by_value) for row in drawn])
    return interval(gains[np.isfinite(gains)])
