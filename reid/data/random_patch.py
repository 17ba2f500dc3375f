"""Random patch: a piece of another image of the batch, put over a piece of this one."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from reid.data.augment import BatchShape, random_boxes
from reid.data.draws import uniform

#: Of a patch, as shares of the image and as height / width.
AREA = (0.01, 0.5)
RATIO = (0.1, 10.0)


class Patches(NamedTuple):
    """The patch of each image.

    `box` (B, 4) int64: top, left, h, w in the other image, with h = 0 where there is none; `corner` (B, 2):
    where its top and left come to lie; the `source` (B,) image; whether the patch is `mirrored` (B,).
    """

    box: torch.Tensor
    corner: torch.Tensor
    source: torch.Tensor
    mirrored: torch.Tensor


@dataclass(frozen=True)
class RandomPatch:
    """Put a patch of another image over each image with `probability`, half of them mirrored.

    As Zhou et al. (OSNet, arXiv 1910.06827) have it for re-ID, with areas of 1 to 50 % of the image and
    ratios of 0.1 to 10, but for two differences: patches come from the images of the same batch, as the store
    has them, and not from a pool of earlier ones, so that a resumed run needs no pool; and none is rotated.

    `for_each` draws for each image, else once a batch: the same box, of the image that lies as far behind.
    """

    probability: float
    for_each: bool = True

    def draw(self, batch: BatchShape, generator: torch.Generator) -> Patches:
        part, height, width, device = batch
        count = part.rows.stop - part.rows.start
        if count != part.whole:
            raise ValueError("random patches need all images of a batch in one process")
        drawn = uniform(5, batch, generator, self.for_each).double()
        box = random_boxes(count if self.for_each else 1, height, width, generator, device, AREA, RATIO)
        box = box.expand(count, -1)
        box = box.where(drawn[:, :1] < self.probability, 0)
        free = torch.stack([height - box[:, 2], width - box[:, 3]], dim=1)
        corner = (drawn[:, 1:3] * (free + 1)).floor().long()
        behind = 1 + (drawn[:, 3] * (count - 1)).floor().long()
        source = (torch.arange(count, device=device) + behind) % count
        return Patches(box, corner, source, drawn[:, 4] < 0.5)

    def at_once(self, pixels: torch.Tensor, drawn: Patches) -> torch.Tensor:
        count, height, row = pixels.shape
        width = row // 3
        top, left, h, w = drawn.box.T[:, :, None]
        down, right = drawn.corner.T[:, :, None]
        y, x = (torch.arange(side, device=pixels.device) for side in (height, width))
        inside_y, inside_x = y - down, x - right
        in_rows, in_columns = (inside_y >= 0) & (inside_y < h), (inside_x >= 0) & (inside_x < w)
        inside_x = torch.where(drawn.mirrored[:, None], w - 1 - inside_x, inside_x)
        from_y = (top + inside_y).clamp(0, height - 1)
        from_x = (left + inside_x).clamp(0, width - 1)
        place = (drawn.source[:, None] * height + from_y)[:, :, None] * width + from_x[:, None]
        colours = pixels.reshape(-1, 3)
        patch = colours.index_select(0, place.flatten()).view(count, height, row)
        mask = (in_rows[:, :, None] & in_columns[:, None]).repeat_interleave(3, dim=2)
        return torch.where(mask, patch, pixels)

    def one_by_one(
        self, images: Iterable[torch.Tensor], drawn: Patches, places: Sequence[torch.Tensor]
    ) -> Iterator[torch.Tensor]:
        originals = list(images)
        draws = zip(*(one.tolist() for one in drawn), strict=True)
        for image, ((top, left, h, w), (down, right), source, mirrored) in zip(originals, draws, strict=True):
            if not h:
                yield image
                continue
            patch = originals[source][top : top + h, 3 * left : 3 * (left + w)]
            if mirrored:
                patch = patch.unflatten(1, (-1, 3)).flip(1).flatten(1)
            patched = image.clone()
            patched[down : down + h, 3 * right : 3 * (right + w)] = patch
            yield patched
