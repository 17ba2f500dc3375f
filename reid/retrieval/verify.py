"""Same person or another: error rates of a distance threshold, and thresholds for wanted error rates.

A pair counts as "same" when its distance is at most the threshold. FAR is the share of impostor pairs
(two people) that are called the same, TAR the share of genuine pairs (one person), FRR = 1 - TAR.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from reid.retrieval.protocol import EvaluationError
from reid.words import percent

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

#: The wanted false accept rates, by the names that `target` takes.
FAR_TARGETS = {"far_1e-2": 1e-2, "far_1e-3": 1e-3, "far_1e-4": 1e-4}
#: What a threshold can be chosen for.
TARGETS = (*FAR_TARGETS, "eer", "f1")


@dataclass(frozen=True)
class OperatingPoint:
    """One threshold and what it does; all NaN where the target cannot be measured.

    F1 is that of the genuine pairs, at the ratio of genuine to impostor pairs that was measured.
    """

    threshold: float
    far: float
    tar: float
    f1: float

    @property
    def frr(self) -> float:
        """False reject rate: genuine pairs called different."""
        return 1 - self.tar


UNKNOWN = OperatingPoint(math.nan, math.nan, math.nan, math.nan)


@dataclass(frozen=True, eq=False)
class Verification:
    """What a distance is worth for telling people apart.

    Attributes:
        threshold: the one of `target`; NaN where there are too few impostor pairs to know it.
        eer: equal error rate: where FAR = FRR on the ROC, with straight lines between its points.
        tar_at_far: for 1e-2, 1e-3 and 1e-4, TAR at the largest threshold whose FAR does not exceed it; NaN
            with fewer than 1 / FAR impostor pairs, since then one wrong pair is already too many.
        best_f1: the largest F1 of any threshold.
        target: what `threshold` was chosen for.
        points: the operating point of every target. That of `eer` has the smallest |FAR - FRR| of all
            thresholds, so its two rates differ where the distances leave no better choice; that of `f1` the
            largest F1. Of equally good ones the strictest is taken. All thresholds from one distance up to
            the next make the same decisions: `threshold` is the middle of this plateau, with as much room
            to the next genuine pair as to the next impostor pair. That of a FAR is the largest threshold
            among the distances (or of the grid) that keeps it.
        thresholds, far, tar: the ROC, (T,) float64 each, from the point that accepts nothing on.
        genuine, impostor: numbers of pairs.
    """

    threshold: float
    eer: float
    tar_at_far: dict[float, float]
    best_f1: float
    target: str
    points: dict[str, OperatingPoint]
    thresholds: Floats
    far: Floats
    tar: Floats
    genuine: int
    impostor: int

    def __repr__(self) -> str:
        return (
            f"Verification(threshold {self.threshold:.4f} for {self.target}, EER {percent(self.eer)}, "
            f"{self.genuine:,} genuine and {self.impostor:,} impostor pairs)"
        )


def verify(
    genuine_distances: Tensor | npt.ArrayLike,
    impostor_distances: Tensor | npt.ArrayLike,
    target: str = "eer",
) -> Verification:
    """Measure every threshold that separates these pairs differently, exactly.

    Args:
        genuine_distances: any shape, of pairs that show one person.
        impostor_distances: any shape, of pairs that show two people.
        target: what `threshold` is for, one of TARGETS.

    Raises:
        EvaluationError: no pair of a kind, or a distance that is not finite.
        ValueError: unknown target.
    """
    genuine = _sorted(genuine_distances, "genuine")
    impostor = _sorted(impostor_distances, "impostor")
    values = np.unique(np.concatenate([genuine, impostor]))
    return verify_counts(
        values,
        np.searchsorted(genuine, values, side="right"),
        np.searchsorted(impostor, values, side="right"),
        target,
        exact=True,
    )


def verify_counts(
    thresholds: Floats,
    accepted_genuine: Counts,
    accepted_impostor: Counts,
    target: str = "eer",
    exact: bool = False,
) -> Verification:
    """The same from counts: how many pairs of each kind lie at or below each threshold.

    Args:
        thresholds: (T,), rising; at the last one all pairs are accepted.
        accepted_genuine: (T,) whole numbers.
        accepted_impostor: (T,) whole numbers.
        target: as in `verify`.
        exact: the thresholds are the distances themselves, so between two of them lies none. Those of a grid
            are not: a distance between two is counted at the second.

    Raises:
        EvaluationError: no pair of a kind.
        ValueError: unknown target.
    """
    if target not in TARGETS:
        raise ValueError(f"target is {target!r}; allowed: {', '.join(TARGETS)}")
    for kind, accepted in (("genuine", accepted_genuine), ("impostor", accepted_impostor)):
        if len(accepted) == 0 or accepted[-1] == 0:
            raise EvaluationError(_no_pair(kind))
    # The point that accepts nothing.
    thresholds = np.concatenate([[np.nextafter(thresholds[0], -np.inf)], thresholds]).astype(np.float64)
    true = np.concatenate([[0], accepted_genuine]).astype(np.float64)
    false = np.concatenate([[0], accepted_impostor]).astype(np.float64)
    genuine, impostor = int(true[-1]), int(false[-1])
    tar, far = true / genuine, false / impostor
    f1 = 2 * true / (genuine + true + false)

    def point(index: int, threshold: float | None = None) -> OperatingPoint:
        at = float(thresholds[index]) if threshold is None else threshold
        return OperatingPoint(at, float(far[index]), float(tar[index]), float(f1[index]))

    def best(cost: Counts | Floats) -> OperatingPoint:
        index = int(np.argmin(cost))
        return point(index, middle_of_plateau(index, thresholds, true + false, exact))

    points = {
        name: point(last_within(far, wanted)) if measurable(wanted, impostor) else UNKNOWN
        for name, wanted in FAR_TARGETS.items()
    }
    # |FAR - FRR| in whole numbers, so that equally good thresholds are equal to the last digit.
    rejected = genuine - true.astype(np.int64)
    points["eer"] = best(np.abs(false.astype(np.int64) * genuine - rejected * impostor))
    points["f1"] = best(-f1)
    return Verification(
        threshold=points[target].threshold,
        eer=equal_error_rate(far, tar),
        tar_at_far={wanted: points[name].tar for name, wanted in FAR_TARGETS.items()},
        best_f1=float(f1.max()),
        target=target,
        points=points,
        thresholds=thresholds,
        far=far,
        tar=tar,
        genuine=genuine,
        impostor=impostor,
    )


def require_pairs(genuine: int, impostor: int, target: str) -> None:
    """Refuse a target that needs more pairs than there are of a kind.

    Raises:
        EvaluationError: no pair of a kind, or fewer than 1 / FAR impostor pairs for a wanted FAR.
    """
    for kind, count in (("genuine", genuine), ("impostor", impostor)):
        if count == 0:
            raise EvaluationError(_no_pair(kind))
    if target in FAR_TARGETS and not measurable(FAR_TARGETS[target], impostor):
        possible = [name for name in TARGETS if measurable(FAR_TARGETS.get(name, 1), impostor)]
        raise EvaluationError(
            f"target={target} needs at least {round(1 / FAR_TARGETS[target]):,} impostor pairs, and there "
            f"are {impostor:,}. Give more people, or one of target={', '.join(possible)}"
        )


def measurable(far: float, impostor_pairs: int) -> bool:
    """Whether so many impostor pairs can measure such a false accept rate: at least 1 / FAR are needed."""
    return impostor_pairs >= round(1 / far)


def last_within(far: Floats, wanted: float) -> int:
    """Index of the largest threshold whose FAR does not exceed `wanted`; `far` (T,) is rising from 0."""
    return int(np.searchsorted(far, wanted, side="right")) - 1


def middle_of_plateau(index: int, thresholds: Floats, accepted: Floats, exact: bool) -> float:
    """The middle of the thresholds that make the same decisions as the one at `index`, the first of them.

    They reach up to the next distance, which is accepted itself: with `exact` to the next threshold at which
    more is `accepted` (T,), else surely to the one before it. Where none rejects any pair, no distance bounds
    them above, and the first stays.
    """
    low = float(thresholds[index])
    after = int(np.searchsorted(accepted, accepted[index], side="right"))
    if after == len(accepted):
        return low
    high = float(thresholds[after if exact else after - 1])
    middle = low + (high - low) / 2
    return middle if not exact or middle < high else low


def equal_error_rate(far: Floats, tar: Floats) -> float:
    """Where FAR = 1 - TAR, by straight lines between the points (T,) of a ROC that begins at (0, 0)."""
    excess = far - (1 - tar)  # rises from -1 to 1
    after = int(np.argmax(excess >= 0))
    share = -excess[after - 1] / (excess[after] - excess[after - 1])
    return float(far[after - 1] + share * (far[after] - far[after - 1]))


def _sorted(distances: Tensor | npt.ArrayLike, kind: str) -> Floats:
    source: Any = distances.detach().cpu().numpy() if isinstance(distances, Tensor) else distances
    values = np.sort(np.asarray(source, dtype=np.float64).ravel())
    if len(values) == 0:
        raise EvaluationError(_no_pair(kind))
    if not np.isfinite(values).all():
        raise EvaluationError(
            f"{int((~np.isfinite(values)).sum())} of {len(values)} {kind} distances are NaN or infinite; a "
            "threshold exists for finite distances only"
        )
    return values


def _no_pair(kind: str) -> str:
    remedy = {
        "genuine": "no person has two images that the protocol lets be compared. With one camera or without "
        "camera ids, use eval.protocol=ignore_camera; else check how the data was split",
        "impostor": "the images show one person only; at least two people are needed",
    }
    return f"there is no {kind} pair: {remedy[kind]}"
