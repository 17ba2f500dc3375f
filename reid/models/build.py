"""From a name to a backbone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, get_type_hints

from reid.models import backbones
from reid.models.cameras import add_cameras
from reid.models.spatial import add_spatial_transformer
from reid.models.trunk import Backbone, BackboneError
from reid.models.weights import load_weights
from reid.trust import TrustError, trusted_function


def backbone_names() -> tuple[str, ...]:
    """Names that `build_backbone` takes: the functions of `reid/models/backbones.py`, in file order."""
    return tuple(_builders())


def build_backbone(
    name: str,
    last_stride: int = 1,
    weights: str = "none",
    stn: bool | None = None,
    library: str = "reid",
    ema: bool | None = None,
    cameras: bool | int | Sequence[int] | None = None,
    camera_weight: float = 3.0,
    **options: Any,
) -> Backbone:
    """Build the backbone of that name, (N, 3, H, W) -> (N, channels, h, w).

    last_stride: of the last stage: 1 (as published: the map is H/16 x W/16) or 2 (H/32 x W/32).
    weights: `none` (random), `imagenet` or the path of a weight file, as `load_weights` takes them.
    stn: a spatial transformer before the network, see `add_spatial_transformer`; None stands for False.
    library: whose name it is: `reid`, a function of `reid/models/backbones.py`, or `timm`.
    ema: of a weight file that holds a moving average beside the trained weights, take that. None is False,
        but for networks whose published weights are the teacher of a student and a teacher: there None takes
        a teacher.
    cameras: that a transformer learns an embedding of, see `add_cameras`: their camids, or how many where
        they count from 0; None and False stand for none. (In a config, True stands for those of the training
        set.)
    camera_weight: what their embeddings are multiplied by.
    options: of that network alone; None stands for its own default. Plain ResNets have `stem_relu`, timm's
        networks `pooling` and `image_size`.

    The result has `.name`, `.channels` and the state-dict keys of the published weight files (without
    a classifier); beside them those of the spatial transformer, which starts as the identity.

    Raises BackboneError for an unknown name, a last stride that is not 1 or 2, an option that the network
    does not have, or a `drop_path` that is no share; WeightsError when the weights cannot be had or do not
    fit.
    """
    builder = backbone_function(name, library)
    if last_stride not in (1, 2):
        raise BackboneError(f"tricks.last_stride={last_stride} is not allowed: give 1 (as published) or 2.")
    if stn and library == "timm":
        raise BackboneError(
            f"backbone.stn=true does not fit backbone.name={name}: it is for our own networks, not for those "
            f"of backbone=timm. Leave backbone.stn out."
        )
    chosen = {key: value for key, value in options.items() if value is not None}
    for key, value in chosen.items():
        _check_option(name, builder, key, value)
    if not 0 <= chosen.get("drop_path", 0) < 1:
        raise BackboneError(
            f"backbone.drop_path={chosen['drop_path']} does not fit backbone.name={name}: it is the share of "
            "images for which the last block is left out, from 0 to below 1. Give 0.1, as published."
        )
    backbone = builder(last_stride=last_stride, **chosen)
    if cameras:
        if cameras is True:
            raise BackboneError(
                "backbone.cameras=true stands for the cameras of the training set, and here is none: give "
                "their number, or a list of their camids."
            )
        camids = range(cameras) if isinstance(cameras, int) else cameras
        size: Any = chosen.get("image_size", (256, 128))
        add_cameras(backbone, camids, camera_weight, size)
    if stn:
        add_spatial_transformer(backbone)
    load_weights(backbone, weights, ema if backbone.distilled else bool(ema))
    return backbone


def _builders() -> dict[str, Callable[..., Backbone]]:
    return {
        name: function
        for name, function in vars(backbones).items()
        if inspect.isfunction(function)
        and function.__module__ == backbones.__name__
        and not name.startswith("_")
    }


def backbone_function(name: str, library: str = "reid") -> Callable[..., Backbone]:
    """The function that builds this backbone: of `reid/models/backbones.py`, of timm, or, named by its
    dotted path and annotated `-> Backbone`, of a package that the user trusts.

    Raises BackboneError for an unknown name or library.
    """
    if library == "timm":
        from reid.models.timm_nets import timm_builder  # Here, as timm delays every start by a second.

        return timm_builder(name)
    if library != "reid":
        raise BackboneError(f"backbone.library={library} is not allowed: expected reid or timm.")
    if "." in name:
        return _outside(name)
    builders = _builders()
    if name not in builders:
        near = get_close_matches(name, builders, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise BackboneError(
            f"backbone.name={name} is no backbone.{hint} Choices: {', '.join(builders)}; those of timm: "
            f"backbone=timm backbone.name=…"
        )
    return builders[name]


def _outside(path: str) -> Callable[..., Backbone]:
    try:
        function = trusted_function(path, f"backbone.name={path}")
    except TrustError as error:
        raise BackboneError(str(error)) from error
    # A checkpoint may name it too: of a trusted package, no function is called that is not meant for this.
    if not inspect.isfunction(function) or get_type_hints(function).get("return") is not Backbone:
        raise BackboneError(f"backbone.name={path} is no function that is annotated to return a Backbone.")
    return function


def _options(builder: Callable[..., Backbone]) -> set[str]:
    return set(inspect.signature(builder).parameters) - {"last_stride"}


def _check_option(name: str, builder: Callable[..., Backbone], key: str, value: object) -> None:
    if key in _options(builder):
        return
    takers = [other for other, function in _builders().items() if key in _options(function)]
    if key in ("pooling", "image_size", "drop_path"):
        takers.append("the networks of backbone=timm")
    reason = f"only {', '.join(takers)} have this option" if takers else "no backbone has this option"
    raise BackboneError(
        f"backbone.{key}={value} does not fit backbone.name={name}: {reason}. "
        f"Leave backbone.{key} out (or null) for {name}."
    )
