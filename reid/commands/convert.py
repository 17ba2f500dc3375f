"""A checkpoint of this suite made from a trained one of another project."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reid.config.schema import EvalConfig, ImageConfig
from reid.config.settings import check_normalisation
from reid.engine.card import card_path, model_card
from reid.engine.checkpoint import Checkpoint, CheckpointError, read_checkpoint, save_checkpoint
from reid.engine.describe import preprocessing, state_normalisation
from reid.models import BNNECK, WeightsError, backbone_function, build_backbone, described_model
from reid.models.heads import Feature
from reid.models.matching import (
    CAMERA_TABLE,
    backbone_tensors,
    camera_count,
    compare,
    patch_stride,
    summarise,
)
from reid.models.recognise import recognise
from reid.models.unpickle import read_trusted
from reid.models.weights import file_sha256, read_weights, refuse_not_finite

_NECK = "bottleneck."
_CLASSIFIER = "classifier.weight"
_JIGSAW = ("b1.", "b2.")
#: Of CLIP-ReID, whose feature is a class token and its projection.
_SECOND_NECK, _SECOND_CLASSIFIER = "bottleneck_proj.", "classifier_proj.weight"
#: What both projects save of a spatial transformer, which stands before the network only where asked for.
_TRANSFORMER = ("localization.", "fc_loc.")


def convert(
    tensors: Mapping[str, Tensor],
    source: Path,
    sha256: str,
    image: ImageConfig,
    backbone: str | None = None,
    last_stride: int = 1,
    stem_relu: bool | None = None,
    stn: bool = False,
    neck_feature: Feature | None = None,
    camera_weight: float | None = None,
) -> tuple[Checkpoint, list[str]]:
    """The checkpoint that holds these tensors of a trained model, and what was kept, left out and assumed.

    backbone: its name; None: told by the names and shapes of the tensors.
    stem_relu: of plain ResNets; None stands for false, which is how both projects run theirs.
    stn: whether the spatial transformer that both projects save beside the network was part of it.
    neck_feature: the feature that is compared, before or after the neck; None: before for the transformers of
        other projects, as their configs have it (TEST.NECK_FEAT), and after for others.
    camera_weight: of a file with camera embeddings, what they are multiplied by; None: 3 as TransReID has it,
        1 for a file of CLIP-ReID (MODEL.SIE_COE).

    Raises WeightsError, BackboneError: what is wrong with the file, or does not fit it.
    """
    of_network, rest = backbone_tensors(tensors)
    if any(key.startswith(_JIGSAW) for key in rest):
        raise WeightsError(
            f"{source} holds TransReID's jigsaw branch (b1, b2), whose features come out of copies of the "
            "last block. Models that were trained without it (MODEL.JPM: False) are read"
        )
    name = backbone or recognise(of_network)
    parameters = inspect.signature(backbone_function(name)).parameters
    options: dict[str, Any] = {}
    if "image_size" in parameters:
        options["image_size"] = [image.height, image.width]
    if (
        "stride" in parameters
        and (stride := patch_stride(of_network, (image.height, image.width))) is not None
    ):
        options["stride"] = stride
    if cameras := camera_count(of_network):
        options["cameras"] = list(range(cameras))
        options["camera_weight"] = _camera_weight(of_network) if camera_weight is None else camera_weight
    if stem_relu is not None or "stem_relu" in parameters:
        options["stem_relu"] = bool(stem_relu)
    if stn:
        options["stn"] = True
        of_network |= {key: tensor for key, tensor in rest.items() if key.startswith(_TRANSFORMER)}
    network = build_backbone(name, last_stride=last_stride, **options)
    left_out: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    if network.adapt is not None:
        of_network, left_out, changes = network.adapt(network, of_network)
    report = compare(network.state_dict(), of_network, str(source), sha256)
    if report.missing or report.mismatched:
        raise WeightsError(f"the file is no {name}: {report.describe()}")

    rest, joined = join_heads(rest)
    neck = {key: tensor for key, tensor in rest.items() if key.startswith(_NECK)}
    # Retrieval needs no classifier: where a file has none, one class of zeros stands in.
    classifier = rest.get(_CLASSIFIER, torch.zeros(1, network.channels))
    classes = max(1, len(classifier)) if classifier.ndim else 1
    feature = neck_feature or ("after" if network.adapt is None else "before")
    described = {
        "backbone": {"name": name, "weights": "none", **options},
        "last_stride": last_stride,
        "num_classes": classes,
        "head": {
            "_target_": BNNECK,
            "neck": bool(neck),
            "train_feature": "after",
            "eval_feature": feature,
        },
    }
    model = described_model(described)
    state_normalisation(model, image)
    kept = (
        {f"backbone.{key}": tensor for key, tensor in of_network.items()} | neck | {_CLASSIFIER: classifier}
    )
    whole = compare(model.state_dict(), kept, str(source), sha256, part="model")
    if whole.fraction < 1:
        raise WeightsError(
            f"its neck, classifier or spatial transformer does not fit a {name}: {whole.describe()}"
        )
    own = model.state_dict()
    used = {key: tensor for key, tensor in kept.items() if key in own}
    refuse_not_finite(used, source)
    model.load_state_dict(used, strict=False)

    meta = {
        "model": described,
        "preprocessing": preprocessing(image, model),
        "dataset": {"name": "unknown"},
        "pids": [],
        "eval": asdict(EvalConfig(neck_feature=feature)),  # from here all commands take it
        "config": {},
        "config_hash": "converted",
        "converted": {"file": source.name, "sha256": sha256},
    }
    lines = [
        f"network: {name}, {'as given' if backbone else 'told by names and shapes'}; "
        f"{report.matched} of {report.total} tensors",
        f"neck: {'batch norm (bottleneck) kept' if neck else 'none in the file'}",
        "classifier: "
        + (f"{classes} identities kept" if _CLASSIFIER in rest else "none in the file, zeros stand in"),
        *joined,
        *changes,
        _left_out(
            [
                key
                for key in (*rest, *left_out, *report.unexpected)
                if key not in kept and key not in of_network
            ]
        ),
        "assumed, since no such file says it: "
        + "".join(f"{key}={str(value).lower()}, " for key, value in options.items())
        + f"last stride {last_stride}, images of {image.height} x {image.width}, "
        + f"features compared {feature} the neck, pixels by {model.normalisation.describe()}",
    ]
    return Checkpoint(model.state_dict(), meta, {}), lines


def _camera_weight(of_network: Mapping[str, Tensor]) -> float:
    return 3.0 if CAMERA_TABLE in of_network else 1.0


def join_heads(rest: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The two necks and classifiers of CLIP-ReID as one each, and what to say of it.

    It norms the class token and its projection each by itself, and has a classifier for each. One batch norm
    over both does the same, and one classifier gives the sum of their logits.
    """
    parts = dict(rest)
    if f"{_SECOND_NECK}weight" not in parts:
        return parts, ()
    for key in [key for key in parts if key.startswith(_SECOND_NECK)]:
        own = _NECK + key.removeprefix(_SECOND_NECK)
        parts[own] = torch.cat([parts[own], parts.pop(key)])
    if _CLASSIFIER in parts and _SECOND_CLASSIFIER in parts:
        parts[_CLASSIFIER] = torch.cat([parts[_CLASSIFIER], parts.pop(_SECOND_CLASSIFIER)], dim=1)
    return parts, ("of CLIP-ReID: its two necks and its two classifiers are one each, side by side",)


