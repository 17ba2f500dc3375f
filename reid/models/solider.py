"""SOLIDER's Swin transformer, whose semantic embedding acts in every forward pass.

SOLIDER (tinyvision/SOLIDER and tinyvision/SOLIDER-REID, arXiv 2303.17602) pretrains a Swin (arXiv 2103.14030)
on people, conditioned on how much of what it learns is to be semantics and how much appearance. Tensor names,
sizes and formulas are those of its published files.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional

from reid.models.matching import refuse_gaps
from reid.models.trunk import Adapt
from reid.models.weight_file import WeightsError

WINDOW = 7
_MASKED = -100.0  # added to the scores of pairs that are no neighbours, as published
_STAGES = 4


class SoliderSwin(nn.Module):
    """Swin with SOLIDER's semantic embedding: (N, 3, H, W) -> (N, 8 * width, H/32, W/32); windows of 7 x 7.

    Maps that the windows do not fill are padded with zeros, at the bottom and on the right, before each
    attention and each merging of patches; the zeros take part in the attention.

    semantic_weight: the share of semantics, 0 to 1 (lambda of the paper; 0.2 for re-identification).
        The map x after each of the first three stages becomes x * softplus(W [s, 1 - s]) + V [s, 1 - s],
        where W and V are learnt in the pretraining and fixed afterwards.
    drop_path: the stochastic depth of the last block; it grows linearly from 0 at the first.
    """

    def __init__(
        self,
        width: int,
        depths: tuple[int, int, int, int],
        heads: tuple[int, int, int, int],
        semantic_weight: float = 0.2,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.semantic_weight = semantic_weight
        self.patch_embed = _Patches(width)
        rates = torch.linspace(0, drop_path, sum(depths), device="cpu").tolist()
        sizes = [width * 2**stage for stage in range(_STAGES)]
        self.stages = nn.ModuleList(
            _Stage(size, head, [rates.pop(0) for _ in range(depth)], merges=size != sizes[-1])
            for size, head, depth in zip(sizes, heads, depths, strict=True)
        )
        self.norm3 = nn.LayerNorm(sizes[-1])
        self.semantic_embed_w = nn.ModuleList(_Fixed(size) for size in sizes[1:])
        self.semantic_embed_b = nn.ModuleList(_Fixed(size) for size in sizes[1:])
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images)
        for place, stage in enumerate(self.stages):
            x = stage(x)
            if place < _STAGES - 1:
                scale = functional.softplus(self.semantic_embed_w[place](self.semantic_weight))
                x = x * scale + self.semantic_embed_b[place](self.semantic_weight)
        return self.norm3(x).permute(0, 3, 1, 2)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The layers that a learning rate can fall along, as timm's networks list them."""
        blocks = r"^stages\.(\d+)"
        fine = [
            (r"^stages\.(\d+)\.downsample", (0,)),
            (r"^stages\.(\d+)\.\w+\.(\d+)", None),
            (r"^norm3", (99999,)),
        ]
        return {"stem": r"^patch_embed", "blocks": blocks if coarse else fine}


class _Fixed(nn.Module):
    """A linear map of (s, 1 - s) that does not learn: a number s -> (size,)."""

    weight: Tensor
    bias: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("weight", nn.init.trunc_normal_(torch.empty(size, 2), std=0.02))
        self.register_buffer("bias", torch.zeros(size))

    def forward(self, share: float) -> Tensor:
        return self.weight[:, 0] * share + self.weight[:, 1] * (1 - share) + self.bias


class _Patches(nn.Module):
    """Patches of 4 x 4: (N, 3, H, W) -> (N, H/4, W/4, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, width, 4, stride=4)
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        padded = functional.pad(images, (0, -width % 4, 0, -height % 4))
        output: Tensor = self.norm(self.projection(padded).permute(0, 2, 3, 1))
        return output


class _Merging(nn.Module):
    """Each 2 x 2 places become one of twice the channels: (N, H, W, C) -> (N, H/2, W/2, 2 C).

    The four lie side by side for each channel, rows first, as torch's `unfold` orders them.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        squares = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (N, H/2, 2, W/2, 2, C)
        output: Tensor = self.reduction(self.norm(squares.permute(0, 1, 3, 5, 2, 4).flatten(3)))
        return output


