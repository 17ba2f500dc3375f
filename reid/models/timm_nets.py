"""Networks of timm as backbones: whatever their output looks like, a map (N, channels, h, w) comes out.

A network keeps timm's state-dict keys, less those of its classifier. What it does is not taken from a list:
one image goes through it when it is built, and what comes out is understood or refused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any, Literal

import timm
import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn
from torch.nn import functional

from reid.models.efficientnet_names import as_timm_names
from reid.models.matching import CAMERA_TABLE, is_counted
from reid.models.trunk import Adapt, Backbone, BackboneError, ImagenetFile, as_backbone
from reid.normalisation import IMAGENET, Normalisation

Pooling = Literal["cls", "patch"]


@dataclass(frozen=True)
class Layout:
    """How features lie in the output of a network.

    kind: `map` (N, C, h, w), `map_last` (N, h, w, C), `patch` or `cls` (N, tokens, C): the patch tokens as a
        map, or the class token as a map of one place.
    prefix: tokens before the patch tokens: the class token, registers.
    grid: rows and columns of patch tokens.
    """

    kind: Literal["map", "map_last", "patch", "cls"]
    prefix: int = 0
    grid: tuple[int, int] = (1, 1)

    def to_map(self, output: Tensor) -> Tensor:
        """The output as (N, C, h, w)."""
        if self.kind == "map":
            return output
        if self.kind == "map_last":
            return output.permute(0, 3, 1, 2)
        if self.kind == "cls":
            return output[:, 0, :, None, None]
        return output[:, self.prefix :].transpose(1, 2).unflatten(2, self.grid)


class FeatureMap(nn.Module):
    """What `timm_builder` lays over a network's own class: forward (N, 3, H, W) -> (N, channels, h, w)."""

    layout: Layout
    input_scale: Tensor | None
    input_shift: Tensor | None
    pixel_mean: tuple[float, ...] | None
    forward_features: Callable[[Tensor], Tensor]

    def forward(self, images: Tensor) -> Tensor:
        # Images that are normalised as somebody stated are taken as they are.
        converts = self.pixel_mean is None
        if converts and self.input_scale is not None and self.input_shift is not None:
            images = images * self.input_scale + self.input_shift
        return self.layout.to_map(self.forward_features(images))


def timm_builder(name: str) -> Callable[..., Backbone]:
    """The function that builds timm's network of that name, which may have a weight tag: `name.tag`.

    Raises BackboneError for a name or a tag that timm does not know.
    """
    if not timm.is_model(name):
        raise BackboneError(
            f"backbone.name={name} is no network of timm {timm.__version__}.{_hint(name)} "
            f"All: python -c 'import timm; print(timm.list_models())'."
        )
    bare, _, tag = name.partition(".")
    tags = [model.partition(".")[2] for model in timm.list_pretrained(f"{bare}.*")]
    if tag and tag not in tags:
        raise BackboneError(
            f"backbone.name={name}: timm has no weights {tag} of {bare}. It has {', '.join(tags) or 'none'}."
        )

    def build(
        last_stride: int = 1,
        pooling: Pooling | None = None,
        image_size: Sequence[int] = (256, 128),
        drop_path: float | None = None,
    ) -> Backbone:
        """A network of timm, up to its last features: no classifier, nor what belongs to it alone.

        last_stride: 1 doubles the height and width of the map of a network that steps by 2 before its last
            stage; it is without a meaning, and changes nothing, for one whose resolution no convolution
            halves (ViT, Swin). A note of the backbone says so.
        pooling: of networks of tokens alone: `cls` gives the class token, as a map of one place, `patch`
            the map of the patch tokens; None is the one that the network was trained with.
        image_size: height and width that position embeddings and windows are made for.
        drop_path: stochastic depth of the last block; it grows linearly from 0 at the first.

        Raises BackboneError when timm cannot build it at this size, its output is not understood, or an
        option does not fit it.
        """
        size = (int(image_size[0]), int(image_size[1]))
        return _build(name, last_stride, pooling, size, drop_path or 0.0)

    return build


