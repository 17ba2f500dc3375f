"""The published parameter groups around any torch optimizer."""

import inspect
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from reid.config.checks import ConfigError, trusted_target
from reid.models import layer_depths, undecayed

log = logging.getLogger(__name__)

_CPU = torch.device("cpu")
#: Types of device where torch's fused form has been there since 2.4, and is the faster one.
_FUSED_BY_ITSELF = ("cuda", "cpu")


def build_optimizer(
    model: nn.Module,
    options: dict[str, Any],
    metric_loss: nn.Module | None = None,
    device: torch.device = _CPU,
) -> torch.optim.Optimizer:
    """An optimizer of the class `_target_` names, biases in a group of their own.

    Parameters of the metric loss train as the model's weights do, unless it brings an optimizer for them.
    With `layer_decay` d, the parameters that lie k layers below the head of a transformer have the learning
    rate times d^k (BEiT, arXiv 2106.08254), and each k has groups of its own.
    Of a network of timm the norms, biases and tokens do not decay, as timm has it (see `undecayed`).
    Each group keeps its `lr_factor`, so that `set_learning_rate` can move them together.

    Raises:
        ConfigError: the class refuses a value, or has no fused form.
        BackboneError: a layer decay was asked for, and the backbone is no transformer.
    """
    options = dict(options)
    target = trusted_target("optimizer", options.pop("_target_"))
    lr, decay = options.pop("lr"), options.pop("weight_decay")
    bias_factor, bias_decay = options.pop("bias_lr_factor"), options.pop("bias_weight_decay")
    layer_decay = options.pop("layer_decay", None)
    fused = options.pop("fused", None)
    has_fused = "fused" in inspect.signature(target).parameters
    if fused and not has_fused:
        raise ConfigError(f"optimizer.fused=true: {target.__name__} has no fused form. Leave it null")
    free = not {"foreach", "differentiable"} & options.keys()  # which exclude it
    if fused or (fused is None and free and has_fused and device.type in _FUSED_BY_ITSELF):
        options["fused"] = True
    depths = {} if layer_decay is None else layer_depths(model.backbone)
    kept = undecayed(model)
    if kept and (decay or bias_decay):
        log.info("norms, biases and tokens of a network of timm do not decay (%d parameters)", len(kept))
    members: dict[tuple[int, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            depth = depths.get(name.removeprefix("backbone."), 0)
            members.setdefault((depth, name.endswith("bias"), name in kept), []).append(parameter)
    if metric_loss is not None and not hasattr(metric_loss, "own_optimizer"):
        members.setdefault((0, False, False), []).extend(metric_loss.parameters())
    groups = []
    for (depth, bias, without_decay), parameters in sorted(members.items(), key=lambda member: member[0]):
        factor = (bias_factor if bias else 1.0) * (1.0 if layer_decay is None else layer_decay**depth)
        groups.append(
            {
                "params": parameters,
                "lr": lr * factor,
                "weight_decay": 0.0 if without_decay else bias_decay if bias else decay,
                "lr_factor": factor,
                "kind": (depth, bias),
            }
        )
    try:
        optimizer = target(groups, lr=lr, weight_decay=decay, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"optimizer: {error}") from error
    assert isinstance(optimizer, torch.optim.Optimizer)
    return optimizer


def build_loss_optimizer(metric_loss: nn.Module | None) -> torch.optim.Optimizer | None:
    """The optimizer that a loss brings for its own parameters (its `own_optimizer()`); most bring none."""
    bring = getattr(metric_loss, "own_optimizer", None)
    optimizer: torch.optim.Optimizer | None = bring() if bring is not None else None
    return optimizer


def take_up(
    optimizer: torch.optim.Optimizer, state: Mapping[str, Any], parameters: Iterable[nn.Parameter]
) -> None:
    """Load the state of an optimizer that was saved in training.

    Of a network of timm, a run that began when everything decayed has one group where there are two now, one
    of them without decay. It goes on with the groups that it began with.

    parameters: all that may be trained, in the order of the model and then the loss.
    """
    groups = optimizer.param_groups
    if [len(group["params"]) for group in state["param_groups"]] != [
        len(group["params"]) for group in groups
    ]:
        place = {parameter: position for position, parameter in enumerate(parameters)}
        kinds: dict[tuple[int, bool], list[nn.Parameter]] = {}
        for group in groups:
            kinds.setdefault(group["kind"], []).extend(group["params"])
        # What else belongs to a group comes with the state.
        groups[:] = [{"params": sorted(members, key=place.__getitem__)} for members in kinds.values()]
        log.info("this run began with weight decay on all parameters of its network, and goes on so")
    optimizer.load_state_dict(dict(state))


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take up the state of another of its kind; whether it is fused goes by where it computes now."""
    groups = [dict(group) for group in state["param_groups"]]
    for group, own in zip(groups, optimizer.param_groups, strict=False):  # torch says where they differ
        group |= {"fused": own["fused"]} if "fused" in own else {}
    optimizer.load_state_dict({**state, "param_groups": groups})


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set every group to `lr` times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
