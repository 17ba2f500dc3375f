"""Gradient checkpointing: what the blocks of a backbone compute is not kept, but computed once more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import takewhile
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from reid.models.trunk import BackboneError


def recompute_blocks(backbone: Any) -> None:
    """Let each block of a backbone keep its input alone in training, in place.

    Training deep nets with sublinear memory cost (Chen et al., arXiv 1604.06174, section 4). The rest is
    computed a second time in the backward pass, from the same random numbers, so the gradients stay the
    same. Batch norms take their statistics once: in the second pass they leave them as they are.

    Raises BackboneError for a network that does not tell its blocks apart, as timm's and ours do by a method
    `group_matcher(coarse)`.
    """
    blocks = _blocks(backbone)
    if not blocks:
        raise BackboneError(
            f"checkpointing=true does not fit backbone.name={backbone.name}: this network does not say which "
            "blocks it has. Set checkpointing=false, or give it timm's method group_matcher"
        )
    for block in blocks:
        own_class = type(block)
        block.__class__ = type(own_class.__name__, (_Recomputed, own_class), {})


class _Recomputed(nn.Module):
    """What is laid over a block's own class: its state dict keeps its names."""

    def forward(self, *inputs: Any, **options: Any) -> Any:
        forward = super().forward
        if not (self.training and torch.is_grad_enabled()):
            return forward(*inputs, **options)
        contexts = partial(_contexts, self)
        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **options)


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _without_statistics(block)


@contextmanager
def _without_statistics(block: nn.Module) -> Iterator[None]:
    """A second pass: norms in training mode learn nothing of the batch. It may end before the block does."""
    norms: list[Any] = [
        module
        for module in block.modules()
        if module.training and getattr(module, "running_mean", None) is not None
    ]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)


def _blocks(backbone: Any) -> list[nn.Module]:
    """The parts of a network that hold all parameters of a layer each, as its `group_matcher` names them."""
    if not hasattr(backbone, "group_matcher"):
        return []
    from timm.models import group_parameters  # Here, as timm delays a start by a second.

    layers: dict[int, list[str]] = group_parameters(backbone, backbone.group_matcher(coarse=False))
    paths = []
    for names in layers.values():
        parts = zip(*(name.split(".")[:-1] for name in names), strict=False)
        path = [part[0] for part in takewhile(lambda part: len(set(part)) == 1, parts)]
        if path and not isinstance(backbone.get_submodule(".".join(path)), nn.ModuleList | nn.ModuleDict):
            paths.append(".".join(path))
    inner = [one for one in paths if not any(other.startswith(f"{one}.") for other in paths)]
    return [backbone.get_submodule(path) for path in inner]
