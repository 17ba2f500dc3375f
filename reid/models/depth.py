"""How deep in a transformer each of its parameters lies."""

from __future__ import annotations

from typing import Any

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
