"""The open-set threshold that a checkpoint carries: what it was measured on, and where it may be applied."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reid.engine.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from reid.judging.stored_threshold import FeatureSpace, ThresholdError
from reid.retrieval.open_set import modelled_fpir
from reid.words import percent

#: The key of a checkpoint's `meta`.
KEY = "open_set"
#: A gallery of more than so many times the people of the largest one that was measured is refused.
MOST_LARGER = 2.0


@dataclass(frozen=True)
class StoredOpenSet:
    """Nobody, where no enrolled person lies within `value`.

    Attributes:
        value, value_interval: the threshold, and where it would lie with other calibration people.
        target: the FPIR that it was chosen for, such as `fpir_1e-2`.
        fusion: how several crops of an enrolled person became one; crops: how many there were, on average.
        calibrated_enrolled, calibrated_strangers: people on whom the threshold was fixed.
        enrolled, strangers: other people, on whom all that follows was measured.
        fpir, dir: with 95 % intervals over people, at `value`.
        false_match_rate: share of pairs of a stranger's probe and an enrolled person within `value`.
        sizes: [people enrolled, FPIR] of galleries of several sizes, rising.
    """

    value: float
    value_interval: tuple[float, float]
    target: str
    fusion: str
    crops: float
    metric: str
    feature_norm: bool
    neck_feature: str
    flip: bool
    precision: str
    protocol: str
    dataset: str
    split: str
    data_fingerprint: str
    calibrated_enrolled: int
    calibrated_strangers: int
    enrolled: int
    strangers: int
    fpir: float
    fpir_interval: tuple[float, float]
    dir: float
    dir_interval: tuple[float, float]
    false_match_rate: float
    sizes: tuple[tuple[int, float], ...]

    def __repr__(self) -> str:
        return (
            f"StoredOpenSet({self.value:.4f} for {self.target}: FPIR {percent(self.fpir)}, DIR "
            f"{percent(self.dir)} among {self.enrolled:,} people of {self.dataset})"
        )

    @property
    def space(self) -> FeatureSpace:
        return FeatureSpace(self.metric, self.feature_norm, self.neck_feature, self.flip, self.precision)

    @property
    def largest(self) -> int:
        """People of the largest gallery that was measured."""
        return max(size for size, _ in self.sizes)

    def expected_fpir(self, people: int) -> tuple[float, float]:
        """The FPIR to expect among so many people: one number twice, or from the first to the second.

        Up to the largest size that was measured, straight lines over the logarithm of the size join the
        measured ones; below the smallest the model of independent matches holds well. Beyond the largest the
        truth lies between what was measured there, since the rate never falls, and that model, which
        promises too much (see `modelled_fpir`).
        """
        known = sorted(self.sizes)
        modelled = modelled_fpir(self.false_match_rate, people)
        if people < known[0][0]:
            rate = min(known[0][1], modelled)
            return rate, rate
        if people <= known[-1][0]:
            x = [math.log(size) for size, _ in known]
            rate = float(np.interp(math.log(people), x, [rate for _, rate in known]))
            return rate, rate
        return known[-1][1], max(known[-1][1], modelled)

    def check(self, space: FeatureSpace, people: int, fusion: str) -> None:
        """Raises ThresholdError unless the threshold holds for such a search.

        people: how many are enrolled. fusion: how their crops become one.
        """
        if space != self.space:
            raise ThresholdError(
                f"the open-set threshold {self.value:.4f} holds for the {self.space.describe()}, computed in "
                f"{self.precision}, not for the {space.describe()}, computed in {space.precision}. Measure "
                "another one with python -m reid.identify"
            )
        if fusion != self.fusion and self.crops > 1:
            raise ThresholdError(
                f"the open-set threshold {self.value:.4f} holds for several crops of a person fused by "
                f"fusion={self.fusion}, not by {fusion}. Measure one with python -m reid.identify "
                f"fusion={fusion}"
            )
        if people > MOST_LARGER * self.largest:
            low, high = self.expected_fpir(people)
            raise ThresholdError(
                f"the open-set threshold {self.value:.4f} was measured with up to {self.largest:,} enrolled "
                f"people, and here are {people:,}: a stranger would be taken for somebody in "
                f"{100 * low:.3g} to {100 * high:.3g} % of the searches. Measure one with as many people"
            )

    def expectation(self, people: int) -> str:
        """What to expect of it among so many enrolled people, in words."""
        low, high = self.expected_fpir(people)
        rate = f"{100 * low:.3g}" if low == high else f"{100 * low:.3g} to {100 * high:.3g}"
        ends = " to ".join(f"{100 * end:.3g}" for end in self.fpir_interval)
        found = " to ".join(f"{100 * end:.1f}" for end in self.dir_interval)
        return (
            f"nobody: no {self.metric} distance of at most {self.value:.4f} (for {self.target}). Expect "
            f"{rate} % of the searches of strangers to find somebody among {people:,} people (measured on "
            f"{self.dataset} with {self.enrolled:,} people and {self.strangers:,} strangers: "
            f"{100 * self.fpir:.3g} %, 95 %: {ends}), and {100 * self.dir:.1f} % of the people who are "
            f"enrolled to be found (95 %: {found}). Other cameras or people may give other rates"
        )


def stored_open_set(meta: dict[str, Any]) -> StoredOpenSet | None:
    """The open-set threshold that a checkpoint's `meta` carries, or None.

    Raises:
        CheckpointError: it is not one of this version.
    """
    values = meta.get(KEY)
    if values is None:
        return None
    try:
        stored = StoredOpenSet(**values)
        return replace(
            stored,
            value_interval=(*stored.value_interval,),
            fpir_interval=(*stored.fpir_interval,),
            dir_interval=(*stored.dir_interval,),
            sizes=tuple((int(size), float(rate)) for size, rate in stored.sizes),
        )
    except TypeError as error:
        raise CheckpointError(
            f"the open-set threshold in the checkpoint is not one of this version ({error}): measure it "
            "again with python -m reid.identify"
        ) from error


def store_open_set(source: Path, target: Path, stored: StoredOpenSet) -> dict[str, Any]:
    """Write the checkpoint `source`, with this threshold in it, to `target`; as `store_threshold` does."""
    checkpoint = load_checkpoint(source)
    values = {**asdict(stored), "sizes": [list(size) for size in stored.sizes]}
    meta = {**checkpoint.meta, KEY: values}
    save_checkpoint(target, Checkpoint(checkpoint.model, meta, checkpoint.training))
    return meta
