"""Random erasing (Zhong et al., AAAI 2020, arXiv 1708.04896), vectorised over the batch."""

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
    in_place: bool = False,
) -> torch.Tensor:
    """Erase one box of each image with `probability`.

    Args:
        images: normalised float32 (B, 3, H, W).
        fill: "published" (0.485, 0.456, 0.406), "zero", or "noise" (standard normal per pixel).
        part: which images of their batch these are, see `Part`.
        in_place: the images may be written to.
    """
    if probability == 0:
        return images
    height, width = images.shape[2:]
    device = images.device
    part = part_of(images, part)
    chosen = torch.rand(part.whole, generator=generator, device=device)[part.rows] < probability
    boxes = erasing_boxes(part.whole, height, width, generator, device)[part.rows]
    pixels = pixel_rows(images)
    if fill == "noise":
        of_batch = (part.whole, *pixels.shape[1:])
        value = torch.randn(of_batch, generator=generator, device=device)[part.rows]
    else:
        value = per_column(PUBLISHED_FILL if fill == "published" else (0.0, 0.0, 0.0), width, device)
        value = value.expand_as(pixels)
    if device.type != "cpu":
        return images_of(torch.where(erasing_mask(boxes, chosen, height, width), value, pixels))
    # Asking where the boxes lie costs nothing here, and then the rest need not be touched.
    pixels = pixels if in_place else pixels.clone()
    for image in chosen.nonzero().flatten().tolist():
        top, left, h, w = boxes[image].tolist()
        inside = image, slice(top, top + h), slice(3 * left, 3 * (left + w))
        pixels[inside] = value[inside]
    return images_of(pixels)


def erasing_mask(boxes: torch.Tensor, chosen: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(B, H, 3 W) bool: what lies in the boxes (B, 4) of the chosen (B), as rows of pixels."""
    top, left, h, w = boxes.T.unsqueeze(2)
    y, x = (torch.arange(side, device=boxes.device) for side in (height, width))
    in_rows = ((y >= top) & (y < top + h) & chosen.unsqueeze(1)).unsqueeze(2)
    in_columns = ((x >= left) & (x < left + w)).repeat_interleave(3, dim=1).unsqueeze(1)
    return in_rows & in_columns
