"""The calibration that a checkpoint carries: from a distance to a probability, and where that holds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy.typing as npt

from reid.engine.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from reid.judging.stored_threshold import FeatureSpace, ThresholdError
from reid.retrieval.calibration import Calibration, CameraPair, Curve, probability
from reid.retrieval.verify import Floats
from reid.words import chance, percent

#: The key of a checkpoint's `meta`.
KEY = "calibration"


@dataclass(frozen=True)
class StoredPair:
    """The curve of pairs by two cameras, see `reid.retrieval.calibration.CameraPair`."""

    cameras: tuple[int, int]
    people: int
    weight: float
    distances: tuple[float, ...]
    llrs: tuple[float, ...]


@dataclass(frozen=True)
class StoredCalibration:
    """How a distance becomes the probability that two images show one person.

    Attributes:
        distances, llrs: the knots of the curve, see `reid.retrieval.calibration.Curve`.
        pairs: the same by camera pair.
        prior: the share of pairs of one person that is assumed where nobody names another.
        genuine_pairs, impostor_pairs, people: what it was fitted on. The share of genuine pairs there is no
            prior of anything.
        tested_people: other people, on whom what follows was measured at `prior`.
        ece, ece_before: expected calibration error, less its bias, of these probabilities and of similarity
            taken for one; with 95 % intervals over people. cllr: the cost in bits.
    """

    method: str
    distances: tuple[float, ...]
    llrs: tuple[float, ...]
    pairs: tuple[StoredPair, ...]
    prior: float
    genuine_pairs: int
    impostor_pairs: int
    people: int
    metric: str
    feature_norm: bool
    neck_feature: str
    flip: bool
    precision: str
    protocol: str
    dataset: str
    split: str
    data_fingerprint: str
    tested_people: int
    ece: float
    ece_interval: tuple[float, float]
    ece_before: float
    ece_before_interval: tuple[float, float]
    cllr: float
    cllr_interval: tuple[float, float]

    def __repr__(self) -> str:
        return (
            f"StoredCalibration({self.method}, ECE {percent(self.ece)} at a prior of {percent(self.prior)} "
            f"on {self.tested_people:,} people of {self.dataset})"
        )

    @property
    def space(self) -> FeatureSpace:
        return FeatureSpace(self.metric, self.feature_norm, self.neck_feature, self.flip, self.precision)

    @cached_property
    def calibration(self) -> Calibration:
        """As `reid.retrieval.calibration` computes with it."""
        pairs = {
            pair.cameras: CameraPair(pair.people, pair.weight, Curve(pair.distances, pair.llrs))
            for pair in self.pairs
        }
        pooled = Curve(self.distances, self.llrs)
        return Calibration(self.method, pooled, pairs, self.genuine_pairs, self.impostor_pairs, self.people)

    def check(self, space: FeatureSpace) -> None:
        """Raises ThresholdError unless distances in `space` are those that it was fitted on."""
        if space != self.space:
            raise ThresholdError(
                f"the stored calibration holds for the {self.space.describe()}, computed in "
                f"{self.precision}, not for the {space.describe()}, computed in {space.precision}. Fit "
                "another one with python -m reid.calibrate"
            )

    def probability(
        self,
        distances: npt.ArrayLike,
        prior: float | None = None,
        first: npt.ArrayLike = (),
        second: npt.ArrayLike = (),
    ) -> Floats:
        """The probability of one person for each distance, above 0 and below 1.

        prior: the share of pairs of one person where it is used; by default the stored one.
        first, second: camids of the images, of the cameras that it was fitted on; without them any cameras.

        Raises:
            ValueError: a prior that is not above 0 and below 1.
        """
        llr = self.calibration.llr(distances, first, second)
        return probability(llr, self.prior if prior is None else prior)

    def expectation(self, prior: float | None = None) -> str:
        """What the probabilities rest on, in words."""
        used = self.prior if prior is None else prior
        share = self.genuine_pairs / (self.genuine_pairs + self.impostor_pairs)
        low, high = (100 * end for end in self.ece_interval)
        return (
            f"probabilities assume that {chance(used)} of the pairs that are compared show one person "
            f"(--prior); in calibration {chance(share)} did, which does not enter. They were off by "
            f"{100 * self.ece:.1f} points (95 %: {low:.1f} to {high:.1f}) on {self.tested_people:,} other "
            f"people of {self.dataset}, at a prior of {chance(self.prior)}"
        )


def stored_calibration(meta: dict[str, Any]) -> StoredCalibration | None:
    """The calibration that a checkpoint's `meta` carries, or None.

    Raises:
        CheckpointError: it is not one of this version.
    """
    values = meta.get(KEY)
    if values is None:
        return None
    tuples = ("distances", "llrs", "ece_interval", "ece_before_interval", "cllr_interval")
    try:
        pairs = tuple(
            StoredPair(
                (int(pair["cameras"][0]), int(pair["cameras"][1])), pair["people"], pair["weight"],
                tuple(pair["distances"]), tuple(pair["llrs"]),
            )
            for pair in values["pairs"]
        )  # fmt: skip
        return StoredCalibration(
            **{**values, "pairs": pairs, **{name: tuple(values[name]) for name in tuples}}
        )
    except (TypeError, KeyError, IndexError, ValueError) as error:
        raise CheckpointError(
            f"the calibration in the checkpoint is not one of this version ({error}): fit it again with "
            "python -m reid.calibrate"
        ) from error


def usable_calibration(meta: dict[str, Any], space: FeatureSpace) -> tuple[StoredCalibration | None, str]:
    """The calibration that may be applied in a space, and why there is none where one is stored.

    Raises:
        CheckpointError: it is not one of this version.
    """
    stored = stored_calibration(meta)
    if stored is None:
        return None, ""
    try:
        stored.check(space)
    except ThresholdError as refusal:
        return None, f"no probabilities: {refusal}"
    return stored, ""


def plain(stored: StoredCalibration) -> dict[str, Any]:
    """As a checkpoint and JSON hold it."""

    def lists(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: lists(item) for key, item in value.items()}
        return [lists(item) for item in value] if isinstance(value, list | tuple) else value

    values: dict[str, Any] = lists(asdict(stored))
    return values


def store_calibration(source: Path, target: Path, stored: StoredCalibration) -> dict[str, Any]:
    """Write the checkpoint `source`, with this calibration in it, to `target`; as `store_threshold` does."""
    checkpoint = load_checkpoint(source)
    meta = {**checkpoint.meta, KEY: plain(stored)}
    save_checkpoint(target, Checkpoint(checkpoint.model, meta, checkpoint.training))
    return meta
