"""IBN-a: instance and batch normalisation side by side (Pan et al., ECCV 2018, arXiv 1807.09441)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from reid.models.layout import lay_out, layout_of


class InstanceBatchNorm2d(nn.Module):
    """Instance norm on the first half of the channels, batch norm on the rest: (N, C, H, W) to the same.

    The instance norm drops the style of a single image (exposure, white balance), the batch norm
    keeps what tells contents apart. The attribute names are those of the published weight files.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.instance_channels = channels // 2
        self.IN = nn.InstanceNorm2d(self.instance_channels, affine=True)
        self.BN = nn.BatchNorm2d(channels - self.instance_channels)

    def forward(self, x: Tensor) -> Tensor:
        layout = layout_of(x)
        x = lay_out(x, layout)
        first, rest = x[:, : self.instance_channels], x[:, self.instance_channels :]
        normed = self.IN(first), self.BN(lay_out(rest, layout))
        return torch.cat([lay_out(half, layout) for half in normed], dim=1)


def use_ibn_a(stage: Iterable[Bottleneck]) -> None:
    """Replace `bn1` of every bottleneck of a ResNet stage (ResNet-IBN-a: of layer1 to layer3)."""
    for block in stage:
        block.bn1 = InstanceBatchNorm2d(block.bn1.num_features)
