"""The published augmentation, on a whole uint8 batch at once and on the device that trains.

Order, as published: (resize, done by the store) -> flip -> zero padding and random crop -> [0, 1] ->
ImageNet mean / std -> random erasing.  Everything is drawn from the generator given, without a
synchronisation, so the same generator state gives the same batch.
"""

from dataclasses import dataclass

import torch

from reid.data.erasing import random_erasing
from reid.data.part import Part, part_of
from reid.data.rows import images_of, per_column, pixel_rows

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PIXEL_SCALE = tuple(1 / (255 * std) for std in IMAGENET_STD)
PIXEL_SHIFT = tuple(-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True))

#: So many images of 256x128 in float32 stay in a core's cache.
IN_CACHE = 2


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training image.

    `flip` and `erasing` are probabilities, `padding` is in pixels on every side.  `fill` is what an erased
    box holds after normalisation: "published" (the mean's own numbers, a quirk kept), "zero" or "noise".
    """

    flip: float = 0.5
    padding: int = 10
    erasing: float = 0.5
    fill: str = "published"

    def __call__(
        self, images: torch.Tensor, generator: torch.Generator, part: Part | None = None
    ) -> torch.Tensor:
        """uint8 (B, 3, H, W) -> float32 (B, 3, H, W), normalised, channels last in memory.

        `generator` lives on the device of `images`, which are left as they are.  `part` says which of a
        larger batch they are: they come out as they would in that batch.
        """
        images = random_flip(images, self.flip, generator, part)
        images = random_crop(images, self.padding, generator, part)
        floats = normalise_pixels(images)
        return random_erasing(floats, self.erasing, self.fill, generator, part, in_place=True)


def normalise_pixels(images: torch.Tensor) -> torch.Tensor:
    """uint8 (B, 3, H, W) -> float32: scaled to [0, 1], then by ImageNet's mean and standard deviation.

    Computed as one multiplication and one addition: (x / 255 - mean) / std = x / (255 std) - mean / std.
    """
    width = images.shape[3]
    scale = per_column(PIXEL_SCALE, width, images.device)
    shift = per_column(PIXEL_SHIFT, width, images.device)
    rows = pixel_rows(images)
    if rows.device.type != "cpu":
        return images_of(torch.addcmul(shift, rows.to(torch.float32), scale))
    # Few images at a time: as floats they then stay in the core's cache, and memory is written to once.
    normalised = torch.empty(rows.shape)
    floats = torch.empty(IN_CACHE, *rows.shape[1:])
    for out, pixels in zip(normalised.split(IN_CACHE), rows.split(IN_CACHE), strict=True):
        torch.addcmul(shift, floats[: len(pixels)].copy_(pixels), scale, out=out)
    return images_of(normalised)


def random_flip(
    images: torch.Tensor, probability: float, generator: torch.Generator, part: Part | None = None
) -> torch.Tensor:
    """Mirror each image left to right with `probability`."""
    part = part_of(images, part)
    chosen = torch.rand(part.whole, generator=generator, device=images.device)[part.rows] < probability
    return flip_one_by_one(images, chosen) if images.device.type == "cpu" else flip_all(images, chosen)


def flip_all(images: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Mirror those of the images (B) that are chosen, without asking the device which they are."""
    both = torch.cat([pixel_rows(images), pixel_rows(images.flip(3))])
    source = torch.arange(len(images), device=images.device) + chosen * len(images)
    return images_of(both.index_select(0, source))


def flip_one_by_one(images: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """The same where asking costs nothing: on a CPU, in a third of the time."""
    rows = pixel_rows(images).clone()
    for image in chosen.nonzero().flatten().tolist():
        rows[image] = pixel_rows(images[image : image + 1].flip(3))[0]
    return images_of(rows)


def random_crop(
    images: torch.Tensor, padding: int, generator: torch.Generator, part: Part | None = None
) -> torch.Tensor:
    """Pad with black by `padding` pixels on every side and cut the original size out at random."""
    if padding == 0:
        return images
    batch, _, height, width = images.shape
    device = images.device
    part = part_of(images, part)
    drawn = torch.randint(2 * padding + 1, (2, part.whole, 1), generator=generator, device=device)
    offsets = drawn[:, part.rows]
    padded = torch.nn.functional.pad(pixel_rows(images), (3 * padding, 3 * padding, padding, padding))
    # Every run of W pixels in the padded batch, as a view; the rows of a window are H of them.
    runs = padded.flatten().unfold(0, 3 * width, 3)
    tops = torch.arange(batch, device=device).unsqueeze(1) * (height + 2 * padding) + offsets[0]
    starts = (tops + torch.arange(height, device=device)) * (width + 2 * padding) + offsets[1]
    return images_of(runs.index_select(0, starts.flatten()).view(batch, height, 3 * width))
