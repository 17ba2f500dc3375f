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
from reid.engine.card import card_path, model_card
from reid.engine.checkpoint import Checkpoint, CheckpointError, read_checkpoint, save_checkpoint
from reid.engine.describe import preprocessing
from reid.models import BNNECK, WeightsError, backbone_function, build_backbone, described_model
from reid.models.matching import backbone_tensors, compare, summarise
from reid.models.recognise import recognise
from reid.models.unpickle import read_trusted
from reid.models.weights import file_sha256, read_weights, refuse_not_finite

_NECK = "bottleneck."
_CLASSIFIER = "classifier.weight"
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
) -> tuple[Checkpoint, list[str]]:
    """The checkpoint that holds these tensors of a trained model, and what was kept, left out and assumed.

    backbone: its name; None: told by the names and shapes of the tensors.
    stem_relu: of plain ResNets; None stands for false, which is how both projects run theirs.
    stn: whether the spatial transformer that both projects save beside the network was part of it.

    Raises WeightsError, BackboneError: what is wrong with the file, or does not fit it.
    """
    of_network, rest = backbone_tensors(tensors)
    name = backbone or recognise(of_network)
    options: dict[str, Any] = {}
    if stem_relu is not None or "stem_relu" in inspect.signature(backbone_function(name)).parameters:
        options["stem_relu"] = bool(stem_relu)
    if stn:
        options["stn"] = True
        of_network |= {key: tensor for key, tensor in rest.items() if key.startswith(_TRANSFORMER)}
    network = build_backbone(name, last_stride=last_stride, **options)
    report = compare(network.state_dict(), of_network, str(source), sha256)
    if report.missing or report.mismatched:
        raise WeightsError(f"the file is no {name}: {report.describe()}")

    neck = {key: tensor for key, tensor in rest.items() if key.startswith(_NECK)}
    # Retrieval needs no classifier: where a file has none, one class of zeros stands in.
    classifier = rest.get(_CLASSIFIER, torch.zeros(1, network.channels))
    classes = max(1, len(classifier)) if classifier.ndim else 1
    described = {
        "backbone": {"name": name, "weights": "none", **options},
        "last_stride": last_stride,
        "num_classes": classes,
        "head": {
            "_target_": BNNECK,
            "neck": bool(neck),
            "train_feature": "after",
            "eval_feature": "after",
        },
    }
    model = described_model(described)
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
        "eval": asdict(EvalConfig()),
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
        _left_out([key for key in (*rest, *report.unexpected) if key not in kept and key not in of_network]),
        "assumed, since no such file says it: "
        + "".join(f"{key}={str(value).lower()}, " for key, value in options.items())
        + f"last stride {last_stride}, images of {image.height} x {image.width}",
    ]
    return Checkpoint(model.state_dict(), meta, {}), lines


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
        ImageConfig(height=options.height, width=options.width),
        options.backbone,
        options.last_stride,
        options.stem_relu,
        options.stn,
    )
    save_checkpoint(target, checkpoint)
    card_path(target).write_text(model_card(checkpoint.meta), encoding="utf-8")
    print("\n".join([*held.notes("--ema"), *report]))
    print(f"written: {target}. It does not know its data, so name them where it is judged:")
    print(f"  python -m reid.evaluate checkpoint={target} dataset=market")
    return 0
