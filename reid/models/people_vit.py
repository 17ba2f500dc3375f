"""Vision transformers that others pretrained on people, under the names of their published weight files.

The network of PersonViT (hustvl/PersonViT, arXiv 2408.05398), pretrained as iBOT does (arXiv 2111.07832), and
of TransReID-SSL (damo-cv/TransReID-SSL, arXiv 2111.12084), pretrained as DINO does, is a ViT with a class
token (arXiv 2010.11929); both fine-tune it as TransReID does (arXiv 2102.04378). That of CLIP-ReID
(Syliz517/CLIP-ReID, arXiv 2211.13977) is the visual tower of OpenAI's CLIP (arXiv 2103.00020).

Tensor names, sizes and formulas are theirs; the transformer itself is timm's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from reid.models.ibn import InstanceBatchNorm2d
from reid.models.matching import CAMERA_TABLE, is_counted, refuse_gaps, summarise
from reid.models.timm_nets import Layout, Pooling
from reid.models.trunk import Adapt, BackboneError
from reid.models.weight_file import WeightsError

PATCH = 16
_STEM_CHANNELS, _STEM_STRIDE = 64, 2


class Patches(nn.Module):
    """The patches of images as tokens: (N, 3, H, W) -> (N, rows * columns, width).

    stride: pixels from one patch to the next. Below the patch's 16 pixels they overlap, and what is left at
        the bottom and on the right is cut off (TransReID).
    stem: three convolutions with instance and batch norms before the patches, which a self-supervised ViT
        trains steadier with (TransReID-SSL: IBN-based convolution stem, ICS). They halve the image, so that
        the patch's kernel is 8 x 8 after them.
    """

    def __init__(
        self,
        img_size: tuple[int, int],
        embed_dim: int,
        stride: int = PATCH,
        stem: bool = False,
        bias: bool = True,
        **_: Any,
    ) -> None:
        super().__init__()
        rows, columns = ((side - PATCH) // stride + 1 for side in img_size)
        self.grid_size = rows, columns
        self.num_patches = rows * columns
        if not stem:
            self.proj = nn.Conv2d(3, embed_dim, PATCH, stride=stride, bias=bias)
            return
        channels, kernel = _STEM_CHANNELS, PATCH // _STEM_STRIDE
        self.conv = nn.Sequential(
            nn.Conv2d(3, channels, 7, stride=_STEM_STRIDE, padding=3, bias=False),
            InstanceBatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            InstanceBatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        self.proj = nn.Conv2d(channels, embed_dim, kernel, stride=kernel, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        if hasattr(self, "conv"):
            images = self.conv(images)
        return self.proj(images).flatten(2).transpose(1, 2)


class PeopleViT(VisionTransformer):
    """A ViT of PersonViT and TransReID-SSL: (N, 3, H, W) -> (N, width, h, w).

    pooling: `cls`, as published, gives the class token as a map of one place; `patch` the map of the patch
        tokens.
    drop_path: the stochastic depth of the last block; it grows linearly from 0 at the first.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        image_size: Sequence[int],
        pooling: Pooling = "cls",
        drop_path: float = 0.0,
        stride: int = PATCH,
        stem: bool = False,
        epsilon: float = 1e-6,
        **options: Any,
    ) -> None:
        super().__init__(
            img_size=(int(image_size[0]), int(image_size[1])),
            patch_size=PATCH,
            num_classes=0,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            drop_path_rate=drop_path,
            embed_layer=partial(Patches, stride=stride, stem=stem),
            norm_layer=partial(nn.LayerNorm, eps=epsilon),
            **options,
        )
        self.layout = Layout(pooling, 1, self.patch_embed.grid_size)

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]
        return self.layout.to_map(self.forward_features(images))


class ClipVisual(PeopleViT):
    """The visual tower of CLIP as CLIP-ReID uses it: (N, 3, H, W) -> (N, width + projection, 1, 1).

    The feature is the class token after the last norm and, beside it, its projection into the space that CLIP
    shares with texts (CLIP-ReID trains both, each with a neck and a classifier, and compares the two together
    in its test). CLIP's tower has a norm before its first block, QuickGELU, x * sigmoid(1.702 x),
    and no bias at its patches.
    """

    camera_tokens = (
        "class"  # a camera embedding is added to the class token alone, as `cv_embed` of CLIP-ReID
    )

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        projection: int,
        image_size: Sequence[int],
        drop_path: float = 0.0,
        stride: int = PATCH,
    ) -> None:
        super().__init__(
            width,
            depth,
            heads,
            image_size,
            drop_path=drop_path,
            stride=stride,
            epsilon=1e-5,
            pre_norm=True,
            act_layer="quick_gelu",
        )
        self.proj = nn.Parameter(width**-0.5 * torch.randn(width, projection))

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]
        token = self.forward_features(images)[:, 0]
        return torch.cat([token, token @ self.proj], dim=1)[:, :, None, None]


def check_size(name: str, image_size: Sequence[int], stride: int = PATCH) -> None:
    """Raise BackboneError where patches do not fill the image, or overlapping ones do not fit into it."""
    height, width = (int(side) for side in image_size)
    if not 1 <= stride <= PATCH:
        raise BackboneError(
            f"backbone.stride={stride} does not fit backbone.name={name}: its patches have {PATCH} pixels. "
            f"Give {PATCH}, or fewer for patches that overlap (12 is the usual one)."
        )
    if min(height, width) < PATCH or (stride == PATCH and (height % PATCH or width % PATCH)):
        near = [max(1, round(side / PATCH)) * PATCH for side in (height, width)]
        raise BackboneError(
            f"backbone.name={name} cuts images into patches of {PATCH}x{PATCH}, which do not fill "
            f"image.height x image.width = {height}x{width}. The nearest size that they fill is "
            f"{near[0]}x{near[1]}: image.height={near[0]} image.width={near[1]}."
        )


