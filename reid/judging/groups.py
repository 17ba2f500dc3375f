"""Who is missed more often: scores by group, and how far each group is from all others.

A group is a part of what is judged: the queries of a size, a brightness, a value of a column of the user's
table, or the queries and gallery images of a pair of cameras. Each is compared with the rest. People are
resampled, not images, since the images of a person are not independent. Of many comparisons some look like
something by chance alone, so each difference also says whether it stays after Holm's correction over all of
its score ("A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics
1979).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from reid.distance import distance_function
from reid.people import DISTRACTOR, is_person
from reid.retrieval import Embeddings, EvaluationError, evaluate, junk
from reid.retrieval.bootstrap import Interval, interval
from reid.retrieval.verify import Floats

#: The key of a checkpoint's `meta`.
GROUPS = "groups"
#: The groupings that need no table.
GROUPINGS = ("camera_pair", "size", "brightness")
SCORES = ("mAP", "rank-1", "miss rate")
#: A group of fewer people, or with fewer outside it, is not compared: its interval would promise too much.
FEWEST_PEOPLE = 5
#: Numbers with more distinct values than this are cut into three.
MOST_VALUES = 10
#: A column with more groups than this is no grouping.
MOST_GROUPS = 40
UNKNOWN = "unknown"
_CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class Observations:
    """Queries as one grouping sees them, O rows; of a pair of cameras a query is one row for each other
    camera.

    Attributes:
        grouping: what it is called, such as `size`.
        group: (O,) the group of each, as text.
        pids: (O,).
        precision, first: (O,) average precision, and whether the first image is a match.
        pairs, missed: (O,) how many matches it has, and how many of them lie beyond the stored threshold;
        None
            without a threshold.
    """

    grouping: str
    group: npt.NDArray[np.str_]
    pids: npt.NDArray[np.int64]
    precision: Floats
    first: Floats
    pairs: npt.NDArray[np.int64]
    missed: npt.NDArray[np.int64] | None


@dataclass(frozen=True)
class GroupRow:
    """One score of one group, fractions.

    `difference` is the group's less that of the rest, with its 95 % interval; NaN where too few people are in
    either. `p_value` is that of no difference, by the normal approximation of the bootstrap; `remains` says
    whether it stays below 0.05 after Holm's correction.
    """

    grouping: str
    group: str
    score: str
    value: float
    interval: Interval
    rest: float
    difference: float
    difference_interval: Interval
    p_value: float
    remains: bool
    queries: int
    people: int
    pairs: int


def of_queries(
    grouping: str,
    group: Sequence[str],
    query: Embeddings,
    precision: Floats,
    first_match: npt.NDArray[np.int64],
    pairs: npt.NDArray[np.int64],
    missed: npt.NDArray[np.int64] | None,
) -> Observations:
    """Queries by groups of their own; those without a match are left out."""
    valid = np.flatnonzero(~np.isnan(precision))
    return Observations(
        grouping, np.array(group, dtype=np.str_)[valid], query.pids.cpu().numpy()[valid], precision[valid],
        (first_match[valid] == 1).astype(np.float64), pairs[valid], None if missed is None else missed[valid],
    )  # fmt: skip


def of_camera_pairs(
    query: Embeddings, gallery: Embeddings, protocol: str, metric: str, threshold: float | None
) -> Observations:
    """Each query looked for among the images of one camera of the gallery at a time, by both cameras.

    A pair is the same in both directions: `1-3` holds the queries of camera 1 looked for in camera 3 and
    those of camera 3 looked for in camera 1. Cameras are counted from 1, as in the names of files.
    """
    parts: list[Observations] = []
    for camera in torch.unique(gallery.camids).tolist():
        inside = gallery.select(gallery.camids == camera)
        try:
            scores = evaluate(query, inside, protocol=protocol, distractor=DISTRACTOR)
        except EvaluationError:  # nobody is looked for there
            continue
        pairs, missed = count_missed(query, inside, protocol, metric, threshold)
        ends = [sorted((int(own), int(camera))) for own in query.camids.tolist()]
        named = [f"{low + 1}-{high + 1}" for low, high in ends]
        precision = scores.average_precision.numpy()
        first = scores.first_match.numpy()
        parts.append(of_queries("camera_pair", named, query, precision, first, pairs, missed))
    return Observations(
        "camera_pair",
        np.concatenate([part.group for part in parts]),
        np.concatenate([part.pids for part in parts]),
        np.concatenate([part.precision for part in parts]),
        np.concatenate([part.first for part in parts]),
        np.concatenate([part.pairs for part in parts]),
        None if threshold is None else np.concatenate([_known(part.missed) for part in parts]),
    )


def count_missed(
    query: Embeddings, gallery: Embeddings, protocol: str, metric: str, threshold: float | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64] | None]:
    """How many matches each query has (Q,), and how many lie beyond the threshold; None without one."""
    distance = distance_function(metric)
    pairs, missed = [], []
    for rows in torch.arange(len(query), device=query.pids.device).split(
        max(1, _CHUNK_BYTES // (16 * len(gallery)))
    ):
        some = query.select(rows)
        matches: Tensor = (some.pids[:, None] == gallery.pids) & is_person(some.pids)[:, None]
        matches &= ~junk(some, gallery, protocol)
        pairs.append(matches.sum(dim=1))
        if threshold is not None:
            beyond = distance(some.features, gallery.features) > threshold
            missed.append((matches & beyond).sum(dim=1))
    counted = torch.cat(pairs).cpu().numpy()
    return counted, torch.cat(missed).cpu().numpy() if missed else None


def thirds(values: Sequence[float], names: tuple[str, str, str], unit: str = "") -> list[str]:
    """Each number's third, named with the numbers that it reaches to: `small (to 96 px)`.

    Numbers that are all equal, or nearly so, make fewer groups.
    """
    numbers = np.asarray(values, dtype=np.float64)
    first, second = np.quantile(numbers, [1 / 3, 2 / 3], method="lower")
    low, high = (f"{edge:.4g}{unit}" for edge in (first, second))
    words = (f"{names[0]} (to {low})", f"{names[1]} (to {high})", f"{names[2]} (above {high})")
    return [words[0] if one <= first else words[1] if one <= second else words[2] for one in numbers]


def of_column(values: Sequence[str]) -> list[str]:
    """The groups of a column of a table: its values, or thirds of its numbers where there are many.

    Raises:
        ValueError: there are more than MOST_GROUPS groups.
    """
    known = [value for value in values if value]
    numbers = [_number(value) for value in known]
    if known and None not in numbers and len(set(known)) > MOST_VALUES:
        found = iter(thirds([number for number in numbers if number is not None], ("low", "middle", "high")))
        return [next(found) if value else UNKNOWN for value in values]
    if len(set(known)) > MOST_GROUPS:
        raise ValueError(f"{len(set(known))} different values, and groups are at most {MOST_GROUPS}")
    return [value or UNKNOWN for value in values]


def compare(observed: Sequence[Observations], replicates: int = 1000, seed: int = 0) -> list[GroupRow]:
    """Every score of every group beside that of the rest of its grouping."""
    rows: list[GroupRow] = []
    for one in observed:
        person = np.unique(one.pids, return_inverse=True)[1]
        people = int(person.max(initial=-1)) + 1
        drawn = np.random.default_rng(seed).multinomial(people, np.full(people, 1 / people), size=replicates)
        for score, (above, below) in _ratios(one).items():
            sums = _by_person(person, people, above), _by_person(person, people, below)
            for group in sorted(set(one.group.tolist())):
                inside = one.group == group
                part = tuple(
                    _by_person(person, people, np.where(inside, each, 0.0)) for each in (above, below)
                )
                rows.append(_row(one, score, group, inside, part, sums, drawn.astype(np.float64)))
    return _corrected(rows)


def _ratios(one: Observations) -> dict[str, tuple[Floats, Floats]]:
    """Each score as a sum over a sum."""
    ones = np.ones(len(one.pids))
    found = {"mAP": (one.precision, ones), "rank-1": (one.first, ones)}
    if one.missed is not None:
        found["miss rate"] = (one.missed.astype(np.float64), one.pairs.astype(np.float64))
    return found


def _by_person(person: npt.NDArray[np.int64], people: int, values: Floats) -> Floats:
    return np.asarray(np.bincount(person, weights=values, minlength=people), np.float64)


def _row(
    one: Observations,
    score: str,
    group: str,
    inside: npt.NDArray[np.bool_],
    part: tuple[Floats, ...],
    sums: tuple[Floats, ...],
    drawn: Floats,
) -> GroupRow:
    rest = tuple(whole - own for whole, own in zip(sums, part, strict=True))
    people = len(np.unique(one.pids[inside]))
    enough = min(people, len(np.unique(one.pids[~inside]))) >= FEWEST_PEOPLE
    value, other = _share(*map(np.sum, part)), _share(*map(np.sum, rest))
    of_group, of_rest = (_shares(drawn @ above, drawn @ below) for above, below in (part, rest))
    nan = Interval(math.nan, math.nan)
    less, p_value = nan, math.nan
    if enough:
        differences = of_group - of_rest
        differences = differences[np.isfinite(differences)]
        less = interval(differences)
        p_value = _p_value(value - other, float(differences.std(ddof=1)))
    return GroupRow(
        one.grouping, group, score, value, interval(of_group[np.isfinite(of_group)]) if enough else nan,
        other, value - other if enough else math.nan, less, p_value, False, int(inside.sum()), people,
        int(one.pairs[inside].sum()),
    )  # fmt: skip


def _corrected(rows: Sequence[GroupRow]) -> list[GroupRow]:
    """The rows with `remains`, by Holm's procedure among all rows of one score."""
    kept: dict[int, bool] = {}
    for score in SCORES:
        tested = [
            (row.p_value, number)
            for number, row in enumerate(rows)
            if row.score == score and not math.isnan(row.p_value)
        ]
        remains = holm([p_value for p_value, _ in tested])
        kept |= {number: one for (_, number), one in zip(tested, remains, strict=True)}
    return [GroupRow(**{**vars(row), "remains": kept.get(number, False)}) for number, row in enumerate(rows)]


