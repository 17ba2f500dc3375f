"""What only the parts of a run can tell of its config: the signatures of its loss, its optimizer, its head
and its backbone, and a trial of the loss and the head.  All that is wrong otherwise was refused before torch
is imported.
"""

from collections.abc import Callable
from typing import Any

import torch

from reid.config.checks import ConfigError, check_options, check_types, parameter_names, trusted_target
from reid.config.identity import LATER
from reid.config.mix import MIX, construct_loss, losses_of
from reid.config.schema import OWN_KEYS, SUPPLIED, TrainConfig
from reid.models import backbone_function, build_backbone, build_head, head_class

#: What the library's losses multiply or divide similarities by; ours say themselves what they take.
_SCALES = ("temperature", "scale", "gamma")

#: Of the map that a head is tried on: those of the smaller backbones.
_CHANNELS = 512


def check_built(settings: TrainConfig) -> None:
    """Compare the open groups of typed settings with what they go to; call the loss and build the head once.

    Raises:
        ConfigError, BackboneError, HeadError: naming the key, its value and what is allowed.
    """
    for place, values in {**losses_of(settings.loss), "optimizer": settings.optimizer}.items():
        group = place.partition(".")[0]
        target = trusted_target(place, values["_target_"])
        check_options(place, values, OWN_KEYS[group], target, SUPPLIED[group])
    with torch.random.fork_rng(devices=[]):  # what is drawn for a trial is no draw of the run
        _try_loss(settings.loss)
    name, library = str(settings.backbone["name"]), str(settings.backbone.get("library", "reid"))
    check_types("backbone", settings.backbone, backbone_function(name, library))
    check_types("backbone", settings.backbone, build_backbone)
    head = head_class(str(settings.head["_target_"]))
    _leave_out_later_keys(settings.head, head)
    check_options("head", settings.head, OWN_KEYS["head"], head, SUPPLIED["head"])
    with torch.random.fork_rng(devices=[]):
        build_head(settings.head, _CHANNELS, 2)
    if settings.sync_bn and (settings.device == "cpu" or not torch.cuda.is_available()):
        raise ConfigError(
            f"sync_bn=true with device={settings.device} is not possible here: torch's SyncBatchNorm is for "
            "CUDA alone. Set sync_bn=false; freeze_bn=true makes a run the same by any number of processes"
        )


def _leave_out_later_keys(options: dict[str, Any], head: Callable[..., Any]) -> None:
    """Leave out, in place, what a head does not take and what is at its default.

    A head of the user's inherits all keys of conf/head/bnneck.yaml, which may have got some since.
    """
    taken = parameter_names(head) | OWN_KEYS["head"]
    for key, default in LATER.items():
        name = key.removeprefix("head.")
        if key.startswith("head.") and name not in taken and options.get(name, default) == default:
            options.pop(name, None)


def _try_loss(options: dict[str, Any]) -> None:
    """Build the metric loss for two identities and call it once: a library may not check what it is given."""
    for place, part in losses_of(options).items():
        for key in _SCALES:
            value = part.get(key, 1)
            # The library's losses then fall silently to 0, or turn round.
            if _is_library(part) and isinstance(value, int | float) and not value > 0:
                raise ConfigError(f"{place}.{key}={value} is not allowed: expected a number above 0.")
    loss = construct_loss(options, dict.fromkeys(SUPPLIED["loss"], 2))
    if loss is None:
        return
    features = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]])
    if options["_target_"] == MIX:
        features = features.repeat(1, 2)
    try:
        value = loss(features, torch.tensor([0, 0, 1, 1]))
    except Exception as error:  # whatever a library trips over
        first = next(iter(str(error).splitlines()), "without a word")
        value, failure = torch.tensor(torch.nan), f" ({type(error).__name__}: {first})"
    else:
        failure = ""
    if not torch.isfinite(value):
        keys = ", ".join(
            f"{place}.{key}={value}"
            for place, part in losses_of(options).items()
            for key, value in part.items()
            if key not in OWN_KEYS["loss"]
        )
        raise ConfigError(
            f"{options['_target_']} gives no finite number on a batch of four{failure}: check {keys}"
        )


def _is_library(options: dict[str, Any]) -> bool:
    return str(options["_target_"]).startswith("pytorch_metric_learning.")