class _Stage(nn.Module):
    def __init__(self, channels: int, heads: int, drop_paths: list[float], merges: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            _Block(channels, heads, WINDOW // 2 if place % 2 else 0, rate)
            for place, rate in enumerate(drop_paths)
        )
        self.downsample = _Merging(channels) if merges else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        output: Tensor = self.downsample(x)
        return output


class _Block(nn.Module):
    """Attention within windows, and two layers at each place: (N, H, W, C) -> the same."""

    def __init__(self, channels: int, heads: int, shift: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = _Windows(channels, heads, shift)
        self.norm2 = nn.LayerNorm(channels)
        self.ffn = _Layers(channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        output: Tensor = x + self.drop_path(self.ffn(self.norm2(x)))
        return output


class _Layers(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = 4 * channels
        self.layers = nn.Sequential(
            nn.Sequential(nn.Linear(channels, hidden), nn.GELU()), nn.Linear(hidden, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layers(x)
        return output


class _Windows(nn.Module):
    """The map cut into windows, moved by `shift` places up and to the left, and attention within each."""

    def __init__(self, channels: int, heads: int, shift: int) -> None:
        super().__init__()
        self.shift = shift
        self.w_msa = _Attention(channels, heads)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        x = functional.pad(x, (0, 0, 0, -width % WINDOW, 0, -height % WINDOW))
        rows, columns = x.shape[1:3]
        mask = None
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
            mask = _strangers(rows, columns, self.shift, x)
        attended = _joined(self.w_msa(_cut(x), mask), rows, columns)
        if self.shift:
            attended = attended.roll((self.shift, self.shift), dims=(1, 2))
        return attended[:, :height, :width]


class _Attention(nn.Module):
    """Attention among the places of a window: (N, windows, 49, C) -> the same.

    A learnt number for each head and each way from one place to another is added to the scores.
    """

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        side = 2 * WINDOW - 1
        self.relative_position_bias_table = nn.Parameter(torch.zeros(side**2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        place = torch.arange(WINDOW)
        way = place[:, None] - place[None, :] + WINDOW - 1  # 0 to 12: from place j to place i
        index = side * way[:, None, :, None] + way[None, :, None, :]
        self.register_buffer("relative_position_index", index.reshape(-1), persistent=False)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        batch, count, places, channels = windows.shape
        qkv = self.qkv(windows).view(batch, count, places, 3, self.heads, -1).permute(3, 0, 1, 4, 2, 5)
        queries, keys, values = qkv.flatten(2, 3).unbind(0)  # (N, windows * heads, 49, C / heads)
        bias = self.relative_position_bias_table[self.relative_position_index]
        bias = bias.view(places, places, self.heads).permute(2, 0, 1).expand(count, -1, -1, -1)
        if mask is not None:
            bias = bias + mask[:, None]
        attended = functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=bias.flatten(0, 1).to(queries.dtype)
        )
        attended = attended.unflatten(1, (count, self.heads)).transpose(2, 3)
        output: Tensor = self.proj(attended.reshape(batch, count, places, channels))
        return output


def _cut(x: Tensor) -> Tensor:
    """(N, H, W, C) -> (N, windows, 49, C), H and W multiples of 7."""
    squares = x.unflatten(2, (-1, WINDOW)).unflatten(1, (-1, WINDOW)).transpose(2, 3)
    return squares.flatten(3, 4).flatten(1, 2)


def _joined(windows: Tensor, rows: int, columns: int) -> Tensor:
    """The way back from `_cut`."""
    squares = windows.unflatten(2, (WINDOW, WINDOW)).unflatten(1, (rows // WINDOW, columns // WINDOW))
    return squares.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _strangers(rows: int, columns: int, shift: int, like: Tensor) -> Tensor:
    """(windows, 49, 49): -100 for two places of a window that the shift brought together, else 0."""
    regions = []
    for side in (rows, columns):
        place = torch.arange(side, device=like.device)
        regions.append((place >= side - WINDOW).to(like.dtype) + (place >= side - shift).to(like.dtype))
    region = _cut((3 * regions[0][:, None] + regions[1])[None, :, :, None])[0, :, :, 0]
    return (region[:, :, None] != region[:, None, :]) * _MASKED


# ---- weight files


def solider_adapter(name: str) -> Adapt:
    """What of a file belongs to a `SoliderSwin`.

    Left out is what no feature depends on: the norms of the first three stages' maps, the semantic embedding
    after the last stage, which comes after the output is taken, and the tables of window positions, which are
    no numbers that were learnt.

    The adapter raises WeightsError for a Swin under these names that has no semantic embedding.
    """

    def adapt(
        net: nn.Module, from_file: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], tuple[str, ...], tuple[str, ...]]:
        own = net.state_dict()
        if not own.keys() & from_file.keys():  # of another network: the comparison says what it is
            return from_file, (), ()
        if not any(key.startswith(_SEMANTIC) for key in from_file):
            raise WeightsError(
                f"backbone.name={name}: the file holds a Swin without SOLIDER's semantic embedding "
                f"({_SEMANTIC[0]}0.weight, …), which acts in every forward pass. A file of SOLIDER has it; "
                f"a plain Swin is one of backbone=timm backbone.name=swin_tiny_patch4_window7_224."
            )
        last = _STAGES - 1
        unused = (*(f"norm{stage}." for stage in range(last)), *(f"{part}{last}." for part in _SEMANTIC))
        parts = {key.partition(".")[0] for key in own}
        left_out = tuple(
            key
            for key in from_file
            if key.startswith(unused)
            or key.endswith(".relative_position_index")
            or key.partition(".")[0] not in parts
        )
        kept = {key: tensor for key, tensor in from_file.items() if key not in left_out}
        refuse_gaps(name, own, kept)
        return kept, left_out, ()

    return adapt


_SEMANTIC = ("semantic_embed_w.", "semantic_embed_b.")
