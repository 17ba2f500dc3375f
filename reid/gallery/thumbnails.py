"""Small pictures of crops, made from the original files and kept in memory while there is room."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from reid.data.crops import PictureError
from reid.data.pictures import read_picture

#: Heights in pixels: of a picture in a list, on a screen of two pixels a point, and of one looked at alone.
SIZES = {"small": 256, "large": 1024}
#: Bytes of encoded pictures that are kept: some 25,000 small ones.
BUDGET = 256 * 2**20


class Thumbnails:
    """JPEGs of `paths` by their number, without the originals' metadata; many threads may ask at once."""

    def __init__(self, paths: Sequence[Path], budget: int = BUDGET) -> None:
        self._paths, self._budget = paths, budget
        self._kept: OrderedDict[tuple[int, str], bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._paths)

    def picture(self, number: int) -> Image.Image:
        """The original, upright RGB.

        Raises:
            PictureError: it is gone, or cannot be decoded.
        """
        try:
            found = read_picture(self._paths[number])
        except OSError as error:
            raise PictureError(error.strerror or "the disk failed") from error
        if found.picture is None:
            raise PictureError(found.reason)
        return found.picture.image

    def jpeg(self, number: int, size: str) -> bytes:
        """The picture of a crop, at most `SIZES[size]` high; a smaller original stays as it is.

        Raises:
            PictureError: it is gone, or cannot be decoded.
        """
        key = number, size
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        data = encoded(shrunk(self.picture(number), SIZES[size]))
        with self._lock:
            if key not in self._kept:
                self._kept[key] = data
                self._bytes += len(data)
            while self._bytes > self._budget:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return data


def shrunk(image: Image.Image, height: int) -> Image.Image:
    """`image`, made smaller where it is higher than `height`, or wider than twice that."""
    scale = min(1.0, height / image.height, 2 * height / image.width)
    if scale == 1:
        return image
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def encoded(image: Image.Image) -> bytes:
    """`image` as a JPEG."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=88)
    return out.getvalue()


def overlaid(image: Image.Image, activation: np.ndarray) -> Image.Image:
    """`image` with an activation map (h, w) of 0 to 1 over it, which is grey where it is low, and warm."""
    small = Image.fromarray((255 * activation.clip(0, 1)).astype(np.uint8))
    heat = np.asarray(small.resize(image.size, Image.Resampling.BICUBIC), np.float32)[..., None] / 255
    grey = np.asarray(image.convert("L").convert("RGB"), np.float32)
    warm = np.concatenate([np.full_like(heat, 255), 60 + 180 * heat, 20 + 40 * heat], axis=2)
    share = 0.8 * heat**2
    mixed = (1 - share) * 0.75 * grey + share * warm
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))
