"""Training in float16: its smallest number is 6e-8, so the loss is scaled up before the gradient is taken.

Where the scaled gradient overflows, the optimizer does not move and the scale is halved; after 2000 steps
without that it is doubled (Micikevicius et al., "Mixed precision training", ICLR 2018, section 3.2).  For a
GPU that has no bf16, which needs none of this.
"""

from collections.abc import Sequence

import torch
from torch.amp import GradScaler
from torch.optim import Optimizer

#: A scale below this says that the gradient itself overflows: torch begins at 2^16 and halves.
SMALLEST_SCALE = 2.0**-10


def gradient_scaler(device: torch.device, precision: str) -> GradScaler | None:
    """The scaler of a run in `fp16`; None for every other precision."""
    return GradScaler(device.type) if precision == "fp16" else None


def backward(loss: torch.Tensor, scaler: GradScaler | None) -> None:
    """Add the gradient of `loss` to the parameters', scaled where there is a scaler."""
    (loss if scaler is None else scaler.scale(loss)).backward()


def unscale(optimizers: Sequence[Optimizer], scaler: GradScaler | None) -> torch.Tensor | None:
    """Bring the gradients back to their own size; returns the scale that they had, a 0-d tensor."""
    if scaler is None:
        return None
    scale = scaler._get_scale_async()  # the number itself would make a GPU's host wait
    for optimizer in optimizers:
        scaler.unscale_(optimizer)
    return None if scale is None else scale.clone()  # `move` changes it in place


def move(optimizers: Sequence[Optimizer], scaler: GradScaler | None) -> None:
    """Let the optimizers step by their gradients and drop those; one whose gradients overflowed stays.

    A fused optimizer finds that out on the device. Another asks, which makes a GPU's host wait for it.
    """
    for optimizer in optimizers:
        if scaler is None:
            optimizer.step()
        elif any(p.grad is not None for group in optimizer.param_groups for p in group["params"]):
            scaler.step(optimizer)
        optimizer.zero_grad(set_to_none=True)
    if scaler is not None:
        scaler.update()
