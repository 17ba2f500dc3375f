"""The published augmentation of a uint8 batch: a table of operations, each in two forms, for GPUs and CPUs.

Order, as published: (resize, done by the store) -> flip -> zero padding and random crop -> [0, 1] and
mean / std -> random erasing (Zhong et al., AAAI 2020, arXiv 1708.04896).

A GPU takes every operation for the whole batch at once; a CPU takes one image after the other through all of
them, so that it stays in the core's cache.  Both forms see an image as rows of pixels, (H, 3 W): this axis is
long and dense, which is what vector units and memory copies want, and several times faster on a CPU than the
same arithmetic over an axis of three channels.  Everything is drawn from the generator of the caller, without
a synchronisation, so the same generator state gives the same batch.
"""

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Protocol

import torch

from reid.normalisation import IMAGENET, Channels, Normalisation

#: What an erased box may hold, see `Augmentation`.
FILLS = ("published", "zero", "noise")
#: Of an erased box, as shares of the image and as height / width.
AREA = (0.02, 0.4)
RATIO = (0.3, 1 / 0.3)
TRIES = 100


@dataclass(frozen=True)
class Part:
    """The images at `rows` of a batch of `whole`: those of one process, where several share a batch.

    Chance is drawn for the whole batch and then cut: an image gets the same draws whoever prepares it.
    """

    whole: int
    rows: slice

    @classmethod
    def of(cls, whole: int, number: int = 0, count: int = 1) -> "Part":
        """The `number`-th, from 0, of `count` equal parts of a batch of `whole`, which `count` divides."""
        length = whole // count
        return cls(whole, slice(number * length, (number + 1) * length))


class BatchShape(NamedTuple):
    """The images that chance is drawn for: which of their batch, their size in pixels, and where they are."""

    part: Part
    height: int
    width: int
    device: torch.device