def _build(
    name: str, last_stride: int, pooling: Pooling | None, size: tuple[int, int], drop_path: float
) -> Backbone:
    net = _create(name, size, drop_path)
    _check_patches(net, name, size)
    training = net.training
    net.eval()
    images = torch.zeros(1, 3, *size)
    output = _try(net, name, images)
    layout = _layout(net, name, output, pooling, size)
    _drop_classifier(net, output)
    notes = []
    if layout.kind != "map" or not release_last_stride(net, name, images, last_stride):
        notes.append("tricks.last_stride has no meaning for this network")
    net.train(training)

    own_class = type(net)
    net.__class__ = type(own_class.__name__, (FeatureMap, own_class), {})
    net.layout = layout
    if _convert_input(net):
        notes.append("images are brought from ImageNet's mean and deviation to those of its weights")
    return as_backbone(
        net, name, net.num_features, hub_file(net), adapter(own_class), tuple(notes), library="timm"
    )


def _create(name: str, size: tuple[int, int], drop_path: float) -> Any:
    """Timm's network with random weights, made for the image size where it is made for one size.

    Raises BackboneError where timm cannot build it, or it has no branches to drop and is to drop some.
    """
    try:
        net = _created(name, size, {"drop_path_rate": drop_path} if drop_path else {})
        drops = not drop_path or any(getattr(module, "drop_prob", None) for module in net.modules())
    except BackboneError as error:
        if "drop_path_rate" not in str(error):  # an argument that this network does not know
            raise
        drops = False
    if not drops:
        raise BackboneError(
            f"backbone.drop_path={drop_path} does not fit backbone.name={name}: this network has no residual "
            "branches that timm can drop. Leave backbone.drop_path out (or null)."
        )
    return net


def _created(name: str, size: tuple[int, int], options: dict[str, Any]) -> Any:
    config = timm.get_pretrained_cfg(name)
    sized: dict[str, Any] = {"img_size": size} if config is not None and config.fixed_input_size else {}
    try:
        try:
            return timm.create_model(name, pretrained=False, num_classes=0, **sized, **options)
        except TypeError:
            if not sized:
                raise
            return timm.create_model(name, pretrained=False, num_classes=0, **options)
    except (
        Exception
    ) as error:  # Networks of many authors: whatever they raise, the name or size is not served.
        raise _refusal(name, f"timm cannot build it for {_size(size)} images ({_words(error)})") from error


def _check_patches(net: Any, name: str, size: tuple[int, int]) -> None:
    """Refuse a size that the patches do not fill: timm would cut off the rows and columns that are left."""
    embedding = getattr(net, "patch_embed", None)
    if not isinstance(embedding, PatchEmbed):
        return
    patch = embedding.patch_size
    near = [max(1, round(side / step)) * step for side, step in zip(size, patch, strict=True)]
    if near != list(size):
        raise BackboneError(
            f"backbone.name={name} cuts images into patches of {_size(patch)}, which do not fill "
            f"image.height x image.width = {_size(size)}. The nearest size that they fill is {_size(near)}: "
            f"image.height={near[0]} image.width={near[1]}."
        )


def _try(net: Any, name: str, images: Tensor) -> Tensor:
    size = _size(images.shape[2:])
    try:
        output = net.forward_features(images)
    except Exception as error:  # As in `_create`.
        raise _refusal(name, f"it does not take {size} images ({_words(error)})") from error
    if not isinstance(output, Tensor) or output.dim() not in (3, 4):
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise _refusal(name, f"it turns a {size} image into {shape}, neither a feature map nor tokens")
    return output


def _layout(net: Any, name: str, output: Tensor, pooling: Pooling | None, size: tuple[int, int]) -> Layout:
    """How the features lie in the output that one image gave."""
    channels, shape = net.num_features, tuple(output.shape)
    if output.dim() == 4 and channels in (shape[1], shape[3]):
        if pooling is not None:
            raise BackboneError(
                f"backbone.pooling={pooling} does not fit backbone.name={name}: it has a feature map, and "
                f"neither class nor patch tokens. Leave backbone.pooling out (or null): the map is averaged."
            )
        return Layout("map" if shape[1] == channels else "map_last")
    has_class = getattr(net, "cls_token", None) is not None
    prefix = getattr(net, "num_prefix_tokens", int(has_class))
    grid = _grid(net, size)
    if output.dim() != 3 or shape[2] != channels or shape[1] != prefix + grid[0] * grid[1]:
        raise _refusal(
            name,
            f"it turns a {_size(size)} image into {shape}, which is neither a map of its {channels} channels "
            f"nor {prefix} tokens and then one for each of {_size(grid)} patches",
        )
    if pooling == "cls" and not has_class:
        raise BackboneError(
            f"backbone.pooling=cls does not fit backbone.name={name}: it has no class token. "
            f"Give backbone.pooling=patch, or leave it out (or null)."
        )
    trained_so = getattr(net, "global_pool", "token") == "token"
    kind: Pooling = pooling or ("cls" if has_class and trained_so else "patch")
    return Layout(kind, prefix, grid)


