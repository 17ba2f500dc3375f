"""Crops as the suite prepares them, and as the program of a target does."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from reid.export.target import Target

#: (h, w, 3) uint8 RGB.
Crop = np.ndarray


def suite_resize(crop: Crop, height: int, width: int) -> Tensor:
    """(3, height, width) uint8, by PIL's bilinear filter, which averages where it makes an image smaller."""
    resized = Image.fromarray(crop).resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def opencv_resize(crop: Crop, height: int, width: int) -> Tensor:
    """(3, height, width) uint8, as OpenCV's INTER_LINEAR, to within its rounding (1 of 255).

    Each pixel is interpolated between the four that lie around its centre, however many it stands for.
    """
    pixels = torch.from_numpy(np.array(crop)).permute(2, 0, 1)[None].float()
    resized = functional.interpolate(pixels, (height, width), mode="bilinear", align_corners=False)
    return resized[0].round().clamp(0, 255).byte()


_RESIZES: dict[str, Callable[[Crop, int, int], Tensor]] = {"opencv": opencv_resize, "pil": suite_resize}


def suite_images(crops: Sequence[Crop], height: int, width: int) -> Tensor:
    """(N, 3, height, width) uint8, as the suite resizes crops."""
    return torch.stack([suite_resize(crop, height, width) for crop in crops])


def tool_images(crops: Sequence[Crop], target: Target, height: int, width: int) -> Tensor:
    """(N, 3, height, width) uint8, as the target's program resizes crops."""
    return torch.stack([_RESIZES[target.resize](crop, height, width) for crop in crops])


def given(images: Tensor, target: Target) -> np.ndarray:
    """uint8 images (N, 3, H, W) -> float32: what the target's program gives to the graph."""
    mean, std = (torch.tensor(channels).view(3, 1, 1) for channels in (target.mean, target.std))
    values: np.ndarray = ((images.float() / target.divisor - mean) / std).contiguous().numpy()
    return values
