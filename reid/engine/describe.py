"""Descriptions of a run's data and model as plain data, and the model rebuilt from its description."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from reid.config.checks import ConfigError
from reid.config.identity import config_hash, flat, resume_hash
from reid.config.schema import ImageConfig, TrainConfig
from reid.config.settings import training_sizes
from reid.data import ReidDataset
from reid.data.image_store import ImageStore
from reid.data.pictures import describe_treatments
from reid.engine.checkpoint import Checkpoint, CheckpointError
from reid.engine.prepare import CAMERAS_UNKNOWN, JudgedData, TrainingData, fingerprint, stored_image
from reid.models import ReidModel, described_model
from reid.normalisation import Channels, Normalisation
from reid.people import is_person
from reid.tracking import DataInput


def build_model(
    settings: TrainConfig, num_classes: int, resuming: bool = False, camids: Iterable[int] = ()
) -> ReidModel:
    """The model that a config asks for, with the weights that it names unless a checkpoint will bring them.

    camids: of the training set, for `backbone.cameras=true`.

    Raises:
        BackboneError, HeadError, WeightsError: the config names a network, head or weights that are none.
    """
    description = model_description(settings, num_classes, camids)
    if not resuming:
        own = {key: settings.backbone[key] for key in ("weights", "ema") if key in settings.backbone}
        description["backbone"] |= own
    model = described_model(description, settings.freeze_bn)
    state_normalisation(model, settings.image)
    for size in dict.fromkeys((size.height, size.width) for size in training_sizes(settings)):
        _try_size(model, *size)
    return model


@torch.no_grad()
def _try_size(model: ReidModel, height: int, width: int) -> None:
    """Refuse a size of `image.sizes` that the network does not take.

    Raises:
        ConfigError: such as one of a transformer, which is made for one size.
    """
    training = model.training
    try:
        model.eval()(torch.zeros(1, 3, height, width))
    except Exception as error:  # networks of many authors: whatever they raise
        words = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(
            f"image.sizes: {model.backbone.name} does not take images of {height}x{width} ({words}). A "
            "transformer is made for image.height x image.width alone: choose a convolutional network, or "
            "leave image.sizes out"
        ) from error
    finally:
        model.train(training)


def model_description(settings: TrainConfig, num_classes: int, camids: Iterable[int] = ()) -> dict[str, Any]:
    """What the model of a config is built from, for `reid.models.described_model`; it names no weights.

    camids: of the training set, for `backbone.cameras=true`; of none, the model is one without cameras.
    """
    backbone = {key: value for key, value in settings.backbone.items() if key != "ema"} | {"weights": "none"}
    cameras = backbone.get("cameras")
    if cameras:
        known = camids if cameras is True else range(cameras) if isinstance(cameras, int) else cameras
        backbone["cameras"] = sorted(set(known)) or None
    return {
        "backbone": backbone,
        "last_stride": settings.tricks.last_stride,
        "num_classes": num_classes,
        "head": dict(settings.head),
    }


def preprocessing(image: ImageConfig, model: ReidModel) -> dict[str, Any]:
    """What an image has to go through before the model sees it."""
    return {
        "height": image.height,
        "width": image.width,
        "colour": "RGB",
        "resize": "bilinear (PIL)",
        "mean": list(model.normalisation.mean),
        "std": list(model.normalisation.std),
        **({"stated": True} if model.states_normalisation else {}),
    }


def state_normalisation(model: ReidModel, image: ImageConfig) -> None:
    """Let `model` take images by image.mean and image.std; where one is null, as its weight file says."""
    if image.mean or image.std:
        mean, std = image.mean or model.normalisation.mean, image.std or model.normalisation.std
        model.normalisation = Normalisation(_channels(mean), _channels(std))


def take_normalisation(model: ReidModel, preprocessing: Mapping[str, Any]) -> None:
    """Let `model` take images as those were that a checkpoint says this of; older ones say nothing."""
    if preprocessing.get("stated"):
        model.normalisation = Normalisation(_channels(preprocessing["mean"]), _channels(preprocessing["std"]))


def _channels(values: Sequence[float]) -> Channels:
    red, green, blue = values
    return float(red), float(green), float(blue)


def rebuild_model(checkpoint: Checkpoint) -> ReidModel:
    """The trained model of a checkpoint.

    Raises:
        CheckpointError: what it says of its model and the tensors that it holds do not fit together.
    """
    try:
        model = described_model(checkpoint.meta["model"])
        model.load_state_dict(dict(checkpoint.model))
        take_normalisation(model, checkpoint.meta.get("preprocessing", {}))
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"the checkpoint does not fit the model that it names: {error}") from error
    return model


def describe_data(dataset: ReidDataset, data: TrainingData, judged: JudgedData) -> str:
    bad = len(data.store.bad) + len(judged.query.bad)
    left_out = [
        f"{count} {what}"
        for count, what in ((dataset.junk, "junk"), (dataset.strays, "strays"), (bad, "unreadable"))
        if count
    ]
    treatments = Counter(data.store.treatments) + Counter(judged.query.treatments)
    return (
        f"{dataset.name}: {len(data.store):,} training images of {len(data.pids)} identities, "
        f"{len(judged.query):,} queries, {len(judged.gallery):,} in the gallery"
        + (f"; left out: {', '.join(left_out)}" if left_out else "")
        + "".join(f"\n{line}" for line in describe_treatments(treatments))
        + (f"\n{dataset.notice}" if dataset.notice else "")
    )


def checkpoint_meta(settings: TrainConfig, data: TrainingData, model: ReidModel) -> dict[str, Any]:
    """What a checkpoint says of itself: plain JSON data."""
    return {
        "model": model_description(settings, model.num_classes, model.cameras),
        "preprocessing": preprocessing(settings.image, model),
        "dataset": settings.dataset,
        "pids": list(data.pids),
        "eval": asdict(settings.eval),
        "config": flat(settings),
        "config_hash": config_hash(settings),
        "resume_hash": resume_hash(settings),
        "train_fingerprint": data.fingerprint,
    }


def how_far(meta: Mapping[str, Any]) -> str:
    """Which epoch of its training a checkpoint is of, in words; "" for the last, and where none is named."""
    epoch, epochs = meta.get("progress", {}).get("epoch"), meta["config"].get("epochs")
    if "selected" in meta:  # that of a training which is at its end
        chosen = meta["selected"]
        return f"the model of epoch {epoch} of {chosen['of_epochs']}, the best by {chosen['score']}"
    if epoch is None or epochs is None or epoch >= epochs:
        return ""
    return f"a training not at its end, after epoch {epoch} of {epochs}"


def data_inputs(settings: TrainConfig, data: TrainingData, judged: JudgedData) -> list[DataInput]:
    """The data of a run as the tracker lists them: what is trained on, and what is judged on."""
    name = settings.dataset["name"]
    return [
        data_input(name, data.fingerprint, "training", stored_image(settings.image), data.store),
        data_input(
            name, fingerprint(judged.fingerprint), "eval", settings.image, judged.query, judged.gallery
        ),
    ]


def data_input(name: str, digest: str, context: str, image: ImageConfig, *stores: ImageStore) -> DataInput:
    """The images of some stores as one input of a run."""
    crops = [crop for store in stores for crop in store.crops]
    people = {crop.pid for crop in crops if is_person(crop.pid)}
    cameras = {crop.camid for crop in crops}
    return DataInput(name, digest, context, len(crops), len(people), len(cameras), image.height, image.width)


def run_facts(
    settings: TrainConfig, dataset: ReidDataset, data: TrainingData, judged: JudgedData
) -> dict[str, object]:
    """What the tracker shows of a run beside its config and its machine."""
    return {
        "reid.config_hash": config_hash(settings),
        "reid.data.fingerprint": fingerprint(data.fingerprint, judged.fingerprint),
        "reid.data.name": dataset.name,
        "reid.data.training": f"{len(data.store)} images, {len(data.pids)} identities",
        "reid.data.judged": f"{len(judged.query)} queries, {len(judged.gallery)} gallery images",
        "reid.data.unreadable": len(data.store.bad) + len(judged.query.bad),
        "reid.data.strays": dataset.strays,
        "reid.data.junk": dataset.junk,
        **({} if dataset.cameras else {"reid.data.cameras": CAMERAS_UNKNOWN}),
        "reid.score_split": settings.eval.split,
        "reid.selection": "the epoch with the best mAP on val, people held out of the training set"
        if settings.tracking.checkpoint == "best"
        else "last epoch; nothing was chosen on any split",
    }
