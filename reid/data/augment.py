"""The published augmentation of a uint8 batch, on the device that trains: all images at once on a GPU, one
after the other, each through all steps, on a CPU.

Order, as published: (resize, done by the store) -> flip -> zero padding and random crop -> [0, 1] ->
ImageNet mean / std -> random erasing.  Everything is drawn from the generator given, without a
synchronisation, so the same generator state gives the same batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from reid.data.erasing import draw_erasing, random_erasing
from reid.data.part import Part, part_of
from reid.data.rows import images_of, per_column, pixel_rows

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PIXEL_SCALE = tuple(1 / (255 * std) for std in IMAGENET_STD)
PIXEL_SHIFT = tuple(-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True))


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
        self,
        images: torch.Tensor | Sequence[torch.Tensor],
        generator: torch.Generator,
        part: Part | None = None,
    ) -> torch.Tensor:
        """uint8 (B, 3, H, W) -> float32 (B, 3, H, W), normalised, channels last in memory.

        On a CPU `images` may also be B images (H, W, 3), each where it lies.  `generator` lives on the device
        of `images`, which are left as they are.  `part` says which of a larger batch they are: they come out
        as they would in that batch.
        """
        part = part_of(images, part)
        if not isinstance(images, torch.Tensor):
            return self._one_by_one(images, generator, part)
        if images.device.type == "cpu":
            return self._one_by_one(images.permute(0, 2, 3, 1).unbind(), generator, part)
        images = random_flip(images, self.flip, generator, part)
        images = random_crop(images, self.padding, generator, part)
        floats = normalise_pixels(images)
        return random_erasing(floats, self.erasing, self.fill, generator, part)

    def _one_by_one(
        self, images: Sequence[torch.Tensor], generator: torch.Generator, part: Part
    ) -> torch.Tensor:
        """The same, an image (H, W, 3) at a time: it stays in the core's cache from one step to the next."""
        height, width, _ = images[0].shape
        row, device = 3 * width, images[0].device
        flips = draw_flips(self.flip, generator, part, device).tolist()
        offsets = draw_offsets(self.padding, generator, part, device).flatten(1).T.tolist()
        shape = len(images), height, row
        boxes, fills = draw_erasing(shape, self.erasing, self.fill, generator, part, device)
        scale, shift = (per_column(values, width, device) for values in (PIXEL_SCALE, PIXEL_SHIFT))
        augmented = torch.empty(shape)
        # The image lies in the middle of a run of zeros. A window of it is a part of that run, except for the
        # columns beyond an edge of the image: there the run holds the next row's.
        margin = self.padding * (row + 3)
        run = torch.zeros(margin + height * row + margin)
        middle = run.as_strided((height, width, 3), (row, 3, 1), margin)
        for image, flipped, (top, left), box, fill, out in zip(
            images, flips, offsets, boxes.tolist(), fills.unbind(), augmented.unbind(), strict=True
        ):
            middle.copy_(image.flip(1) if flipped else image)
            window = run.as_strided((height, row), (row, 1), top * row + 3 * left)
            beyond = 3 * (left - self.padding)
            if beyond:
                (window[:, :-beyond] if beyond < 0 else window[:, -beyond:]).zero_()
            torch.addcmul(shift, window, scale, out=out)
            top, left, h, w = box
            if h:
                inside = slice(top, top + h), slice(3 * left, 3 * (left + w))
                out[inside] = fill[inside]
        return images_of(augmented)


def normalise_pixels(images: torch.Tensor) -> torch.Tensor:
    """uint8 (B, 3, H, W) -> float32: scaled to [0, 1], then by ImageNet's mean and standard deviation.

    Computed as one multiplication and one addition: (x / 255 - mean) / std = x / (255 std) - mean / std.
    """
    width = images.shape[3]
    scale = per_column(PIXEL_SCALE, width, images.device)
    shift = per_column(PIXEL_SHIFT, width, images.device)
    return images_of(torch.addcmul(shift, pixel_rows(images).to(torch.float32), scale))


def random_flip(
    images: torch.Tensor, probability: float, generator: torch.Generator, part: Part | None = None
) -> torch.Tensor:
    """Mirror each image left to right with `probability`."""
    chosen = draw_flips(probability, generator, part_of(images, part), images.device)
    both = torch.cat([pixel_rows(images), pixel_rows(images.flip(3))])
    source = torch.arange(len(images), device=images.device) + chosen * len(images)
    return images_of(both.index_select(0, source))


def random_crop(
    images: torch.Tensor, padding: int, generator: torch.Generator, part: Part | None = None
) -> torch.Tensor:
    """Pad with black by `padding` pixels on every side and cut the original size out at random."""
    if padding == 0:
        return images
    batch, _, height, width = images.shape
    device = images.device
    offsets = draw_offsets(padding, generator, part_of(images, part), device)
    padded = torch.nn.functional.pad(pixel_rows(images), (3 * padding, 3 * padding, padding, padding))
    # Every run of W pixels in the padded batch, as a view; the rows of a window are H of them.
    runs = padded.flatten().unfold(0, 3 * width, 3)
    tops = torch.arange(batch, device=device).unsqueeze(1) * (height + 2 * padding) + offsets[0]
    starts = (tops + torch.arange(height, device=device)) * (width + 2 * padding) + offsets[1]
    return images_of(runs.index_select(0, starts.flatten()).view(batch, height, 3 * width))


def draw_flips(
    probability: float, generator: torch.Generator, part: Part, device: torch.device
) -> torch.Tensor:
    """(B,) bool: which images are mirrored."""
    return torch.rand(part.whole, generator=generator, device=device)[part.rows] < probability


def draw_offsets(padding: int, generator: torch.Generator, part: Part, device: torch.device) -> torch.Tensor:
    """(2, B, 1) int64: top and left of each window in the padded image. Without padding nothing is drawn."""
    drawn = (
        torch.randint(2 * padding + 1, (2, part.whole, 1), generator=generator, device=device)
        if padding
        else torch.zeros(2, part.whole, 1, dtype=torch.int64, device=device)
    )
    return drawn[:, part.rows]
