"""How timm trains its networks: which parameters decay, and how deep in a transformer each of them lies."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from reid.models.trunk import BackboneError


def layer_depths(backbone: Any) -> dict[str, int]:
    """Steps from each parameter of a transformer up to the head: 1 in its last block, most at the patches.

    What timm counts as one layer is one step: patches and position embeddings, each block, the final norm
    together with the last block.

    Raises BackboneError for a network that does not cut images into patches: timm's ViTs and Swins do.
    """
    if not (hasattr(backbone, "patch_embed") and hasattr(backbone, "group_matcher")):
        raise BackboneError(
            f"optimizer.layer_decay does not fit backbone.name={backbone.name}: it is for transformers, "
            f"networks of timm that cut images into patches. Leave optimizer.layer_decay null for others."
        )
    from timm.models import group_parameters  # imported already, if there is such a backbone

    layers: dict[str, int] = group_parameters(backbone, backbone.group_matcher(coarse=False), reverse=True)
    head = max(layers.values()) + 1
    return {name: head - layer for name, layer in layers.items()}


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
