"""Camera embeddings: a transformer adds to its tokens what it has learnt of the camera that saw the image."""

from __future__ import annotations

from collections.abc import Sequence
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn

from reid.models.matching import CAMERA_TABLE
from reid.models.trunk import Backbone, BackboneError

#: The embeddings of a batch lie beside the network while it computes: one batch at a time, in all threads.
_ONE_BATCH = RLock()


def add_cameras(
    backbone: Backbone, camids: Sequence[int], weight: float = 3.0, image_size: Sequence[int] = (256, 128)
) -> None:
    """Let a transformer add `weight` times an embedding of the camera to the tokens of each image.

    The side information embedding of TransReID (He et al., ICCV 2021, arXiv 2102.04378, section 3.3; weight
    3.0): tokens + positions + weight * sie_embed[camera], before the first block. It goes to all tokens, or
    where `backbone.camera_tokens` is "class" (CLIP-ReID) to the class token alone.

    The backbone is then called with (images, camids), camids int64 (N,). An image whose camid is none of
    `camids`, or that has none, gets `backbone.default_camera`, one of them, or where that is None the mean of
    all embeddings: it moves the tokens to where the blocks have learnt to expect them.

    camids: of the cameras that are learnt: the rows of `sie_embed` (cameras, 1, channels), in rising order.
    image_size: height and width that the network is built for.

    Raises BackboneError for a network whose `pos_drop`, the last step of its position embedding, does not see
    the tokens of the images once; of timm these are the ViTs, DINO's and EVA's among them.
    """
    channels = _token_channels(backbone, image_size)
    backbone.cameras = tuple(sorted(set(camids)))
    backbone.camera_weight = weight
    backbone.default_camera = None
    table = nn.Parameter(torch.zeros(len(backbone.cameras), 1, channels))
    nn.init.trunc_normal_(table, std=0.02)
    backbone.register_parameter(CAMERA_TABLE, table)
    backbone.register_buffer("known_camids", torch.tensor(backbone.cameras), persistent=False)
    step: Any = backbone.pos_drop
    step.camera_offset, step.camera_tokens = None, getattr(backbone, "camera_tokens", "all")
    # Hooks and no module around the backbone: the names of its tensors stay those of the weight files.
    backbone.register_forward_pre_hook(_look_up)
    backbone.register_forward_hook(_forget, always_call=True)
    step.register_forward_pre_hook(_add)


def _look_up(backbone: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
    """Put what the tokens of these images get, (N, 1, C), or (1, 1, C) for all, to where it is added."""
    if not torch.compiler.is_compiling():
        _ONE_BATCH.acquire()
    images, camids = inputs if len(inputs) == 2 else (inputs[0], None)
    table, cameras = backbone.get_parameter(CAMERA_TABLE), backbone.known_camids
    mean = table.mean(dim=0, keepdim=True)
    if camids is not None:
        rows = torch.searchsorted(cameras, camids).clamp(max=len(cameras) - 1)
        known = (cameras[rows] == camids)[:, None, None]
        chosen = torch.where(known, table[rows], _default(backbone, mean))
    else:
        chosen = _default(backbone, mean)
    backbone.pos_drop.camera_offset = backbone.camera_weight * chosen
    return (images,)


def _default(backbone: Any, mean: Tensor) -> Tensor:
    if backbone.default_camera is None:
        return mean
    row = backbone.cameras.index(backbone.default_camera)
    return backbone.get_parameter(CAMERA_TABLE)[row : row + 1]


def _add(step: Any, inputs: tuple[Tensor]) -> Tensor:
    tokens, offset = inputs[0], step.camera_offset
    if step.camera_tokens == "class":
        return torch.cat([tokens[:, :1] + offset, tokens[:, 1:]], dim=1)
    return tokens + offset


def _forget(backbone: Any, *_: object) -> None:
    backbone.pos_drop.camera_offset = None
    if not torch.compiler.is_compiling():
        _ONE_BATCH.release()


def _token_channels(backbone: Any, image_size: Sequence[int]) -> int:
    """How many numbers a token has where the camera is added, found by one image going through."""
    step, seen = getattr(backbone, "pos_drop", None), []
    if isinstance(step, nn.Module):
        hook = step.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
        training = backbone.training
        try:
            with torch.no_grad():
                backbone.eval()(torch.zeros(1, 3, *image_size))
        finally:
            hook.remove()
            backbone.train(training)
    if len(seen) != 1 or len(seen[0]) != 3:
        raise BackboneError(
            f"backbone.cameras does not fit backbone.name={backbone.name}: a camera is added to tokens with "
            "their positions, which ViTs have (backbone=timm backbone.name=vit_small_patch16_224, say). "
            "Leave backbone.cameras null for others."
        )
    return int(seen[0][2])
