"""The threshold that a checkpoint carries: what it was measured on, and under what it may be applied."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from reid.config.schema import EvalConfig
from reid.engine.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from reid.retrieval import Intervals, Verification
from reid.words import percent

#: The key of a checkpoint's `meta`.
KEY = "threshold"


class ThresholdError(ValueError):
    """A threshold was to be applied to distances that it was not measured on."""


@dataclass(frozen=True)
class FeatureSpace:
    """What a distance is measured between, and how: a threshold means nothing in another space.

    `feature_norm` says whether the features were divided by their L2 norm, which the cosine implies,
    `flip` whether they are the mean of those of the image and its mirror image.  `pooling` says how the
    features of a tracklet's frames became one; none: a feature is that of a single crop.  `precision` is
    what the network computed them in: bf16 rounds each of its layers to three digits.
    """

    metric: str
    feature_norm: bool
    neck_feature: str
    flip: bool = False
    precision: str = "float32"
    pooling: str = "none"

    def describe(self) -> str:
        norm = "L2-normalised" if self.feature_norm else "raw"
        mirrored = ", mean with the mirror image" if self.flip else ""
        pooled = "" if self.pooling == "none" else f", {self.pooling} over a tracklet"
        return f"{self.metric} distance, {norm} feature {self.neck_feature} the neck{mirrored}{pooled}"


def feature_space(settings: EvalConfig | dict[str, Any], precision: str = "float32") -> FeatureSpace:
    """The space that evaluation settings, or those which a checkpoint remembers, ask for."""
    values = settings if isinstance(settings, dict) else asdict(settings)
    metric = values["metric"]
    norm = values["feature_norm"] or metric == "cosine"
    # Checkpoints that are older than the key were judged without it.
    pooling = values.get("tracklet_pooling", "none") if values.get("tracklets") else "none"
    return FeatureSpace(metric, norm, values["neck_feature"], values.get("flip", False), precision, pooling)


@dataclass(frozen=True)
class StoredThreshold:
    """A pair whose distance is at most `value` counts as the same person.

    `far` and `tar` are what was measured at that value, each followed by its 95 % interval over identities;
    they hold for people and cameras like those of `dataset`.
    """

    value: float
    target: str
    metric: str
    feature_norm: bool
    neck_feature: str
    flip: bool
    protocol: str
    dataset: str
    split: str
    data_fingerprint: str
    identities: int
    genuine_pairs: int
    impostor_pairs: int
    far: float
    far_interval: tuple[float, float]
    tar: float
    tar_interval: tuple[float, float]
    # Thresholds that are older than the field do not say it: theirs was the command's default.
    precision: str = "float32"
    # Older ones were measured on single crops.
    pooling: str = "none"

    def __repr__(self) -> str:
        return (
            f"StoredThreshold({self.value:.4f} for {self.target}: FAR {percent(self.far)}, "
            f"FRR {percent(1 - self.tar)} on {self.dataset} {self.split}, {self.identities:,} people)"
        )

    @property
    def space(self) -> FeatureSpace:
        return FeatureSpace(
            self.metric, self.feature_norm, self.neck_feature, self.flip, self.precision, self.pooling
        )

    def check(self, space: FeatureSpace) -> None:
        """Raises ThresholdError unless distances in `space` are those that this threshold was measured on."""
        if space.pooling != self.pooling:
            of, wanted = (
                "single crops" if one == "none" else f"tracklets ({one} of their frames)"
                for one in (self.pooling, space.pooling)
            )
            again = "false" if space.pooling == "none" else f"true eval.tracklet_pooling={space.pooling}"
            raise ThresholdError(
                f"the stored threshold {self.value:.4f} was measured on {of}, and these are {wanted}, "
                "whose distances "
                "are others. Measure another one with python -m reid.threshold checkpoint=… "
                f"eval.tracklets={again}"
            )
        if space != self.space:
            raise ThresholdError(
                f"the stored threshold {self.value:.4f} holds for the {self.space.describe()}, computed in "
                f"{self.precision}, not for the {space.describe()}, computed in {space.precision}. Leave "
                "these as they were, or measure another threshold with "
                f"python -m reid.threshold checkpoint=… eval.metric={space.metric} "
                f"eval.feature_norm={str(space.feature_norm).lower()} eval.neck_feature={space.neck_feature} "
                f"eval.flip={str(space.flip).lower()} precision={space.precision}"
            )


def chosen_threshold(
    verification: Verification,
    intervals: Intervals,
    settings: EvalConfig,
    dataset: str,
    data_fingerprint: str,
    identities: int,
    precision: str = "float32",
) -> StoredThreshold:
    """What a checkpoint is to say of the threshold that was chosen."""
    space, target = feature_space(settings, precision), verification.target
    point = verification.points[target]
    return StoredThreshold(
        value=point.threshold,
        target=target,
        metric=space.metric,
        feature_norm=space.feature_norm,
        neck_feature=space.neck_feature,
        flip=space.flip,
        protocol=settings.protocol,
        dataset=dataset,
        split=settings.split,
        data_fingerprint=data_fingerprint,
        identities=identities,
        genuine_pairs=verification.genuine,
        impostor_pairs=verification.impostor,
        far=point.far,
        far_interval=intervals.far[target],
        tar=point.tar,
        tar_interval=intervals.tar[target],
        precision=space.precision,
        pooling=space.pooling,
    )


def stored_threshold(meta: dict[str, Any]) -> StoredThreshold | None:
    """The threshold that a checkpoint's `meta` carries, or None.

    Raises:
        CheckpointError: it is not one of this version.
    """
    values = meta.get(KEY)
    if values is None:
        return None
    try:
        stored = StoredThreshold(**values)
        return replace(stored, far_interval=(*stored.far_interval,), tar_interval=(*stored.tar_interval,))
    except TypeError as error:
        raise CheckpointError(
            f"the threshold in the checkpoint is not one of this version ({error}): measure it again with "
            "python -m reid.threshold"
        ) from error


def store_threshold(source: Path, target: Path, threshold: StoredThreshold) -> dict[str, Any]:
    """Write the checkpoint `source`, with this threshold in it, to `target`, which may be the same file.

    Returns the new `meta`. The file is written whole or not at all. It is read anew, so that nothing else in
    it is lost.

    Raises:
        CheckpointError: `source` cannot be read.
        OSError: `target` cannot be written; what was there before is untouched.
    """
    checkpoint = load_checkpoint(source)
    meta = {**checkpoint.meta, KEY: asdict(threshold)}
    save_checkpoint(target, Checkpoint(checkpoint.model, meta, checkpoint.training))
    return meta
