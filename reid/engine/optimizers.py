"""What moves the weights: the published parameter groups around any torch optimizer, and one step of them.

Training in float16: its smallest number is 6e-8, so the loss is scaled up before the gradient is taken.
Where the scaled gradient overflows, the optimizer does not move and the scale is halved; after 2000 steps
without that it is doubled (Micikevicius et al., "Mixed precision training", ICLR 2018, section 3.2).  For a
GPU that has no bf16, which needs none of this.
"""

import inspect
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.amp import GradScaler

from reid.config.checks import ConfigError, trusted_target
from reid.engine.average import WeightAverage
from reid.models import layer_depths, norm_parameters, undecayed

log = logging.getLogger(__name__)

#: A scale of fp16 below this says that the gradient itself overflows: torch begins at 2^16 and halves.
SMALLEST_SCALE = 2.0**-10

_CPU = torch.device("cpu")
#: Types of device where torch's fused form has been there since 2.4, and is the faster one.
_FUSED_BY_ITSELF = ("cuda", "cpu")


@dataclass
class Optimizers:
    """The optimizer of the network, what stands beside it, and how often and how far they move.

    Attributes:
        network: of the model, and of a metric loss that brings none for parameters of its own.
        loss: the one that the metric loss brings; its parameters are not clipped, nor do they count in the
            norm that the network's are clipped by.
        scaler: of a run in fp16 alone.
        clip_norm: the largest norm of a gradient that moves the network; None: any.
        accumulate: batches, each a P x K of its own, whose mean gradient makes one move.
        average: of the weights that the moves lead to; None where none is kept.
    """

    network: torch.optim.Optimizer
    loss: torch.optim.Optimizer | None = None
    scaler: GradScaler | None = None
    clip_norm: float | None = None
    accumulate: int = 1
    average: WeightAverage | None = None

    @property
    def _all(self) -> list[torch.optim.Optimizer]:
        return [self.network] if self.loss is None else [self.network, self.loss]

    @property
    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.network.param_groups for parameter in group["params"]]

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of a batch's `loss` to the parameters', scaled where there is a scaler."""
        loss = loss / self.accumulate
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def unscale(self) -> torch.Tensor | None:
        """Bring the gradients back to their own size; returns the scale that they had, a 0-d tensor."""
        if self.scaler is None:
            return None
        scale = self.scaler._get_scale_async()  # the number itself would make a GPU's host wait
        for optimizer in self._all:
            self.scaler.unscale_(optimizer)
        return None if scale is None else scale.clone()  # `step` changes it in place

    def gradient_norm(self) -> torch.Tensor:
        """The norm of the network's gradient, a 0-d tensor."""
        return torch.nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])

    def step(self, norm: torch.Tensor) -> None:
        """Move by the gradients, of the `norm` that they have now, and drop them.

        In fp16 an optimizer whose gradients overflowed stays. A fused one finds that out on the device;
        another asks, which makes a GPU's host wait for it.
        """
        if self.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self.clip_norm, norm)
        for optimizer in self._all:
            if self.scaler is None:
                optimizer.step()
            elif any(p.grad is not None for group in optimizer.param_groups for p in group["params"]):
                self.scaler.step(optimizer)
        self.drop_gradients()
        if self.scaler is not None:
            self.scaler.update()
        if self.average is not None:
            self.average.update()

    def drop_gradients(self) -> None:
        for optimizer in self._all:
            optimizer.zero_grad(set_to_none=True)


def build_optimizer(
    model: nn.Module,
    options: dict[str, Any],
    metric_loss: nn.Module | None = None,
    device: torch.device = _CPU,
    distillation: nn.Module | None = None,
    frozen_first: bool = False,
) -> torch.optim.Optimizer:
    """An optimizer of the class `_target_` names, biases in a group of their own.

    Parameters of the metric loss train as the model's weights do, but for those that it brings an optimizer
    for. So do those of the distillation.
    With `layer_decay` d, the parameters that lie k layers below the head have the learning rate times d^k
    (BEiT, arXiv 2106.08254), and each k has groups of its own; a layer is a block of a transformer and a
    stage of any other network (see `layer_depths`).
    The head's classifier has the learning rate times `classifier_lr_factor`, and its biases times
    `bias_lr_factor` too.
    Of a network of timm the norms, biases and tokens do not decay, as timm has it (see `undecayed`).
    `norm_weight_decay`, where it is not None, is that of all norms, weights and biases, whatever the network
    (that of batch norms is left out by Jia et al., arXiv 1807.11205, section 3.2, and He et al., arXiv
    1812.01187, section 3.1).
    A backbone that is `frozen_first` has groups of its own: torch's fused SGD takes no group of which only
    some parameters have moved before.
    Each group keeps its `lr_factor`, so that `set_learning_rate` can move them together.

    Raises:
        ConfigError: the class refuses a value, or has no fused form.
        BackboneError: `layer_decay` is set, and the backbone does not tell its layers apart.
    """
    options = dict(options)
    target = trusted_target("optimizer", options.pop("_target_"))
    lr, decay = options.pop("lr"), options.pop("weight_decay")
    bias_factor, bias_decay = options.pop("bias_lr_factor"), options.pop("bias_weight_decay")
    layer_decay = options.pop("layer_decay", None)
    classifier_factor = options.pop("classifier_lr_factor", 1.0)
    norm_decay = options.pop("norm_weight_decay", None)
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
    norms = set() if norm_decay is None else norm_parameters(model)
    # Groups apart only where a key makes them differ: the last digit of the gradient's norm depends on them.
    members: dict[tuple[int, bool, bool, bool, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            depth = depths.get(name.removeprefix("backbone."), 0)
            classifies = classifier_factor != 1 and name.startswith("head.classifier")
            later = frozen_first and name.startswith("backbone.")
            kind = (depth, name.endswith("bias"), name in kept, name in norms, classifies, later)
            members.setdefault(kind, []).append(parameter)
    if metric_loss is not None:
        own = build_loss_optimizer(metric_loss)
        moved = {id(one) for group in own.param_groups for one in group["params"]} if own else set()
        left = [parameter for parameter in metric_loss.parameters() if id(parameter) not in moved]
        if left:
            members.setdefault((0, False, False, False, False, False), []).extend(left)
    if distillation is not None and (learnt := list(distillation.parameters())):
        members.setdefault((0, False, False, False, False, False), []).extend(learnt)
    groups = []
    for kind, parameters in sorted(members.items(), key=lambda member: member[0]):
        depth, bias, without_decay, norm, classifies, _ = kind
        factor = (bias_factor if bias else 1.0) * (1.0 if layer_decay is None else layer_decay**depth)
        own_decay = 0.0 if without_decay else bias_decay if bias else decay
        if classifies:
            factor *= classifier_factor
        groups.append(
            {
                "params": parameters,
                "lr": lr * factor,
                "weight_decay": norm_decay if norm else own_decay,
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


def gradient_scaler(device: torch.device, precision: str) -> GradScaler | None:
    """The scaler of a run in `fp16`; None for every other precision."""
    return GradScaler(device.type) if precision == "fp16" else None


def restore_optimizer(
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
