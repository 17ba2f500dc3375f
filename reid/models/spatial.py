"""A spatial transformer before a backbone (Jaderberg et al., NeurIPS 2015, arXiv 1506.02025)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from reid.models.sizes import SMALLEST_STN_IMAGE
from reid.models.trunk import BackboneError

_MAP = (60, 28)  # what the localisation network makes of 256 x 128, the one size of the published layer


def add_spatial_transformer(backbone: nn.Module) -> None:
    """Let a backbone draw each image anew, under an affine map found from the image, before it looks at it.

    Convolutions and a two-layer network give the 2 x 3 matrix theta of an image; sampling is bilinear,
    with black (0) outside of the image. At the start theta is the identity for every image.

    The first fully connected layer takes the localisation map at 60 x 28, which is its own size for images
    of 256 x 128; maps of other sizes are averaged onto that grid. So any image size from 18 x 18 will do, and
    its tensors (`localization.*`, `fc_loc.*`) have the published names and shapes at every one of them.

    All of it is computed in the dtype of the parameters (float32), under autocast too: 8 bits of mantissa
    in bfloat16 would place the samples to within half a pixel.
    """
    backbone.localization = nn.Sequential(
        nn.Conv2d(3, 8, kernel_size=7),
        nn.MaxPool2d(2),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 10, kernel_size=5),
        nn.MaxPool2d(2),
        nn.ReLU(inplace=True),
    )
    theta = nn.Linear(32, 6)
    nn.init.zeros_(theta.weight)
    with torch.no_grad():
        theta.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]))
    backbone.fc_loc = nn.Sequential(nn.Linear(10 * _MAP[0] * _MAP[1], 32), nn.ReLU(inplace=True), theta)
    # A hook and no module around the backbone: the names of its tensors stay those of the weight files.
    backbone.register_forward_pre_hook(_transform)


def _transform(backbone: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    localization, fc_loc = backbone.get_submodule("localization"), backbone.get_submodule("fc_loc")
    images = inputs[0].to(next(fc_loc.parameters()).dtype)
    if min(images.shape[-2:]) < SMALLEST_STN_IMAGE:
        raise BackboneError(
            f"backbone.stn=True takes images of {SMALLEST_STN_IMAGE} x {SMALLEST_STN_IMAGE} pixels or more; "
            f"these have {images.shape[-2]} x {images.shape[-1]}."
        )
    with torch.autocast(images.device.type, enabled=False):
        seen = functional.adaptive_avg_pool2d(localization(images), _MAP)
        theta = fc_loc(seen.flatten(1)).view(-1, 2, 3)
        grid = functional.affine_grid(theta, list(images.shape), align_corners=True)
        return functional.grid_sample(images, grid, align_corners=True)
