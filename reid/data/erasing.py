"""Random erasing (Zhong et al., AAAI 2020, arXiv 1708.04896), vectorised over the batch."""

from collections.abc import Sequence

import torch

from reid.data.part import Part, part_of
from reid.data.rows import images_of, per_column, pixel_rows

#: The published fill: the mean's numbers, written after normalisation, where they are no mean any more.
PUBLISHED_FILL = (0.485, 0.456, 0.406)
AREA = (0.02, 0.4)
RATIO = (0.3, 1 / 0.3)
TRIES = 100


def erasing_boxes(
    count: int, height: int, width: int, generator: torch.Generator, device: torch.device
) -> torch.Tensor:
    """Draw `count` boxes (top, left, h, w), int64 (count, 4), in an image of `height` x `width` pixels.

    Area ~ U(0.02, 0.4) of the image, ratio = h / w ~ U(0.3, 1/0.3), h = round(sqrt(area ratio)),
    w = round(sqrt(area / ratio)); drawn again, up to 100 times, unless h < height and w < width; the corner
    uniform over all that fit.  A box that never fitted is empty (h = w = 0).
    """
    draws = torch.rand(2, count, TRIES, generator=generator, device=device, dtype=torch.float64)
    area = (AREA[0] + (AREA[1] - AREA[0]) * draws[0]) * (height * width)
    ratio = RATIO[0] + (RATIO[1] - RATIO[0]) * draws[1]
    h, w = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
    fits = (h < height) & (w < width)
    first = fits.int().argmax(dim=1, keepdim=True)
    found = fits.gather(1, first)
    h, w = (side.gather(1, first).where(found, 0).squeeze(1) for side in (h, w))
    corner = torch.rand(2, count, generator=generator, device=device, dtype=torch.float64)
    top = (corner[0] * (height - h + 1)).floor().long()
    left = (corner[1] * (width - w + 1)).floor().long()
    return torch.stack([top, left, h, w], dim=1)


def random_erasing(
    images: torch.Tensor,
    probability: float,
    fill: str,
    generator: torch.Generator,
    part: Part | None = None,
) -> torch.Tensor:
    """Erase one box of each image with `probability`.

    Args:
        images: normalised float32 (B, 3, H, W).
        fill: "published" (0.485, 0.456, 0.406), "zero", or "noise" (standard normal per pixel).
        part: which images of their batch these are, see `Part`.
    """
    if probability == 0:
        return images
    pixels = pixel_rows(images)
    boxes, value = draw_erasing(
        pixels.shape, probability, fill, generator, part_of(images, part), images.device
    )
    top, left, h, w = boxes.T.unsqueeze(2)
    y, x = (torch.arange(side, device=images.device) for side in images.shape[2:])
    in_rows = ((y >= top) & (y < top + h)).byte().unsqueeze(2)
    in_columns = ((x >= left) & (x < left + w)).byte().repeat_interleave(3, dim=1).unsqueeze(1)
    mask = (in_rows * in_columns).view(torch.bool)
    return images_of(torch.where(mask, value, pixels))


def draw_erasing(
    shape: Sequence[int],
    probability: float,
    fill: str,
    generator: torch.Generator,
    part: Part,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What is erased of each image, and by what.

    shape: of the images as rows of pixels, (B, H, 3 W).

    Returns:
        (B, 4) int64, top, left, h, w, with h = 0 where nothing is erased, and values, of that shape (a view
        of few where they are all the same). With probability 0 nothing is drawn.
    """
    images, height, width = shape[0], shape[1], shape[2] // 3
    fills = {"published": PUBLISHED_FILL, "zero": (0.0, 0.0, 0.0), "noise": (0.0, 0.0, 0.0)}
    value = per_column(fills[fill], width, device).expand(images, height, -1)
    if probability == 0:
        return torch.zeros(images, 4, dtype=torch.int64, device=device), value
    chosen = torch.rand(part.whole, generator=generator, device=device)[part.rows] < probability
    boxes = erasing_boxes(part.whole, height, width, generator, device)[part.rows]
    if fill == "noise":
        of_batch = (part.whole, *shape[1:])
        value = torch.randn(of_batch, generator=generator, device=device)[part.rows]
    return boxes.where(chosen[:, None], 0), value
