"""Networks of others, written once more from their published descriptions, under their published names.

Each is a function from a file's tensors and images to features; no code is shared with `reid/models`. `draw`
makes the tensors, from the names and shapes of the published files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional

State = dict[str, Tensor]


def draw(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> State:
    """Random tensors of these names and shapes: of a size that keeps a deep network's numbers near 1."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        numbers = torch.randn(shape, generator=generator)
        if name.endswith("running_var"):
            numbers = 1 + 0.1 * numbers.abs()
        elif len(shape) == 1 and name.endswith("weight"):
            numbers = 1 + 0.1 * numbers
        elif len(shape) > 1 and name.endswith(("weight", "in_proj_weight")):
            numbers = numbers / math.sqrt(math.prod(shape[1:]))
        else:
            numbers = 0.2 * numbers
        state[name] = numbers
    return state


def _pair(name: str, weight: tuple[int, ...], bias: bool = True) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", weight
    if bias:
        yield f"{name}.bias", weight[:1]


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", torch.zeros(()))


def _layer_norm(state: State, name: str, x: Tensor, epsilon: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + epsilon).sqrt()
    return centred / deviation * state[f"{name}.weight"] + state[f"{name}.bias"]


def _attend(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
    """(…, heads, tokens, d): softmax(q k^T / sqrt(d) + bias) v."""
    scores = queries @ keys.transpose(-2, -1) / math.sqrt(queries.shape[-1])
    return (scores if bias is None else scores + bias).softmax(-1) @ values


def _self_attention(
    x: Tensor, weight: Tensor, bias: Tensor, heads: int, added: Tensor | None = None
) -> Tensor:
    """(…, tokens, C) -> the same, heads side by side. `weight` holds queries, then keys, then values."""
    queries, keys, values = (
        (x @ w.T + b).unflatten(-1, (heads, -1)).transpose(-3, -2)
        for w, b in zip(weight.chunk(3), bias.chunk(3), strict=True)
    )
    return _attend(queries, keys, values, added).transpose(-3, -2).flatten(-2)


# ---- PersonViT and TransReID-SSL: the ViT of DINO and iBOT, fine-tuned as TransReID


def vit_shapes(width: int, depth: int, tokens: int, stem: bool = False) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, width), "pos_embed": (1, 1 + tokens, width)}
    if stem:
        for place, kernel, inputs in ((0, 7, 3), (3, 3, 64), (6, 3, 64)):
            shapes[f"patch_embed.conv.{place}.weight"] = (64, inputs, kernel, kernel)
        for place in (1, 4):
            shapes |= dict(_pair(f"patch_embed.conv.{place}.IN", (32,)))
            shapes |= dict(_batch_norm(f"patch_embed.conv.{place}.BN", 32))
        shapes |= dict(_batch_norm("patch_embed.conv.7", 64))
    shapes |= dict(_pair("patch_embed.proj", (width, 64, 8, 8) if stem else (width, 3, 16, 16)))
    for block in range(depth):
        for name, size in (
            ("norm1", (width,)),
            ("attn.qkv", (3 * width, width)),
            ("attn.proj", (width, width)),
            ("norm2", (width,)),
            ("mlp.fc1", (4 * width, width)),
            ("mlp.fc2", (width, 4 * width)),
        ):
            shapes |= dict(_pair(f"blocks.{block}.{name}", size))
    return shapes | dict(_pair("norm", (width,)))


def _batch_norm(name: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (channels,)


def vit(
    state: State,
    images: Tensor,
    heads: int,
    stride: int = 16,
    grid: tuple[int, int] | None = None,
    camera: Tensor | None = None,
) -> Tensor:
    """(N, 3, H, W) -> (N, 1 + tokens, width): all tokens after the last norm, the class token first.

    grid: rows and columns of the stored position embeddings, where they have to be resized.
    camera: (N, width), added to all tokens.
    """
    x = images
    if "patch_embed.conv.0.weight" in state:
        x, stride = _ics_stem(state, x), 8
    x = functional.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=stride)
    rows, columns = x.shape[2:]
    tokens = x.flatten(2).transpose(1, 2)
    x = torch.cat([state["cls_token"].expand(len(images), -1, -1), tokens], 1)
    x = x + _positions(state["pos_embed"], grid or (rows, columns), (rows, columns))
    x = x if camera is None else x + camera[:, None]
    for block in range(_count(state, "blocks.")):
        name = f"blocks.{block}"
        normed = _layer_norm(state, f"{name}.norm1", x, 1e-6)
        qkv = f"{name}.attn.qkv"
        x = x + _linear(
            state,
            f"{name}.attn.proj",
            _self_attention(normed, state[f"{qkv}.weight"], state[f"{qkv}.bias"], heads),
        )
        hidden = _gelu(_linear(state, f"{name}.mlp.fc1", _layer_norm(state, f"{name}.norm2", x, 1e-6)))
        x = x + _linear(state, f"{name}.mlp.fc2", hidden)
    return _layer_norm(state, "norm", x, 1e-6)


