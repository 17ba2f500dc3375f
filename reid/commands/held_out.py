"""A trained model and people that it was not trained on: some to fix a thing on, others to test it on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from reid.commands.own_people import own_people
from reid.commands.threshold import check_not_trained_on, data_name
from reid.commands.trained_file import destination, put_back, run_named_by
from reid.config.checks import ConfigError
from reid.config.dataset import judged_on
from reid.config.schema import DataConfig, EvalConfig, ImageConfig, TrackingConfig
from reid.config.settings import as_trained
from reid.data import ReidDataset, load_dataset
from reid.data.division import validation_split
from reid.data.image_store import ImageStore
from reid.engine.card import card_path, model_card
from reid.engine.checkpoint import Checkpoint, load_checkpoint
from reid.engine.checkpoint_source import find_checkpoint, trained_dataset, with_data_now
from reid.engine.compute import Compute
from reid.engine.describe import rebuild_model
from reid.engine.prepare import fingerprint, open_judged_data, warn_of_doubles, with_protocol_of
from reid.jobs.job import Job
from reid.judging.open_set import divide_people
from reid.judging.stored_threshold import FeatureSpace, feature_space
from reid.models import ReidModel
from reid.people import is_person
from reid.tracking.journal import replace_text

log = logging.getLogger(__name__)

Bools = npt.NDArray[np.bool_]


class MeasureSettings(Protocol):
    """What the configs of all commands have that measure on held-out people."""

    dataset: dict[str, Any] | None
    calibration: str
    seed: int
    device: str
    precision: str
    data: DataConfig
    eval: EvalConfig
    tracking: TrackingConfig


@dataclass(frozen=True, eq=False)
class Part:
    """Images of some of the people; `gallery` (N,) says which of them belong to the gallery."""

    store: ImageStore
    gallery: Bools
    split: str
    fingerprint: str

    def __len__(self) -> int:
        return len(self.store)

    @property
    def people(self) -> int:
        return int(is_person(self.store.pids.unique()).sum())

    def describe(self) -> str:
        return f"{len(self):,} images of {self.people:,} people, {self.split} split"


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Two parts with other people each: fix on the first, then test on the second."""

    calibration: Part
    test: Part
    evaluation: EvalConfig
    measured_on: str


@dataclass(frozen=True, eq=False)
class Trained:
    """A checkpoint, its network on the device, and where what is measured of it goes."""

    checkpoint: Checkpoint
    source: Path
    compute: Compute
    model: ReidModel
    target: Path
    run_id: str | None
    uri: str | None

    @property
    def image(self) -> ImageConfig:
        size = self.checkpoint.meta["preprocessing"]
        return ImageConfig(height=size["height"], width=size["width"])

    def space(self, evaluation: EvalConfig, precision: str) -> FeatureSpace:
        """The space that features are compared in; the network gives those of it from now on."""
        self.model.eval_feature = evaluation.neck_feature
        return feature_space(evaluation, precision)

    def written(self, meta: Mapping[str, Any]) -> str:
        """Write the card beside `target`, which holds this `meta`, and put both into the run; in words."""
        replace_text(card_path(self.target), model_card(meta))
        return f"written into {self.target}{put_back(self.run_id, self.uri, self.target)}"


def open_trained(
    job: Job, settings: MeasureSettings, name: str, output: str | None, compute: Compute, stored: bool = True
) -> Trained:
    """Find and rebuild a checkpoint; `stored` says whether something will be written into it.

    Raises:
        CheckpointError, TrackingError: there is none, or it is still being trained.
    """
    uri = settings.tracking.uri
    run_id = run_named_by(name, uri) if stored and output is None else None
    source = find_checkpoint(name, uri)
    checkpoint = with_data_now(load_checkpoint(source), settings.data.root)
    target = destination(name, output, source, job.folder) if stored else source
    return Trained(checkpoint, source, compute, compute.place(rebuild_model(checkpoint)), target, run_id, uri)


def evaluation_of(trained: Trained, settings: MeasureSettings, job: Job) -> EvalConfig:
    """How images are embedded and compared: as the model was judged, unless something else was typed."""
    evaluation = as_trained(settings.eval, trained.checkpoint.meta["eval"], job.overrides)
    # Both belong to a ranking. Of images that are searched later nobody says which learnt camera saw them.
    cameras = evaluation.cameras and not trained.model.cameras
    return replace(evaluation, query_expansion=0, rerank=False, cameras=cameras)


def open_held_out(
    job: Job,
    settings: MeasureSettings,
    trained: Trained,
    evaluation: EvalConfig,
    own: tuple[Path, Path] | None = None,
) -> HeldOut:
    """The people to fix something on, and the others to test it on.

    With `calibration=half` the people of one split are halved at random; with `val` those held out of the
    training come first, and those of the test set are tested. `own`: the enrolled and the probes of the
    user's own.

    Raises:
        ConfigError, DatasetError: they were trained on, or are not there.
    """
    meta = trained.checkpoint.meta
    if own is not None:
        dataset, measured_on = own_people(*own), f"own {own[0].stem}"
        evaluation = with_protocol_of(dataset, evaluation, job.overrides)
        whole = _part(dataset, settings, trained, evaluation, job, "own")
        return HeldOut(*_halves(whole, settings.seed), evaluation, measured_on)
    spec = settings.dataset or trained_dataset(trained.checkpoint)
    measured_on = data_name(spec)
    dataset = load_dataset(**judged_on(spec), progress=job.progress)
    if evaluation.split == "val":
        if settings.calibration == "val":
            raise ConfigError(
                "calibration=val and eval.split=val name the same people: nothing that was fixed on others "
                "would be tested. Leave eval.split=test, or set calibration=half"
            )
        dataset = validation_split(dataset, evaluation.val_identities, evaluation.val_seed)
    evaluation = with_protocol_of(dataset, evaluation, job.overrides)
    check_not_trained_on(dataset, spec, meta)
    if settings.calibration == "half":
        whole = _part(dataset, settings, trained, evaluation, job, evaluation.split)
        return HeldOut(*_halves(whole, settings.seed), evaluation, measured_on)
    first = validation_split(dataset, evaluation.val_identities, evaluation.val_seed)
    check_not_trained_on(first, spec, meta)
    return HeldOut(
        _part(first, settings, trained, evaluation, job, "val"),
        _part(dataset, settings, trained, evaluation, job, "test"),
        evaluation,
        measured_on,
    )


def _part(
    dataset: ReidDataset, settings: MeasureSettings, trained: Trained, evaluation: EvalConfig, job: Job,
    split: str,
) -> Part:  # fmt: skip
    judged = open_judged_data(dataset, trained.image, settings.data, job.progress)
    if evaluation.protocol == "ignore_camera":
        warn_of_doubles(judged.query.crops, judged.gallery.crops)
    store = replace(
        judged.query,
        crops=judged.query.crops + judged.gallery.crops,
        rows=np.concatenate([judged.query.rows, judged.gallery.rows]),
    )
    gallery = np.arange(len(store)) >= len(judged.query)
    return Part(store, gallery, split, fingerprint(judged.fingerprint))


def _halves(whole: Part, seed: int) -> tuple[Part, Part]:
    first, second = divide_people(whole.store.pids.numpy(), whole.gallery, seed)
    return tuple(
        Part(
            replace(
                whole.store,
                crops=tuple(crop for crop, kept in zip(whole.store.crops, half, strict=True) if kept),
                rows=whole.store.rows[half],
            ),
            whole.gallery[half],
            f"{name} half of the {whole.split}",
            whole.fingerprint,
        )
        for name, half in (("first", first), ("second", second))
    )  # type: ignore[return-value]