def _left_out(names: list[str]) -> str:
    unused = [name for name in names if name.startswith(_TRANSFORMER)]
    others = [name for name in names if not name.startswith(_TRANSFORMER)]
    parts = [
        f"{len(unused)} tensors of a spatial transformer that was not used (--stn keeps them)"
        if unused
        else "",
        summarise("other tensors", others),
    ]
    return f"left out: {'; '.join(part for part in parts if part) or 'nothing'}"


def _refuse_own(tensors: Mapping[str, Tensor], source: Path) -> None:
    if any(name.startswith("backbone.") for name in tensors):
        with suppress(CheckpointError):
            read_checkpoint(source)
            raise WeightsError(f"{source} is a checkpoint of this suite already: use it as it is")


def run(options: argparse.Namespace, source: Path, target: Path) -> int:
    """What `python -m reid.convert` does with its options; the exit code.

    Raises:
        WeightsError, BackboneError: the file is of another kind.
        OSError: it cannot be read, or the checkpoint not be written.
    """
    image = ImageConfig(options.height, options.width, mean=options.mean, std=options.std)
    check_normalisation(image)
    try:
        tensors, sha256, held = read_weights(source, options.ema)
    except WeightsError:
        # Not UnsafeFileError alone: torch refuses some pickled networks without naming a class.
        if not options.trust:
            raise
        (tensors, held), sha256 = read_trusted(source, options.ema), file_sha256(source)
    _refuse_own(tensors, source)
    checkpoint, report = convert(
        tensors,
        source,
        sha256,
        image,
        options.backbone,
        options.last_stride,
        options.stem_relu,
        options.stn,
        options.neck_feature,
        options.camera_weight,
    )
    save_checkpoint(target, checkpoint)
    card_path(target).write_text(model_card(checkpoint.meta), encoding="utf-8")
    print("\n".join([*held.notes("--ema"), *report]))
    print(f"written: {target}. It does not know its data, so name them where it is judged:")
    print(f"  python -m reid.evaluate checkpoint={target} dataset=market")
    return 0
