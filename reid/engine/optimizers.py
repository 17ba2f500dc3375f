"""The published parameter groups around any torch optimizer."""

from typing import Any

import torch
from torch import nn

from reid.checks import ConfigError, trusted_target


def build_optimizer(
    model: nn.Module, options: dict[str, Any], metric_loss: nn.Module | None = None
) -> torch.optim.Optimizer:
    """An optimizer of the class `_target_` names, biases in a group of their own.

    Parameters of the metric loss train as the model's weights do, unless it brings an optimizer for them.
    Each group keeps its `lr_factor`, so that `set_learning_rate` can move them together.

    Raises:
        ConfigError: the class refuses a value.
    """
    options = dict(options)
    target = trusted_target("optimizer", options.pop("_target_"))
    lr, decay = options.pop("lr"), options.pop("weight_decay")
    bias_factor, bias_decay = options.pop("bias_lr_factor"), options.pop("bias_weight_decay")
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    weights = [p for name, p in trained if not name.endswith("bias")]
    biases = [p for name, p in trained if name.endswith("bias")]
    if metric_loss is not None and not hasattr(metric_loss, "own_optimizer"):
        weights += metric_loss.parameters()
    groups = [
        {"params": weights, "lr": lr, "weight_decay": decay, "lr_factor": 1.0},
        {"params": biases, "lr": lr * bias_factor, "weight_decay": bias_decay, "lr_factor": bias_factor},
    ]
    try:
        optimizer = target(
            [group for group in groups if group["params"]], lr=lr, weight_decay=decay, **options
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer: {error}") from error
    assert isinstance(optimizer, torch.optim.Optimizer)
    return optimizer


def build_loss_optimizer(metric_loss: nn.Module | None) -> torch.optim.Optimizer | None:
    """The optimizer that a loss brings for its own parameters (its `own_optimizer()`); most bring none."""
    bring = getattr(metric_loss, "own_optimizer", None)
    optimizer: torch.optim.Optimizer | None = bring() if bring is not None else None
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set every group to `lr` times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
