"""How sure the error rates are: bootstrap intervals over identities.

Pairs that share a person are not independent, so people are resampled, not pairs (Bolle, Ratha and Pankanti,
"Error analysis of pattern recognition systems: the subsets bootstrap", CVIU 2004). A person drawn w times
counts w times in genuine pairs, and a pair of two people w_a w_b times in impostor pairs. Pairs are counted
once, by people and threshold; a replicate is then a product with its weights and sorts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from reid.distance import full_products
from reid.people import is_person
from reid.retrieval.embeddings import Embeddings
from reid.retrieval.pairs import bin_of, pair_blocks
from reid.retrieval.verify import FAR_TARGETS, Floats, Verification, equal_error_rate, measurable

#: At most so many groups of people are resampled, which bounds the memory: with fewer people each is a group.
MAX_GROUPS = 768
# Thresholds at which pairs are counted, beside those of the operating points.
_BY_FAR, _BY_TAR = 56, 40


class Interval(NamedTuple):
    """A 95 % percentile interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Intervals:
    """95 % intervals of a `Verification`.

    Attributes:
        eer, best_f1: of the rate, the threshold chosen anew in each replicate.
        tar_at_far: likewise, for the false accept rates that there are enough pairs for.
        far, tar: of the rates at the fixed threshold of each measurable target: what somebody who uses that
            threshold has to expect.
        replicates, identities: how many were drawn, and of how many.
        groups: how many groups of identities were resampled.
    """

    eer: Interval
    best_f1: Interval
    tar_at_far: dict[float, Interval]
    far: dict[str, Interval]
    tar: dict[str, Interval]
    replicates: int
    identities: int
    groups: int


@dataclass(frozen=True)
class GroupCounts:
    """Pairs by group of people and threshold; the last threshold accepts all.

    thresholds: (T,); genuine: (T, G), pairs within a group at or below each; impostor: (T, G, G), pairs
    between the groups of the first and of the second image that lie between a threshold and the one before.
    """

    thresholds: Tensor
    genuine: Tensor
    impostor: Tensor


def bootstrap(
    images: Embeddings,
    verification: Verification,
    metric: str,
    protocol: str,
    replicates: int = 1000,
    seed: int = 0,
    max_groups: int = MAX_GROUPS,
) -> Intervals:
    """Intervals of `verification`, which was counted over all pairs of these images.

    With more identities than `max_groups`, they are dealt at random into that many groups, which are then
    resampled whole. Each distractor image (pid 0) counts as an identity of its own.

    Raises:
        ValueError: fewer than one replicate.
    """
    if replicates < 1:
        raise ValueError(f"replicates is {replicates}; at least one is needed")
    generator = np.random.default_rng(seed)
    identity = identities_of(images.pids.cpu().numpy())
    identities = int(identity.max()) + 1
    groups = min(identities, max_groups)
    group = generator.permutation(identities)[identity] % groups
    thresholds = torch.from_numpy(spread_thresholds(verification)).to(images.features.device)
    counts = count_by_group(images, torch.from_numpy(group), groups, thresholds, metric, protocol)
    drawn = generator.multinomial(groups, np.full(groups, 1 / groups), size=replicates)
    genuine, impostor = replicate_counts(counts, torch.from_numpy(drawn).to(thresholds.device))
    return _intervals(
        verification, counts.thresholds.cpu().double().numpy(), genuine, impostor, identities, groups
    )


def mean_intervals(
    values: Mapping[str, Floats],
    pids: npt.NDArray[np.int64],
    replicates: int = 1000,
    seed: int = 0,
    max_groups: int = 4 * MAX_GROUPS,
) -> dict[str, Interval]:
    """Intervals of the means of values (Q,), such as average precisions, of queries of these people (Q,).

    A replicate draws as many people as there are, with replacement, each with all their values (the cluster
    bootstrap: Davison and Hinkley, "Bootstrap methods and their application", 1997, section 3.8). With more
    than `max_groups`, people are dealt at random into that many groups, which bounds memory and time.

    {} where there are fewer than two people: one person says nothing of others.
    """
    person = np.unique(pids, return_inverse=True)[1]
    people = int(person.max(initial=-1)) + 1
    if people < 2:
        return {}
    generator = np.random.default_rng(seed)
    groups = min(people, max_groups)
    group = person if groups == people else generator.permutation(people)[person] % groups
    drawn = generator.multinomial(groups, np.full(groups, 1 / groups), size=replicates).astype(np.float64)
    counts = drawn @ np.bincount(group)
    return {
        name: interval(drawn @ np.bincount(group, weights=each) / counts) for name, each in values.items()
    }


