"""From a name to a backbone."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches

from reid.models import backbones
from reid.models.spatial import add_spatial_transformer
from reid.models.trunk import Backbone, BackboneError
from reid.models.weights import load_weights


def backbone_names() -> tuple[str, ...]:
    """Names that `build_backbone` takes: the functions of `reid/models/backbones.py`, in file order."""
    return tuple(_builders())


def build_backbone(
    name: str, last_stride: int = 1, weights: str = "none", stn: bool | None = None, **options: object
) -> Backbone:
    """Build the backbone of that name, (N, 3, H, W) -> (N, channels, h, w).

    last_stride: of the last stage: 1 (as published: the map is H/16 x W/16) or 2 (H/32 x W/32).
    weights: `none` (random), `imagenet` or the path of a weight file, as `load_weights` takes them.
    stn: a spatial transformer before the network, see `add_spatial_transformer`; None stands for False.
    options: of that network alone; None stands for its own default. Plain ResNets have `stem_relu`.

    The result has `.name`, `.channels` and the state-dict keys of the published weight files (without
    a classifier); beside them those of the spatial transformer, which starts as the identity.

    Raises BackboneError for an unknown name, a last stride that is not 1 or 2, or an option that the
    network does not have; WeightsError when the weights cannot be had or do not fit.
    """
    builder = backbone_function(name)
    if last_stride not in (1, 2):
        raise BackboneError(f"tricks.last_stride={last_stride} is not allowed: give 1 (as published) or 2.")
    given = {key: value for key, value in options.items() if value is not None}
    for key, value in given.items():
        _check_option(name, key, value)
    backbone = builder(last_stride=last_stride, **given)
    if stn:
        add_spatial_transformer(backbone)
    load_weights(backbone, weights)
    return backbone


def _builders() -> dict[str, Callable[..., Backbone]]:
    return {
        name: function
        for name, function in vars(backbones).items()
        if inspect.isfunction(function)
        and function.__module__ == backbones.__name__
        and not name.startswith("_")
    }


def backbone_function(name: str) -> Callable[..., Backbone]:
    """The function of `reid/models/backbones.py` that builds this backbone.

    Raises BackboneError for an unknown name.
    """
    builders = _builders()
    if name not in builders:
        near = get_close_matches(name, builders, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise BackboneError(f"backbone.name={name} is no backbone.{hint} Choices: {', '.join(builders)}.")
    return builders[name]


def _options(builder: Callable[..., Backbone]) -> set[str]:
    return set(inspect.signature(builder).parameters) - {"last_stride"}


def _check_option(name: str, key: str, value: object) -> None:
    builders = _builders()
    if key in _options(builders[name]):
        return
    takers = [other for other, builder in builders.items() if key in _options(builder)]
    reason = f"only {', '.join(takers)} have this option" if takers else "no backbone has this option"
    raise BackboneError(
        f"backbone.{key}={value} does not fit backbone.name={name}: {reason}. "
        f"Leave backbone.{key} out (or null) for {name}."
    )
