"""Non-local blocks: each place of a map sees all others (Wang et al., CVPR 2018, arXiv 1711.07971)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

#: Inner channels of a block: half of its map's, or a single one.
Inner = Literal["half", "one"]


class NonLocal(nn.Module):
    r"""The dot-product form of the block, (N, C, h, w) to the same.

    With x_i the values at place i of M = h w, and theta, phi, g 1x1 convolutions to D inner channels:

        y_i = 1/M sum_j (theta(x_i) . phi(x_j)) g(x_j),    z_i = x_i + BN(W y_i)

    The batch norm begins at weight 0, so that a new block changes nothing of a pretrained network.

    Source: equations 1, 4 and 6 of the paper, with D = C / 2 (`half`, its section 3.3). AGW (Ye et al., TPAMI
    2021, arXiv 2001.04193) was published with a single inner channel (`one`), and so has FastReID. The names
    of the tensors are those of AGW's code.
    """

    def __init__(self, channels: int, inner: Inner) -> None:
        super().__init__()
        size = channels // 2 if inner == "half" else 1
        self.g = nn.Conv2d(channels, size, 1)
        self.theta = nn.Conv2d(channels, size, 1)
        self.phi = nn.Conv2d(channels, size, 1)
        norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(norm.weight)
        self.W = nn.Sequential(nn.Conv2d(size, channels, 1), norm)

    def forward(self, x: Tensor) -> Tensor:
        theta, phi, values = (part(x).flatten(2) for part in (self.theta, self.phi, self.g))
        pairs = theta.transpose(1, 2) @ phi / phi.shape[2]
        y = values @ pairs.transpose(1, 2)
        z: Tensor = x + self.W(y.unflatten(2, x.shape[2:]))
        return z