def identities_of(pids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Identities counted from 0, (N,): each image of pid 0, a distractor, is an identity of its own."""
    own = -1 - np.arange(len(pids))
    return np.unique(np.where(is_person(pids), pids, own), return_inverse=True)[1]


def spread_thresholds(verification: Verification) -> Floats:
    """About a hundred thresholds that follow the ROC: even in TAR, and in the logarithm of FAR.

    Those of the operating points, and the last of all, are among them; the one that accepts nothing is not.
    """
    far, tar = verification.far, verification.tar
    wanted_far = np.geomspace(1 / verification.impostor, 1, _BY_FAR)
    wanted_tar = np.linspace(0.0, 1.0, _BY_TAR)
    last = len(far) - 1
    index = np.concatenate([np.searchsorted(far, wanted_far), np.searchsorted(tar, wanted_tar)]).clip(
        max=last
    )
    chosen = [point.threshold for point in verification.points.values() if np.isfinite(point.threshold)]
    every = np.unique([*verification.thresholds[index], *chosen, verification.thresholds[-1]])
    return every[every > verification.thresholds[0]]


def count_by_group(
    images: Embeddings, group: Tensor, groups: int, thresholds: Tensor, metric: str, protocol: str
) -> GroupCounts:
    """Count all pairs by the group (N,) of their people and by threshold (T,)."""
    device = images.features.device
    group = group.to(device)
    edges = thresholds.to(torch.promote_types(images.features.dtype, torch.float32))
    size = len(edges)
    genuine = torch.zeros(size * groups, dtype=torch.int64, device=device)
    impostor = torch.zeros(size * groups * groups, dtype=torch.int32, device=device)
    for block in pair_blocks(images, metric, protocol):
        place = bin_of(block.distance, edges)
        row, column = block.genuine.nonzero(as_tuple=True)
        genuine += torch.bincount(
            place[row, column] * groups + group[block.first + row], minlength=len(genuine)
        )
        row, column = block.impostor.nonzero(as_tuple=True)
        cell = (place[row, column] * groups + group[block.first + row]) * groups + group[block.first + column]
        impostor.scatter_add_(0, cell, torch.ones_like(cell, dtype=torch.int32))
    return GroupCounts(thresholds, genuine.view(size, groups).cumsum(0), impostor.view(size, groups, groups))


def replicate_counts(counts: GroupCounts, drawn: Tensor) -> tuple[Floats, Floats]:
    """Accepted genuine and impostor pairs, (B, T) each, where group g was drawn `drawn[b, g]` times."""
    # Whole numbers below 2**24 times small ones: float32 is exact enough for a percentile, and fast.
    weights = drawn.float()
    with full_products():
        genuine = weights @ counts.genuine.float().t()
        between = [
            ((weights @ part.float()) * weights).sum(dim=1, dtype=torch.float64) for part in counts.impostor
        ]
    impostor = torch.stack(between, dim=1).cumsum(1)
    return genuine.double().cpu().numpy(), impostor.cpu().numpy()


def _intervals(
    verification: Verification,
    thresholds: Floats,
    genuine: Floats,
    impostor: Floats,
    identities: int,
    groups: int,
) -> Intervals:
    # A replicate that drew one person alone, or nobody with a genuine pair, has no rates.
    both = (genuine[:, -1] > 0) & (impostor[:, -1] > 0)
    genuine, impostor = genuine[both], impostor[both]
    nothing = np.zeros((len(genuine), 1))
    true, false = np.hstack([nothing, genuine]), np.hstack([nothing, impostor])
    far, tar = false / false[:, -1:], true / true[:, -1:]
    f1 = 2 * true / (true[:, -1:] + true + false)
    at = {
        name: int(np.searchsorted(thresholds, point.threshold, side="right"))
        for name, point in verification.points.items()
        if np.isfinite(point.threshold)
    }
    curves = list(zip(far, tar, strict=True))
    return Intervals(
        eer=interval(np.array([equal_error_rate(*curve) for curve in curves])),
        best_f1=interval(f1.max(axis=1)),
        tar_at_far={
            wanted: interval(np.array([np.interp(wanted, *curve) for curve in curves]))
            for wanted in FAR_TARGETS.values()
            if measurable(wanted, verification.impostor)
        },
        far={name: interval(far[:, index]) for name, index in at.items()},
        tar={name: interval(tar[:, index]) for name, index in at.items()},
        replicates=len(genuine),
        identities=identities,
        groups=groups,
    )


def interval(values: Floats) -> Interval:
    """The 2.5 % and the 97.5 % percentile; NaN where there is no value."""
    if len(values) == 0:
        return Interval(float("nan"), float("nan"))
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(float(low), float(high))
