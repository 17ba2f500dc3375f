"""What is wrong with a trained model: its file, its weights, its features, its threshold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reid.commands.export import read_some
from reid.commands.findings import Finding, in_public, size
from reid.commands.machine_state import data_root
from reid.config.checks import ConfigError
from reid.data import Crop, DatasetError, ReidDataset, load_dataset
from reid.data.crops import LeakError
from reid.data.pedestrians.drawing import LABEL
from reid.distance import normalise
from reid.engine.checkpoint import FORMAT, Checkpoint, CheckpointError, read_checkpoint
from reid.engine.checkpoint_meta import WITHOUT_CAMIDS, MetaError, check_meta, check_tensors
from reid.engine.checkpoint_source import find_checkpoint, trained_dataset, with_data_now
from reid.engine.collapse import SMALLEST_SPREAD
from reid.engine.describe import how_far
from reid.engine.model_hash import model_hash
from reid.engine.rundir import LAST
from reid.export.drawn import drawn_crops
from reid.inference import load_model
from reid.judging.stored_threshold import feature_space, stored_threshold
from reid.models.weights import file_sha256, not_finite
from reid.people import is_person
from reid.tracking import TrackingError
from reid.words import percent

#: Mean cosine of two people's features above which a model hardly tells them apart.
MOST_ALIKE = 0.9
#: People whose features are compared, one image each.
PEOPLE = 64
_AGAIN = "train it again; --help of reid.train and the log of its run say what went wrong"


@dataclass(frozen=True)
class Spread:
    """How far the features of different people lie apart, one image each.

    Attributes:
        alike: mean cosine of two of them.
        spread: root of the mean squared distance of the normalised features to their mean, from 0 to 1; what
            `train/embedding_std` is in training.
    """

    alike: float
    spread: float


def checkpoint(name: str, uri: str | None) -> Iterator[Finding]:
    """What the file is, and whether its model can be used."""
    try:
        path = find_checkpoint(name, uri)
        loaded = read_checkpoint(path)
    except (CheckpointError, TrackingError) as error:
        yield Finding("file", in_public(error), "problem", "take a copy of it, or train again")
        return
    text = f"{path.name}, {size(path.stat().st_size)}, format {FORMAT}, sha256 {file_sha256(path)[:16]}"
    yield Finding("file", f"{text}, weights {model_hash(loaded.model)[:16]}")
    bad = not_finite(loaded.model)
    if bad:
        text = f"{len(bad)} of {len(loaded.model)} tensors hold NaN or infinity, first {bad[0]}"
        yield Finding("weights", text, "problem", _AGAIN + ": a lower optimizer.lr, or clip_norm=5")
        return
    try:
        check_meta(loaded.meta)
        check_tensors(loaded.model, loaded.meta)
    except MetaError as error:
        remedy = "it was changed after it was written: take a copy of it, or train again"
        yield Finding("file", in_public(error), "problem", remedy)
        return
    yield Finding("weights", f"all {len(loaded.model)} tensors are finite")
    yield _network(loaded.meta)
    yield _training(path, loaded.meta)
    yield from _cameras(loaded.meta)
    yield _threshold(loaded.meta)
    yield _features(path, loaded)


def _network(meta: dict[str, Any]) -> Finding:
    sizes = meta["preprocessing"]
    space = feature_space(meta["eval"]).describe()
    name = meta["model"]["backbone"]["name"]
    return Finding(
        "network", f"{name}, images {sizes['height']} x {sizes['width']} (height x width); {space}"
    )


def _training(path: Path, meta: dict[str, Any]) -> Finding:
    if "converted" in meta:
        return Finding("training", "converted from a file of another project")
    unfinished = how_far(meta)
    if unfinished:
        remedy = "reid.train resume=<its folder> goes on with it" if path.name == LAST else ""
        return Finding("training", unfinished, "note", remedy)
    epoch = meta.get("progress", {}).get("epoch")
    if epoch is None:
        return Finding("training", "the file does not say how far it was trained", "note")
    return Finding("training", f"finished, after epoch {epoch} of {meta['config'].get('epochs', epoch)}")


def _cameras(meta: dict[str, Any]) -> Iterator[Finding]:
    cameras = meta["model"]["backbone"].get("cameras")
    if not cameras:
        return
    text = f"it has learnt {len(cameras)} cameras, and wants to be told which of them saw an image"
    known = meta.get(WITHOUT_CAMIDS)
    if known:
        text += f": without that {percent(known['mAP_without'])} mAP in place of {percent(known['mAP'])}"
    yield Finding("cameras", text, "note", "--camera N, or --camera mean for images of other cameras")


def _threshold(meta: dict[str, Any]) -> Finding:
    measure = "python -m reid.threshold checkpoint=<this file> measures one"
    try:
        stored = stored_threshold(meta)
    except CheckpointError as error:
        return Finding("threshold", in_public(error), "problem", measure)
    if stored is None:
        return Finding("threshold", f"none is stored: {measure}")
    text = f"{stored.value:.4f} ({stored.target}), measured on {stored.dataset}, {stored.split} split"
    own = feature_space(meta["eval"])
    if stored.space != own:
        text += (
            f", of another space: it holds for the {stored.space.describe()} in {stored.space.precision}, "
        )
        text += f"and the checkpoint now uses the {own.describe()} in {own.precision}"
        return Finding("threshold", text, "problem", measure)
    return Finding(
        "threshold", f"{text}: accepts {percent(stored.tar)} right and {percent(stored.far)} wrong pairs"
    )


def _features(path: Path, loaded: Checkpoint) -> Finding:
    """Whether people differ in its features, on crops of its test set where they are at hand."""
    model = load_model(path, "cpu")
    images, whose, own = _images(loaded)
    features = model.embed(images)
    found = spread(features)
    text = f"mean cosine of two people {found.alike:.2f}, spread {found.spread:.2f} of 1"
    text += f", on {len(images)} {whose}"
    remedy = (
        "loss.normalise=true, a lower optimizer.lr or loss.metric_weight, or a longer tricks.warmup are the "
        "usual cures. Train again"
    )
    if found.spread < SMALLEST_SPREAD:
        return Finding("features", f"collapsed: all people look alike; {text}", "problem", remedy)
    if found.alike > MOST_ALIKE:
        text = f"people look much alike (above {MOST_ALIKE}); {text}"
        if own:
            return Finding("features", text, "problem", remedy)
        return Finding("features", text, "note", "where its own test set lies it can be told for sure")
    return Finding("features", f"people differ; {text}")


def spread(features: Tensor) -> Spread:
    """Of features (N, C), N >= 2, one a person."""
    unit = normalise(features.double())
    cosines = unit @ unit.T
    others = ~torch.eye(len(unit), dtype=torch.bool)
    return Spread(cosines[others].mean().item(), unit.var(dim=0, correction=0).sum().sqrt().item())


def _images(loaded: Checkpoint) -> tuple[list[np.ndarray], str, bool]:
    """One image each of different people, whose they are, and whether that is the model's own test set."""
    try:
        dataset = trained_dataset(with_data_now(loaded, str(data_root())))
        if _is_there(dataset):
            found = _read(dataset)
            images = read_some([crop.path for crop in _one_each([*found.query, *found.gallery])], PEOPLE)
            if len(images) >= 2:
                return images, f"crops of its own test set ({found.name})", True
            why = "its test set has not two people"
        else:
            why = "its data are not on this machine"
    except (CheckpointError, ConfigError, DatasetError, OSError):
        why = "its data cannot be read"
    return drawn_crops(PEOPLE), f"drawn people, since {why}", False


def _read(dataset: dict[str, Any]) -> ReidDataset:
    try:
        return load_dataset(**dataset)
    except LeakError as error:
        return error.dataset


def _is_there(dataset: dict[str, Any]) -> bool:
    """Whether the data lie where they should; a drawn set that does not would be drawn."""
    for part in dataset.get("parts") or [dataset]:
        place = Path(part.get("file") or part["root"])
        if not (place / LABEL if part["name"] == "synthetic" else place).exists():
            return False
    return True


def _one_each(crops: Sequence[Crop]) -> list[Crop]:
    first: dict[int, Crop] = {}
    for crop in crops:
        if is_person(crop.pid):
            first.setdefault(crop.pid, crop)
    return list(first.values())
