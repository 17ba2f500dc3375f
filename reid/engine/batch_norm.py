"""The statistics of batch norms, estimated anew on other images: AdaBN.

Li et al., "Revisiting batch normalization for practical domain adaptation" (arXiv 1603.04779): the weights of
a network keep what it has learnt, and the means and variances of its batch norms are those of the target.
Nothing is learnt, and no label is needed.
"""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from reid.engine.compute import Compute
from reid.models import ReidModel


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch norms of a network that keep statistics."""
    return [one for one in model.modules() if isinstance(one, _BatchNorm) and one.track_running_stats]


@torch.no_grad()
def estimate_statistics(model: ReidModel, batches: Iterable[torch.Tensor], compute: Compute) -> int:
    """Give the batch norms of `model` the statistics of these images, in place; returns how many batches
    counted.

    Each running mean and variance becomes the mean over the batches. A norm in the middle of the network sees
    images as the norms before it have normalised them by their batch, as in training. A batch of one image
    has no variance, so it is left out. Everything but the batch norms is as in evaluation; the model's mode
    is restored.

    batches: (B, 3, H, W) each, normalised as the model takes them, on its device, in random order: images of
        one person alone have other statistics.

    Raises:
        ValueError: the network has no batch norm that keeps statistics, or there is no batch of two images.
    """
    norms = batch_norms(model)
    if not norms:
        raise ValueError(f"{model.backbone.name} has no batch norm that keeps statistics")
    modes = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    model.eval()
    counted = 0
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches, not a moving one
            norm.training = True
        for images in batches:
            if len(images) < 2:
                continue
            with compute.autocast():
                model(images)
            counted += 1
        if not counted:
            for norm, buffers in zip(norms, before, strict=True):
                for name, buffer in buffers.items():
                    getattr(norm, name).copy_(buffer)
            raise ValueError("there is no batch of two images or more")
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes.items():
            module.training = training
    return counted
