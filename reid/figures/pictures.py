"""Crops as figures take them: a path, or the pixels."""

import os
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from reid.data.pictures import open_picture

Picture: TypeAlias = str | os.PathLike[str] | npt.NDArray[np.uint8]
"""A crop: the path of an image file, or (H, W, 3) uint8 RGB."""

# Height over width. Crops of other shapes are stretched to it, which is how a network sees them.
CROP_ASPECT = 2.0


def pixels(picture: Picture) -> npt.NDArray[np.uint8]:
    """The (H, W, 3) uint8 RGB pixels of a crop.

    Raises:
        ValueError: if an array is not (H, W, 3) uint8.
        OSError: if a file cannot be read as an image; the message names it.
    """
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(
                f"a crop is an array of shape {picture.shape} and type {picture.dtype}; expected (H, W, 3) "
                "uint8 RGB (transpose channels-first pixels with array.transpose(1, 2, 0))"
            )
        return picture
    return np.asarray(open_picture(picture).image)


def place(axes: Axes, picture: Picture, x: float, y: float, width: float) -> AxesImage:
    """Draw a crop with its top left corner at (x, y) on `inch_axes`, `width` inches wide."""
    extent = (x, x + width, y + CROP_ASPECT * width, y)
    return axes.imshow(pixels(picture), extent=extent, aspect="auto", interpolation="antialiased")
