"""What tells the parameters of a network apart in training: which decay, and how deep each of them lies."""

from __future__ import annotations

from fnmatch import fnmatchcase
from types import SimpleNamespace
from typing import Any

from torch import nn

from reid.models.matching import CAMERA_TABLE
from reid.models.trunk import BackboneError


def layer_depths(backbone: Any) -> dict[str, int]:
    """Steps from each parameter of a backbone up to the head: 1 in its last layer, most at the images.

    What timm counts as one layer is one step. Of a transformer (a network that cuts images into patches, as
    timm's ViTs and Swins do) these are: patches and position embeddings, each block, the final norm together
    with the last block. Of any other network it is a stage, whose maps have one size: the stem, then each
    stage; what belongs to no stage, such as a spatial transformer or a last norm, is 0 steps away.

    Raises BackboneError for a network that does not tell its layers apart, as timm's and ours do by a method
    `group_matcher(coarse)`.
    """
    if not hasattr(backbone, "group_matcher"):
        raise BackboneError(
            f"optimizer.layer_decay does not fit backbone.name={backbone.name}: this network does not say "
            "which layers it has. Leave optimizer.layer_decay null, or give it timm's method group_matcher"
        )
    from timm.models import group_parameters  # Here, as timm delays a start by a second.

    cuts_patches = hasattr(backbone, "patch_embed")
    # The embeddings of cameras are as new as the head.
    named = [entry for entry in backbone.named_parameters() if entry[0] != CAMERA_TABLE]
    if not cuts_patches:
        named.append(("", None))  # Timm counts all that no pattern fits as one layer more, and so this too.
    holder: Any = SimpleNamespace(named_parameters=lambda: named)
    matcher = backbone.group_matcher(coarse=not cuts_patches)
    layers: dict[str, int] = group_parameters(holder, matcher, reverse=True)
    head = max(layers.values()) + 1 if cuts_patches else layers.pop("")
    return {name: head - layer for name, layer in layers.items()}


def norm_parameters(model: nn.Module) -> set[str]:
    """The weights and biases of a model's norms (batch, layer, group, instance, RMS), by name."""
    return {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if "Norm" in type(module).__name__
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim <= 1
    }


def undecayed(model: nn.Module) -> set[str]:
    """The parameters of a model around a network of timm that timm trains without weight decay, by name.

    Those of one dimension (norms, scales), biases, and what the network's own `no_weight_decay` lists, such
    as the class token and position embeddings (timm.optim.param_groups_weight_decay). None of a model around
    a network of our own: there everything decays, as published.
    """
    backbone: Any = getattr(model, "backbone", None)
    if getattr(backbone, "library", "reid") != "timm":
        return set()
    listed = backbone.no_weight_decay() if hasattr(backbone, "no_weight_decay") else ()
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim <= 1
        or name.endswith(".bias")
        or any(fnmatchcase(name.removeprefix("backbone."), pattern) for pattern in listed)
    }