def holm(p_values: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which of several hypotheses are rejected, so that the chance of any wrong rejection is `level` at
    most."""
    rejected = [False] * len(p_values)
    for place, number in enumerate(sorted(range(len(p_values)), key=lambda one: p_values[one])):
        if p_values[number] > level / (len(p_values) - place):
            break
        rejected[number] = True
    return rejected


def conclude(rows: Sequence[GroupRow]) -> str:
    """Who is missed more often, in words: the differences that remain after the correction."""
    score = "miss rate" if any(row.score == "miss rate" for row in rows) else "mAP"
    worse = 1 if score == "miss rate" else -1
    tested = [row for row in rows if row.score == score and not math.isnan(row.p_value)]
    found = sorted(
        (row for row in tested if row.remains and worse * row.difference > 0),
        key=lambda row: -abs(row.difference),
    )
    verb = "Missed more often than the rest" if score == "miss rate" else "Found worse than the rest (mAP)"
    correction = f"after Holm's correction over {len(tested)} comparisons"
    if not tested:
        return "No group is large enough to be compared with the rest."
    if not found:
        return f"{verb}: nobody; no such difference remains {correction}."
    named = "; ".join(
        f"{row.grouping} {row.group} ({100 * row.difference:+.1f} points "
        f"[{100 * row.difference_interval.low:+.1f}, "
        f"{100 * row.difference_interval.high:+.1f}])"
        for row in found
    )
    return f"{verb}: {named}. These remain {correction}."


def group_table(rows: Mapping[str, Sequence[GroupRow]]) -> pd.DataFrame:
    """All rows by the name of their data, as a table; fractions, empty where not measured."""
    return pd.DataFrame(
        [
            {
                "data": name, "grouping": row.grouping, "group": row.group, "score": row.score, "value":
                row.value, "low": row.interval.low, "high": row.interval.high, "rest": row.rest,
                "difference": row.difference, "difference_low": row.difference_interval.low,
                "difference_high": row.difference_interval.high, "p_value": row.p_value,
                "remains_after_holm": row.remains, "queries": row.queries, "people": row.people, "pairs":
                row.pairs,
            }
            for name, some in rows.items()
            for row in some
        ]
    )  # fmt: skip


def _share(above: float, below: float) -> float:
    return float(above / below) if below > 0 else math.nan


def _shares(above: Floats, below: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = np.where(below > 0, above / below, np.nan)
    return found


def _p_value(difference: float, deviation: float) -> float:
    """Two-sided, of a normal distribution; a difference that never varies is certain or none."""
    if not math.isfinite(difference) or not math.isfinite(deviation):
        return math.nan
    if deviation == 0:
        return 1.0 if difference == 0 else 0.0
    return math.erfc(abs(difference) / deviation / math.sqrt(2))


def _known(values: npt.NDArray[np.int64] | None) -> npt.NDArray[np.int64]:
    assert values is not None
    return values


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