# ---- weight files


def vit_adapter(name: str) -> Adapt:
    """What turns a file's tensors into those of a `PeopleViT`: its parts alone, positions resized.

    The adapter raises WeightsError for a ViT that lacks a few of its tensors, or computes with others beside
    them.
    """
    return partial(_adapt, name)


def clip_adapter(name: str) -> Adapt:
    """The same for a `ClipVisual`, from the names that OpenAI's CLIP and CLIP-ReID give."""

    def adapt(
        net: nn.Module, from_file: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], tuple[str, ...], tuple[str, ...]]:
        inside = {key: tensor for key, tensor in from_file.items() if key.startswith(_CLIP_PREFIX)}
        tower = {key.removeprefix(_CLIP_PREFIX): tensor for key, tensor in inside.items()} or from_file
        texts = tuple(key for key in from_file if inside and key not in inside)
        renamed = {clip_name(key): tensor for key, tensor in tower.items()}
        if CAMERA_TABLE in renamed:  # stored as (cameras, width)
            renamed[CAMERA_TABLE] = renamed[CAMERA_TABLE].unsqueeze(1)
        for key in ("cls_token", "pos_embed"):
            if key in renamed:  # stored as (width,) and (tokens, width)
                renamed[key] = renamed[key].reshape(1, -1, renamed[key].shape[-1])
        kept, left_out, notes = _adapt(name, net, renamed)
        return kept, (*texts, *left_out), notes

    return adapt


#: Parts of other ViTs that act on the features: CLIP's first norm, registers, the norm after a mean.
_ACTING = ("norm_pre", "reg_token", "dist_token", "fc_norm", "attn_pool")
_CLIP_PREFIX = "visual."
_CLIP_NAMES = (
    ("conv1.", "patch_embed.proj."),
    ("ln_pre.", "norm_pre."),
    ("ln_post.", "norm."),
    ("transformer.resblocks.", "blocks."),
    (".ln_1.", ".norm1."),
    (".ln_2.", ".norm2."),
    (".attn.in_proj_", ".attn.qkv."),
    (".attn.out_proj.", ".attn.proj."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
)


_CLIP_TOKENS = {"class_embedding": "cls_token", "positional_embedding": "pos_embed", "cv_embed": CAMERA_TABLE}


def clip_name(name: str) -> str:
    """The name here of a tensor of CLIP's visual tower."""
    for theirs, own in _CLIP_NAMES:
        name = name.replace(theirs, own)
    return _CLIP_TOKENS.get(name, name)


def _adapt(
    name: str, net: Any, from_file: dict[str, Tensor]
) -> tuple[dict[str, Tensor], tuple[str, ...], tuple[str, ...]]:
    own = {key: tensor for key, tensor in net.state_dict().items() if is_counted(key)}
    if not own.keys() & from_file.keys():  # of another network: the comparison says what it is
        return from_file, (), ()
    parts = {key.partition(".")[0] for key in own}
    left_out = tuple(key for key in from_file if key.partition(".")[0] not in parts)
    if acting := [key for key in left_out if key.partition(".")[0] in _ACTING]:
        raise WeightsError(
            f"backbone.name={name}: the file is of a ViT that computes with "
            f"{summarise('further tensors', acting)}. This network does not, so its features would be "
            f"others. Choose the backbone that the file belongs to, such as one of backbone=timm."
        )
    kept = {key: tensor for key, tensor in from_file.items() if key not in left_out}
    refuse_gaps(name, own, kept)
    stored, wanted = kept.get("pos_embed"), own["pos_embed"]
    notes: tuple[str, ...] = ()
    if stored is not None and stored.ndim == 3 and stored.shape[2] == wanted.shape[2]:
        grid = net.patch_embed.grid_size
        old = stored_grid(stored.shape[1] - 1, grid)
        if old != grid:
            kept["pos_embed"] = resize_positions(stored, old, grid)
            notes = (f"position embeddings resized from {old[0]}x{old[1]} to {grid[0]}x{grid[1]} patches",)
    return kept, left_out, notes


def stored_grid(tokens: int, grid: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of so many stored position embeddings, which no file says.

    They are those of the network where the numbers agree. Else images that are as high as wide, twice or
    three times (224x224, 256x128, 384x128) are looked for in this order, and then the grid of a shape nearest
    to the network's, as overlapping patches have it.
    """
    if tokens == grid[0] * grid[1]:
        return grid
    for ratio in (1, 2, 3):
        columns = math.isqrt(tokens // ratio)
        if columns * columns * ratio == tokens:
            return columns * ratio, columns
    shapes = [(tokens // columns, columns) for columns in range(1, tokens + 1) if tokens % columns == 0]
    return min(shapes, key=lambda shape: abs(math.log(shape[0] / shape[1] * grid[1] / grid[0])))


def resize_positions(stored: Tensor, old: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Position embeddings (1, 1 + tokens, width) at another grid: bilinear, the class token's as it is.

    As TransReID and CLIP-ReID do it (timm's own function is bicubic).
    """
    own, places = stored[:, :1], stored[:, 1:].float()
    as_map = places.transpose(1, 2).unflatten(2, old)
    resized = functional.interpolate(as_map, size=grid, mode="bilinear", align_corners=False)
    return torch.cat([own, resized.flatten(2).transpose(1, 2).to(own.dtype)], dim=1)