def _count(state: State, prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})


def _gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def _ics_stem(state: State, x: Tensor) -> Tensor:
    """Three convolutions. Half of the channels of the first two are normed in each image."""
    for place, stride in ((0, 2), (3, 1), (6, 1)):
        kernel = state[f"patch_embed.conv.{place}.weight"]
        x = functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        name = f"patch_embed.conv.{place + 1}"
        if f"{name}.IN.weight" in state:
            first, rest = x[:, :32], x[:, 32:]
            mean, variance = first.mean((2, 3), keepdim=True), first.var((2, 3), unbiased=False, keepdim=True)
            first = _scaled(state, f"{name}.IN", (first - mean) / (variance + 1e-5).sqrt())
            x = torch.cat([first, _stored_norm(state, f"{name}.BN", rest)], 1)
        else:
            x = _stored_norm(state, name, x)
        x = x.clamp(min=0)
    return x


def _scaled(state: State, name: str, x: Tensor) -> Tensor:
    return x * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]


def _stored_norm(state: State, name: str, x: Tensor) -> Tensor:
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return _scaled(state, name, (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt())


def _positions(stored: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Bilinear, place by place: where a new place's centre lies among the centres of the old ones."""
    if old == new:
        return stored
    places = stored[0, 1:].reshape(*old, -1)
    rows = _between(old[0], new[0]) @ places.flatten(1)
    both = _between(old[1], new[1]) @ rows.unflatten(1, (old[1], -1)).flatten(2).reshape(new[0], old[1], -1)
    return torch.cat([stored[:, :1], both.reshape(1, new[0] * new[1], -1)], 1)


def _between(old: int, new: int) -> Tensor:
    """(new, old): how much of each old number a new one is, along one side."""
    shares = torch.zeros(new, old)
    for place in range(new):
        centre = min(max((place + 0.5) * old / new - 0.5, 0.0), old - 1.0)
        below = int(centre)
        shares[place, below] += 1 - (centre - below)
        shares[place, min(below + 1, old - 1)] += centre - below
    return shares


# ---- CLIP's visual tower, as CLIP-ReID takes features from it


def clip_shapes(width: int, depth: int, tokens: int, projection: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "class_embedding": (width,),
        "positional_embedding": (1 + tokens, width),
        "proj": (width, projection),
        "conv1.weight": (width, 3, 16, 16),
    }
    for norm in ("ln_pre", "ln_post"):
        shapes |= dict(_pair(norm, (width,)))
    for block in range(depth):
        name = f"transformer.resblocks.{block}"
        shapes |= {
            f"{name}.attn.in_proj_weight": (3 * width, width),
            f"{name}.attn.in_proj_bias": (3 * width,),
        }
        for part, size in (
            ("attn.out_proj", (width, width)),
            ("ln_1", (width,)),
            ("mlp.c_fc", (4 * width, width)),
            ("mlp.c_proj", (width, 4 * width)),
            ("ln_2", (width,)),
        ):
            shapes |= dict(_pair(f"{name}.{part}", size))
    return shapes


def clip_visual(
    state: State,
    images: Tensor,
    heads: int,
    stride: int = 16,
    grid: tuple[int, int] | None = None,
    camera: Tensor | None = None,
) -> Tensor:
    """(N, 3, H, W) -> (N, width + projection): the class token after the last norm, and its projection.

    camera: (N, width), added to the class token before the position embeddings.
    """
    x = functional.conv2d(images, state["conv1.weight"], stride=stride)
    rows, columns = x.shape[2:]
    token = state["class_embedding"].expand(len(images), 1, -1)
    x = torch.cat([token if camera is None else token + camera[:, None], x.flatten(2).transpose(1, 2)], 1)
    x = x + _positions(state["positional_embedding"][None], grid or (rows, columns), (rows, columns))
    x = _layer_norm(state, "ln_pre", x, 1e-5)
    for block in range(_count(state, "transformer.resblocks.")):
        name = f"transformer.resblocks.{block}"
        normed = _layer_norm(state, f"{name}.ln_1", x, 1e-5)
        weight, bias = state[f"{name}.attn.in_proj_weight"], state[f"{name}.attn.in_proj_bias"]
        x = x + _linear(state, f"{name}.attn.out_proj", _self_attention(normed, weight, bias, heads))
        hidden = _linear(state, f"{name}.mlp.c_fc", _layer_norm(state, f"{name}.ln_2", x, 1e-5))
        x = x + _linear(state, f"{name}.mlp.c_proj", hidden * torch.sigmoid(1.702 * hidden))
    token = _layer_norm(state, "ln_post", x[:, 0], 1e-5)
    return torch.cat([token, token @ state["proj"]], 1)


# ---- SOLIDER's Swin

WINDOW = 7


def solider_shapes(width: int, depths: tuple[int, ...], heads: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    shapes = dict(_pair("patch_embed.projection", (width, 3, 4, 4))) | dict(
        _pair("patch_embed.norm", (width,))
    )
    for stage, (depth, head) in enumerate(zip(depths, heads, strict=True)):
        size = width * 2**stage
        for block in range(depth):
            name = f"stages.{stage}.blocks.{block}"
            shapes[f"{name}.attn.w_msa.relative_position_bias_table"] = ((2 * WINDOW - 1) ** 2, head)
            for part, shape in (
                ("norm1", (size,)),
                ("attn.w_msa.qkv", (3 * size, size)),
                ("attn.w_msa.proj", (size, size)),
                ("norm2", (size,)),
                ("ffn.layers.0.0", (4 * size, size)),
                ("ffn.layers.1", (size, 4 * size)),
            ):
                shapes |= dict(_pair(f"{name}.{part}", shape))
        if stage < len(depths) - 1:
            shapes |= dict(_pair(f"stages.{stage}.downsample.norm", (4 * size,)))
            shapes[f"stages.{stage}.downsample.reduction.weight"] = (2 * size, 4 * size)
        shapes |= dict(_pair(f"norm{stage}", (size,)))
        for part in ("w", "b"):
            after = min(2 * size, width * 2 ** (len(depths) - 1))
            shapes |= dict(_pair(f"semantic_embed_{part}.{stage}", (after, 2)))
    return shapes


def solider(state: State, images: Tensor, heads: tuple[int, ...], semantic_weight: float) -> Tensor:
    """(N, 3, H, W) -> (N, 8 * width, h, w): the last stage's map after its norm."""
    condition = torch.tensor([[semantic_weight, 1 - semantic_weight]])
    kernel, bias = state["patch_embed.projection.weight"], state["patch_embed.projection.bias"]
    x = functional.conv2d(_filled(images, 4), kernel, bias, stride=4).permute(0, 2, 3, 1)
    x = _layer_norm(state, "patch_embed.norm", x, 1e-5)
    output = x
    for stage, head in enumerate(heads):
        for block in range(_count(state, f"stages.{stage}.blocks.")):
            name = f"stages.{stage}.blocks.{block}"
            normed = _layer_norm(state, f"{name}.norm1", x, 1e-5)
            x = x + _window_attention(
                state, f"{name}.attn.w_msa", normed, head, WINDOW // 2 if block % 2 else 0
            )
            normed = _layer_norm(state, f"{name}.norm2", x, 1e-5)
            x = x + _linear(
                state, f"{name}.ffn.layers.1", _gelu(_linear(state, f"{name}.ffn.layers.0.0", normed))
            )
        output = x
        name = f"stages.{stage}.downsample"
        if f"{name}.reduction.weight" in state:
            maps = _filled(x.permute(0, 3, 1, 2), 2)
            rows, columns = maps.shape[2] // 2, maps.shape[3] // 2
            merged = functional.unfold(maps, 2, stride=2).transpose(1, 2)  # (N, places, 4 C)
            merged = _layer_norm(state, f"{name}.norm", merged, 1e-5)
            x = _linear(state, f"{name}.reduction", merged).unflatten(1, (rows, columns))
        scale = _linear(state, f"semantic_embed_w.{stage}", condition)
        x = x * torch.log(1 + scale.exp()) + _linear(state, f"semantic_embed_b.{stage}", condition)
    return _layer_norm(state, "norm3", output, 1e-5).permute(0, 3, 1, 2)


def _filled(maps: Tensor, step: int) -> Tensor:
    """(N, C, H, W) with zeros at the bottom and on the right, to multiples of `step`."""
    rows, columns = (math.ceil(side / step) * step for side in maps.shape[2:])
    filled = maps.new_zeros(*maps.shape[:2], rows, columns)
    filled[:, :, : maps.shape[2], : maps.shape[3]] = maps
    return filled


def _window_attention(state: State, name: str, x: Tensor, heads: int, shift: int) -> Tensor:
    """Window by window, (N, H, W, C) -> the same."""
    height, width = x.shape[1:3]
    padded = _filled(x.permute(0, 3, 1, 2), WINDOW).permute(0, 2, 3, 1)
    rows, columns = padded.shape[1:3]
    inside = [(i, j) for i in range(WINDOW) for j in range(WINDOW)]
    steps = [
        [(i - k + WINDOW - 1) * (2 * WINDOW - 1) + j - m + WINDOW - 1 for k, m in inside] for i, j in inside
    ]
    bias = state[f"{name}.relative_position_bias_table"][torch.tensor(steps)].permute(2, 0, 1)
    weight, offset = state[f"{name}.qkv.weight"], state[f"{name}.qkv.bias"]
    result = torch.empty_like(padded)
    for top in range(0, rows, WINDOW):
        for left in range(0, columns, WINDOW):
            places = [(top + i, left + j) for i, j in inside]
            source = [(i + shift) % rows for i, _ in places], [(j + shift) % columns for _, j in places]
            regions = torch.tensor([_region(i, j, rows, columns, shift) for i, j in places])
            apart = (regions[:, None] != regions[None]) * -100.0
            attended = _self_attention(padded[:, source[0], source[1]], weight, offset, heads, bias + apart)
            result[:, source[0], source[1]] = _linear(state, f"{name}.proj", attended)
    return result[:, :height, :width]


def _region(row: int, column: int, rows: int, columns: int, shift: int) -> int:
    """Which of the nine parts of a shifted map a place lies in; there is one where nothing is shifted."""
    if not shift:
        return 0
    below, right = (
        (p >= side - WINDOW) + (p >= side - shift) for p, side in ((row, rows), (column, columns))
    )
    return 3 * below + right


# ---- the ResNet-50 that MoCo v2 pretrained on LUPerson


def resnet50_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7)} | dict(_batch_norm("bn1", 64))
    inputs = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner = 64 * 2**stage
        for block in range(blocks):
            name = f"layer{stage + 1}.{block}"
            sizes = ((inner, inputs, 1, 1), (inner, inner, 3, 3), (4 * inner, inner, 1, 1))
            for place, size in enumerate(sizes, 1):
                shapes[f"{name}.conv{place}.weight"] = size
                shapes |= dict(_batch_norm(f"{name}.bn{place}", size[0]))
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (4 * inner, inputs, 1, 1)
                shapes |= dict(_batch_norm(f"{name}.downsample.1", 4 * inner))
            inputs = 4 * inner
    return shapes


def resnet50(state: State, images: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, 2048, H/16, W/16): a ReLU in the stem, and the last stage steps by 1."""
    x = functional.conv2d(images, state["conv1.weight"], stride=2, padding=3)
    x = functional.max_pool2d(_stored_norm(state, "bn1", x).clamp(min=0), 3, stride=2, padding=1)
    for name in sorted({".".join(key.split(".")[:2]) for key in state if key.startswith("layer")}):
        stride = 2 if name in ("layer2.0", "layer3.0") else 1
        y = functional.conv2d(x, state[f"{name}.conv1.weight"])
        y = _stored_norm(state, f"{name}.bn1", y).clamp(min=0)
        y = functional.conv2d(y, state[f"{name}.conv2.weight"], stride=stride, padding=1)
        y = _stored_norm(state, f"{name}.bn2", y).clamp(min=0)
        y = _stored_norm(state, f"{name}.bn3", functional.conv2d(y, state[f"{name}.conv3.weight"]))
        if f"{name}.downsample.0.weight" in state:
            shortcut = functional.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride)
            x = _stored_norm(state, f"{name}.downsample.1", shortcut)
        x = (x + y).clamp(min=0)
    return x
