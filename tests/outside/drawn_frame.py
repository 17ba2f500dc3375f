"""A frame with drawn pedestrians in it, as a tracker gets it: an image and boxes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

#: Pixels between two people: more than Ultralytics adds around a box, so that no box shows two.
GAP = 16
COLUMNS = 10

Boxes = npt.NDArray[np.float32]


def draw_frame(crops: Sequence[Path], file: Path) -> Boxes:
    """Lay crops of one size out in rows on grey, as PNG, and give their boxes (N, 4): x1, y1, x2, y2."""
    images = [Image.open(crop).convert("RGB") for crop in crops]
    (width, height), *others = {image.size for image in images}
    assert not others
    rows = -(-len(images) // COLUMNS)
    size = (GAP + COLUMNS * (width + GAP), GAP + rows * (height + GAP))
    frame = Image.new("RGB", size, (128, 128, 128))
    boxes = np.empty((len(images), 4), dtype=np.float32)
    for number, image in enumerate(images):
        x, y = GAP + number % COLUMNS * (width + GAP), GAP + number // COLUMNS * (height + GAP)
        frame.paste(image, (x, y))
        boxes[number] = x, y, x + width, y + height
    frame.save(file)
    return boxes


def before_ultralytics(boxes: Boxes) -> Boxes:
    """The boxes that Ultralytics enlarges to these: it cuts 1.02 times the box and 10 pixels more."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    sizes = (boxes[:, 2:] - boxes[:, :2] - 10) / 1.02
    # It drops the fraction of a corner: a quarter of a pixel keeps rounding from the pixel before.
    corners = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1) + 0.25
    return corners.astype(np.float32)