def _grid(net: Any, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of patches: the embedding's own, else by the step that timm states."""
    rows, columns = getattr(getattr(net, "patch_embed", None), "grid_size", None) or (0, 0)
    if not rows:
        step = net.feature_info[-1]["reduction"] if getattr(net, "feature_info", None) else size[0]
        rows, columns = -(-size[0] // step), -(-size[1] // step)
    return rows, columns


def _drop_classifier(net: nn.Module, output: Tensor) -> None:
    """Empty the parts of which no parameter acts on the output: they would be stored and never learn."""
    trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(output.sum(), list(trained.values()), allow_unused=True)
    parts = {name.partition(".")[0] for name in trained if "." in name}
    used = {name.partition(".")[0] for name, g in zip(trained, gradients, strict=True) if g is not None}
    for part in parts - used:
        setattr(net, part, nn.Identity())


def _convert_input(net: Any) -> bool:
    """Let images normalised by ImageNet's mean and deviation reach the network as its weights expect them."""
    net.input_scale = net.input_shift = None
    config = net.pretrained_cfg
    theirs = Normalisation(*(tuple(config.get(key) or getattr(IMAGENET, key)) for key in ("mean", "std")))
    if theirs == IMAGENET:
        return False
    del net.input_scale, net.input_shift
    # It follows from the network's name, so no file holds it.
    for name, channels in zip(("input_scale", "input_shift"), theirs.from_other(IMAGENET), strict=True):
        net.register_buffer(name, torch.tensor(channels).view(1, 3, 1, 1), persistent=False)
    return True


def _hint(name: str) -> str:
    models = timm.list_models()
    bare = name.partition(".")[0]
    near = [model for model in models if model.startswith(bare)][:3] or get_close_matches(bare, models, n=3)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def _refusal(name: str, reason: str) -> BackboneError:
    return BackboneError(
        f"backbone.name={name} of timm cannot be used here: {reason}. Choose another image.height and "
        f"image.width, or another network."
    )


def _size(size: Sequence[int]) -> str:
    return "x".join(str(side) for side in size)


def _words(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# ---- the last stride of a network that nobody listed: found by watching one image go through it


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


# ---- weight files


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
        net: nn.Module, from_file: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], tuple[str, ...], tuple[str, ...]]:
        own = {
            name: tensor
            for name, tensor in net.state_dict().items()
            if is_counted(name) and name != CAMERA_TABLE
        }
        from_file = as_timm_names(from_file, own)
        fits = all(
            name in from_file and from_file[name].shape == tensor.shape for name, tensor in own.items()
        )
        adapted = from_file if fits or convert is None else _converted(convert, net, from_file, own)
        parts = {name for name, part in net.named_children() if isinstance(part, nn.Identity)}
        left_out = tuple(name for name in adapted if name.partition(".")[0] in parts)
        kept = {name: tensor for name, tensor in adapted.items() if name not in left_out}
        resized = tuple(
            name
            for name, tensor in kept.items()
            if name in from_file and name in own and from_file[name].shape != tensor.shape == own[name].shape
        )
        notes = (f"{len(resized)} resized to the input: {', '.join(resized[:3])}",) if resized else ()
        return kept, left_out, notes

    return adapt


def _converted(
    convert: _Filter, net: nn.Module, from_file: dict[str, Tensor], own: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    tensors = dict(from_file)
    if own.keys() <= from_file.keys():
        # Names are right and only sizes differ: Swin's function takes a file without a classifier for one
        # of the original authors, whose stages were numbered otherwise.
        tensors.setdefault(_SWIN_CLASSIFIER, torch.zeros(1))
    try:
        converted = dict(convert(tensors, net))
    except Exception:  # Files of other networks break these functions anyhow; the comparison then says why.
        return from_file
    if _SWIN_CLASSIFIER not in from_file:
        converted.pop(_SWIN_CLASSIFIER, None)
    return converted
