"""Where in a crop its embedding comes from, without gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from reid.models import ReidModel


@torch.inference_mode()
def activation_map(model: ReidModel, image: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """How much each place of a crop contributes to its feature: (h, w) float32 on the CPU, in [0, 1].

    Args:
        model: in evaluation mode.
        image: (3, H, W), as the model takes it (`normalise_pixels`), on its device.
        size: height and width of the map that is returned; None: those of `image`.
    """
    raise NotImplementedError