class Operation(Protocol):
    """One row of the table: a new one is a class like those below, in a file of its own, and has its place in
    `Augmentation.first` or `.coloured`.

    A new one draws nothing while it is switched off, so that the draws of the others stay as they were.
    Images are of 0 to 255 until they are normalised: uint8, and float32 from the crop on where a CPU takes
    them.
    """

    def draw(self, batch: BatchShape, generator: torch.Generator) -> Any:
        """What chance decides of the images of `batch`, drawn for the whole batch and cut to its part."""

    def at_once(self, pixels: torch.Tensor, drawn: Any) -> torch.Tensor:
        """The form for a GPU: (B, H, 3 W) -> (B, H, 3 W); the input stays as it is."""

    def one_by_one(
        self, images: Iterable[torch.Tensor], drawn: Any, places: Sequence[torch.Tensor]
    ) -> Iterator[torch.Tensor]:
        """The form for a CPU: B times (H, 3 W) -> (H, 3 W).

        A float32 image may be changed in place.  `places` (H, 3 W), float32, are where the images are wanted
        in the end; an operation may write there already.
        """


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training image.

    `flip` and `erasing` are probabilities, `padding` is in pixels on every side.  `fill` is what an erased
    box holds after normalisation: "published" (the mean's own numbers, which are no mean any more there, a
    quirk kept), "zero" or "noise".  Further operations come before all others (`first`) or between the crop
    and the normalisation (`coloured`).
    """

    flip: float = 0.5
    padding: int = 10
    erasing: float = 0.5
    fill: str = "published"
    normalisation: Normalisation = IMAGENET
    first: tuple[Operation, ...] = ()
    coloured: tuple[Operation, ...] = ()

    @property
    def operations(self) -> tuple[Operation, ...]:
        """The table, in the published order."""
        return (
            *self.first,
            RandomFlip(self.flip),
            RandomCrop(self.padding),
            *self.coloured,
            Normalise(self.normalisation),
            RandomErasing(self.erasing, self.fill, self.normalisation.mean),
        )

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
        if not isinstance(images, torch.Tensor):
            return self.one_by_one(images, generator, part)
        if images.device.type == "cpu":
            return self.one_by_one(images.permute(0, 2, 3, 1).unbind(), generator, part)
        return self.at_once(images, generator, part)

    def at_once(
        self, images: torch.Tensor, generator: torch.Generator, part: Part | None = None
    ) -> torch.Tensor:
        """The form for a GPU; `images` (B, 3, H, W) may lie on any device."""
        height, width = images.shape[2:]
        batch = BatchShape(part or _whole(images), height, width, images.device)
        pixels = pixel_rows(images)
        for operation in self.operations:
            pixels = operation.at_once(pixels, operation.draw(batch, generator))
        return images_of(pixels)

    def one_by_one(
        self, images: Sequence[torch.Tensor], generator: torch.Generator, part: Part | None = None
    ) -> torch.Tensor:
        """The form for a CPU, of images (H, W, 3): each goes through all operations before the next one."""
        height, width, _ = images[0].shape
        batch = BatchShape(part or _whole(images), height, width, images[0].device)
        drawn = [operation.draw(batch, generator) for operation in self.operations]
        result = torch.empty(len(images), height, 3 * width)
        places = result.unbind()
        augmented: Iterable[torch.Tensor] = (image.flatten(1) for image in images)
        for operation, draws in zip(self.operations, drawn, strict=True):
            augmented = operation.one_by_one(augmented, draws, places)
        for place, image in zip(places, augmented, strict=True):
            if image is not place:
                place.copy_(image)
        return images_of(result)


@dataclass(frozen=True)
class RandomFlip:
    """Mirror each image left to right with `probability`."""

    probability: float

    def draw(self, batch: BatchShape, generator: torch.Generator) -> torch.Tensor:
        """(B,) bool: which images are mirrored."""
        return _chosen(self.probability, batch, generator)

    def at_once(self, pixels: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        mirrored = pixels.unflatten(2, (-1, 3)).flip(2).flatten(2)
        source = torch.arange(len(pixels), device=pixels.device) + drawn * len(pixels)
        return torch.cat([pixels, mirrored]).index_select(0, source)

    def one_by_one(
        self, images: Iterable[torch.Tensor], drawn: torch.Tensor, places: Sequence[torch.Tensor]
    ) -> Iterator[torch.Tensor]:
        for image, chosen in zip(images, drawn.tolist(), strict=True):
            yield image.unflatten(1, (-1, 3)).flip(1).flatten(1) if chosen else image


@dataclass(frozen=True)
class RandomCrop:
    """Pad with black by `padding` pixels on every side and cut the original size out at random."""

    padding: int

    def draw(self, batch: BatchShape, generator: torch.Generator) -> torch.Tensor:
        """(2, B, 1) int64: top and left of each window in the padded image. Padding 0 draws nothing."""
        shape = 2, batch.part.whole, 1
        drawn = (
            torch.randint(2 * self.padding + 1, shape, generator=generator, device=batch.device)
            if self.padding
            else torch.zeros(shape, dtype=torch.int64, device=batch.device)
        )
        return drawn[:, batch.part.rows]

    def at_once(self, pixels: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        if self.padding == 0:
            return pixels
        batch, height, row = pixels.shape
        padding, device = self.padding, pixels.device
        padded = torch.nn.functional.pad(pixels, (3 * padding, 3 * padding, padding, padding))
        # Every run of W pixels in the padded batch, as a view; the rows of a window are H of them.
        runs = padded.flatten().unfold(0, row, 3)
        tops = torch.arange(batch, device=device).unsqueeze(1) * (height + 2 * padding) + drawn[0]
        starts = (tops + torch.arange(height, device=device)) * (row // 3 + 2 * padding) + drawn[1]
        return runs.index_select(0, starts.flatten()).view(batch, height, row)

    def one_by_one(
        self, images: Iterable[torch.Tensor], drawn: torch.Tensor, places: Sequence[torch.Tensor]
    ) -> Iterator[torch.Tensor]:
        height, row = places[0].shape
        # The image lies in the middle of a run of zeros. A window of it is a part of that run, except for the
        # columns beyond an edge of the image: there the run holds the next row's.
        margin = self.padding * (row + 3)
        run = torch.zeros(margin + height * row + margin)
        middle = run[margin : margin + height * row].view(height, row)
        for image, (top, left) in zip(images, drawn.flatten(1).T.tolist(), strict=True):
            middle.copy_(image)
            window = run.as_strided((height, row), (row, 1), top * row + 3 * left)
            beyond = 3 * (left - self.padding)
            if beyond:
                (window[:, :-beyond] if beyond < 0 else window[:, -beyond:]).zero_()
            yield window


@dataclass(frozen=True)
class Normalise:
    """Scale to [0, 1], then by a mean and a standard deviation.

    Computed as one multiplication and one addition: (x / 255 - mean) / std = x / (255 std) - mean / std.
    """

    by: Normalisation = IMAGENET

    def draw(self, batch: BatchShape, generator: torch.Generator) -> None:
        """Nothing is left to chance."""

    def at_once(self, pixels: torch.Tensor, drawn: None = None) -> torch.Tensor:
        scale, shift = self._constants(pixels)
        return torch.addcmul(shift, pixels.to(torch.float32), scale)

    def one_by_one(
        self, images: Iterable[torch.Tensor], drawn: None, places: Sequence[torch.Tensor]
    ) -> Iterator[torch.Tensor]:
        scale, shift = self._constants(places[0])
        for image, place in zip(images, places, strict=True):
            yield torch.addcmul(shift, image, scale, out=place)

    def _constants(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        width, device = pixels.shape[-1] // 3, pixels.device
        return per_column(self.by.scale, width, device), per_column(self.by.shift, width, device)


@dataclass(frozen=True)
class RandomErasing:
    """RandomErasing one box of each normalised image with `probability`.

    `fill` is one of FILLS: the `published` numbers, 0, or "noise", standard normal per value.
    """

    probability: float
    fill: str = "published"
    published: Channels = IMAGENET.mean

    def draw(self, batch: BatchShape, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes (B, 4) int64, top, left, h, w, with h = 0 where nothing is erased; and values (B, H, 3 W).

        The values are a view of few where they are all the same.  With probability 0 nothing is drawn.
        """
        part, height, width, device = batch
        boxes = torch.zeros(part.whole, 4, dtype=torch.int64, device=device)[part.rows]
        constant = self.published if self.fill == "published" else (0.0, 0.0, 0.0)
        values = per_column(constant, width, device).expand(len(boxes), height, -1)
        if self.probability == 0:
            return boxes, values
        chosen = _chosen(self.probability, batch, generator)
        boxes = erasing_boxes(part.whole, height, width, generator, device)[part.rows]
        if self.fill == "noise":
            shape = part.whole, height, 3 * width
            values = torch.randn(shape, generator=generator, device=device)[part.rows]
        return boxes.where(chosen[:, None], 0), values

    def at_once(self, pixels: torch.Tensor, drawn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        if self.probability == 0:
            return pixels
        boxes, values = drawn
        top, left, h, w = boxes.T.unsqueeze(2)
        _, height, row = pixels.shape
        y, x = (torch.arange(side, device=pixels.device) for side in (height, row // 3))
        in_rows = ((y >= top) & (y < top + h)).byte().unsqueeze(2)
        in_columns = ((x >= left) & (x < left + w)).byte().repeat_interleave(3, dim=1).unsqueeze(1)
        mask = (in_rows * in_columns).view(torch.bool)
        return torch.where(mask, values, pixels)

    def one_by_one(
        self,
        images: Iterable[torch.Tensor],
        drawn: tuple[torch.Tensor, torch.Tensor],
        places: Sequence[torch.Tensor],
    ) -> Iterator[torch.Tensor]:
        boxes, values = drawn
        for image, (top, left, h, w), value in zip(images, boxes.tolist(), values.unbind(), strict=True):
            if h:
                inside = slice(top, top + h), slice(3 * left, 3 * (left + w))
                image[inside] = value[inside]
            yield image


def erasing_boxes(
    count: int, height: int, width: int, generator: torch.Generator, device: torch.device
) -> torch.Tensor:
    """`random_boxes` of the areas and ratios that are erased: U(0.02, 0.4) of the image, U(0.3, 1/0.3)."""
    return random_boxes(count, height, width, generator, device, AREA, RATIO)


def random_boxes(
    count: int,
    height: int,
    width: int,
    generator: torch.Generator,
    device: torch.device,
    areas: tuple[float, float],
    ratios: tuple[float, float],
) -> torch.Tensor:
    """Draw `count` boxes (top, left, h, w), int64 (count, 4), in an image of `height` x `width` pixels.

    Area ~ U(areas) of the image, ratio = h / w ~ U(ratios), h = round(sqrt(area ratio)),
    w = round(sqrt(area / ratio)); drawn again, up to 100 times, unless h < height and w < width; the corner
    uniform over all that fit.  A box that never fitted is empty (h = w = 0).
    """
    draws = torch.rand(2, count, TRIES, generator=generator, device=device, dtype=torch.float64)
    area = (areas[0] + (areas[1] - areas[0]) * draws[0]) * (height * width)
    ratio = ratios[0] + (ratios[1] - ratios[0]) * draws[1]
    h, w = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
    fits = (h < height) & (w < width)
    first = fits.int().argmax(dim=1, keepdim=True)
    found = fits.gather(1, first)
    h, w = (side.gather(1, first).where(found, 0).squeeze(1) for side in (h, w))
    corner = torch.rand(2, count, generator=generator, device=device, dtype=torch.float64)
    top = (corner[0] * (height - h + 1)).floor().long()
    left = (corner[1] * (width - w + 1)).floor().long()
    return torch.stack([top, left, h, w], dim=1)


def normalise_pixels(images: torch.Tensor, by: Normalisation = IMAGENET) -> torch.Tensor:
    """uint8 (B, 3, H, W) -> float32: what `Normalise` makes of a batch that is not augmented."""
    return images_of(Normalise(by).at_once(pixel_rows(images)))


def pixel_rows(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) -> (B, H, 3 W); a view if the channels are last in memory, else a copy."""
    return images.permute(0, 2, 3, 1).flatten(2)


def images_of(rows: torch.Tensor) -> torch.Tensor:
    """(B, H, 3 W) -> (B, 3, H, W), a view with channels last in memory."""
    return rows.unflatten(2, (-1, 3)).permute(0, 3, 1, 2)


@cache
def per_column(values: tuple[float, ...], width: int, device: torch.device) -> torch.Tensor:
    """One value a channel as a row (3 W), float32; kept, since copying it to a GPU makes the host wait."""
    return torch.tensor(values, device=device).repeat(width)


def _whole(images: Sized) -> Part:
    """`images`, B of them, are all of their batch."""
    return Part.of(len(images))


def _chosen(probability: float, batch: BatchShape, generator: torch.Generator) -> torch.Tensor:
    """(B,) bool: each image with `probability`."""
    drawn = torch.rand(batch.part.whole, generator=generator, device=batch.device)
    return drawn[batch.part.rows] < probability
