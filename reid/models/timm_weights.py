"""Weight files of timm's networks: where they are, and how they are brought to another input size."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from reid.models.matching import is_counted
from reid.models.trunk import Adapt, ImagenetFile

_HUB = "https://huggingface.co"
_SWIN_CLASSIFIER = "head.fc.weight"
_Filter = Callable[[dict[str, Tensor], nn.Module], Mapping[str, Tensor]]


def hub_file(net: Any) -> ImagenetFile | None:
    """The file that timm would load for this network and weight tag; None where it has none."""
    config = net.pretrained_cfg
    if config.get("hf_hub_id"):
        file = config.get("hf_hub_filename") or "model.safetensors"
        return ImagenetFile(f"{_HUB}/{config['hf_hub_id']}/resolve/main/{file}", hub=config["hf_hub_id"])
    return ImagenetFile(config["url"]) if config.get("url") else None


def adapter(network: type) -> Adapt:
    """What turns a file's tensors into those of a network of this class of timm.

    Timm's modules have a function that knows the names of the original authors' files, and resizes
    position embeddings, relative position tables and patch kernels to those of the network.
    """
    convert: _Filter | None = getattr(sys.modules[network.__module__], "checkpoint_filter_fn", None)

    def adapt(
        net: nn.Module, given: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], tuple[str, ...], tuple[str, ...]]:
        own = {name: tensor for name, tensor in net.state_dict().items() if is_counted(name)}
        fits = all(name in given and given[name].shape == tensor.shape for name, tensor in own.items())
        adapted = given if fits or convert is None else _converted(convert, net, given, own)
        parts = {name for name, part in net.named_children() if isinstance(part, nn.Identity)}
        left_out = tuple(name for name in adapted if name.partition(".")[0] in parts)
        kept = {name: tensor for name, tensor in adapted.items() if name not in left_out}
        resized = tuple(
            name
            for name, tensor in kept.items()
            if name in given and name in own and given[name].shape != tensor.shape == own[name].shape
        )
        notes = (f"{len(resized)} resized to the input: {', '.join(resized[:3])}",) if resized else ()
        return kept, left_out, notes

    return adapt


def _converted(
    convert: _Filter, net: nn.Module, given: dict[str, Tensor], own: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    tensors = dict(given)
    if own.keys() <= given.keys():
        # Names are right and only sizes differ: Swin's function takes a file without a classifier for one
        # of the original authors, whose stages were numbered otherwise.
        tensors.setdefault(_SWIN_CLASSIFIER, torch.zeros(1))
    try:
        converted = dict(convert(tensors, net))
    except Exception:  # Files of other networks break these functions anyhow; the comparison then says why.
        return given
    if _SWIN_CLASSIFIER not in given:
        converted.pop(_SWIN_CLASSIFIER, None)
    return converted
