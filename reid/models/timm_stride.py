"""The last stride of a network that nobody listed: found by watching one image go through it."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reid.models.trunk import BackboneError


def release_last_stride(net: Any, name: str, images: Tensor, last_stride: int) -> bool:
    """Let the last stage step by `last_stride`; False, with nothing done, where no stride of 2 opens it.

    net: in evaluation mode; `forward_features` gives (N, C, h, w).
    images: one image of the size that the network is built for.

    As in `set_last_stride`, kernels and weights stay, without dilation: the old map lies within the new
    one, at every second row and column.

    Raises BackboneError when the map does not double, so that only the stride 2 is possible.
    """
    with torch.no_grad():
        openers, larger = _openers(net, images)
        if not openers or last_stride == 2:
            return bool(openers)
        for layer in openers.values():
            _step_by_one(layer)
        try:
            fits = net.forward_features(images).shape[2:] == larger
        except Exception:  # Windows that no longer fit, branches of two sizes: any failure means the same.
            fits = False
    if not fits:
        raise BackboneError(
            f"tricks.last_stride=1 does not fit backbone.name={name}: with a step of 1 at "
            f"{', '.join(openers)} its feature map does not double. Give tricks.last_stride=2."
        )
    return True


def _openers(net: Any, images: Tensor) -> tuple[dict[str, Any], torch.Size]:
    """What opens the last stage, by name, and the size of the map that it halves; nothing where nothing does.

    It is the last layer of stride 2 that runs, and those of the same block (`layer4.0`, `stages.3`) that see
    a map of the same size: the convolution of a shortcut. Others that see one (the keys of a PVT) belong to
    the stage before.
    """
    seen: list[tuple[str, nn.Module, torch.Size]] = []

    def watch(path: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append((path, layer, inputs[0].shape[2:]))

    hooks = [
        layer.register_forward_pre_hook(partial(watch, path))
        for path, layer in net.named_modules()
        if isinstance(layer, nn.Conv2d | nn.AvgPool2d | nn.MaxPool2d) and layer.stride in (2, (2, 2))
    ]
    try:
        smaller = net.forward_features(images).shape[2:]
    finally:
        for hook in hooks:
            hook.remove()
    if not seen or any(
        small not in (side // 2, -(-side // 2)) for small, side in zip(smaller, seen[-1][2], strict=True)
    ):
        return {}, smaller
    last, _, larger = seen[-1]
    block = last.split(".")[:2]
    return {
        path: layer for path, layer, size in seen if path.split(".")[:2] == block and size == larger
    }, larger


def _step_by_one(layer: Any) -> None:
    """Stride 1; where the kernel is even, zeros at the bottom and on the right let the map keep its size."""
    layer.stride = (1, 1) if isinstance(layer, nn.Conv2d) else 1
    kernel, padding, dilation = (
        _pair(getattr(layer, key, 1)) for key in ("kernel_size", "padding", "dilation")
    )
    short = [d * (k - 1) - 2 * p for k, p, d in zip(kernel, padding, dilation, strict=True)]
    if max(short) == 1:
        layer.register_forward_pre_hook(partial(_pad, (0, short[1], 0, short[0])))


def _pad(amounts: tuple[int, ...], layer: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    return functional.pad(inputs[0], amounts)


def _pair(value: Any) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)
