"""Gaussian blur with a width for each image, as products with two matrices: along the columns and the rows."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from reid.data.augment import BatchShape
from reid.data.draws import between, uniform

#: Pixels: a narrower blur changes nothing that can be seen.
NARROWEST = 0.1
#: So narrow that every pixel stays what it was, to the bit.
_NONE = 1e-3


@dataclass(frozen=True)
class RandomBlur:
    """Blur each image with `probability` by a Gaussian of sigma ~ U(0.1, `sigma`) pixels.

    As SimCLR has it (Chen et al., ICML 2020, arXiv 2002.05709, appendix A).  The kernel reaches to 3 `sigma`,
    and beyond the border the image is mirrored, as by torchvision's `gaussian_blur`.  `for_each` draws for
    each image, else once a batch.
    """

    probability: float
    sigma: float
    for_each: bool = True

    def draw(self, batch: BatchShape, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """(B,) bool: which images are blurred; and by which sigma (B,), in pixels."""
        chosen, sigma = uniform(2, batch, generator, self.for_each).T
        return chosen < self.probability, between(NARROWEST, self.sigma, sigma)

    def at_once(self, pixels: torch.Tensor, drawn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        chosen, sigma = drawn
        _, height, row = pixels.shape
        # In float64, since a GPU may keep 10 bits of float32 in a product.
        kernels = self._kernels(torch.where(chosen, sigma.double(), _NONE))
        along_columns, along_rows = (blurring(kernels, side) for side in (height, row // 3))
        blurred = (along_columns @ pixels.double()).unflatten(2, (-1, 3))
        return (along_rows[:, None] @ blurred).flatten(2).float()

    def one_by_one(
        self,
        images: Iterable[torch.Tensor],
        drawn: tuple[torch.Tensor, torch.Tensor],
        places: Sequence[torch.Tensor],
    ) -> Iterator[torch.Tensor]:
        height, row = places[0].shape
        chosen, sigma = drawn
        kernels = self._kernels(sigma)
        for number, (image, place, blurs) in enumerate(zip(images, places, chosen.tolist(), strict=True)):
            if not blurs:
                yield image
                continue
            kernel = kernels[number : number + 1]
            along_columns, along_rows = (blurring(kernel, side)[0] for side in (height, row // 3))
            blurred = torch.mm(along_columns, image.float()).unflatten(1, (-1, 3))
            torch.matmul(along_rows, blurred, out=place.unflatten(1, (-1, 3)))
            yield place

    def _kernels(self, sigma: torch.Tensor) -> torch.Tensor:
        """(B, 2 R + 1), each of sum 1."""
        reach = math.ceil(3 * self.sigma)
        places = torch.arange(-reach, reach + 1, device=sigma.device, dtype=sigma.dtype)
        return torch.softmax(-0.5 * (places / sigma[:, None]).square(), dim=1)


def blurring(kernels: torch.Tensor, side: int) -> torch.Tensor:
    """(B, side, side): what of each pixel goes to each of the result, by kernels (B, 2 R + 1)."""
    shifts = _shifts(kernels.shape[1] // 2, side, kernels.device).to(kernels.dtype)
    return (kernels @ shifts).unflatten(1, (side, side))


@cache
def _shifts(reach: int, side: int, device: torch.device) -> torch.Tensor:
    """(2 R + 1, side x side): for each place of a kernel a 1 where a pixel of the result takes one from."""
    places = torch.arange(side) + torch.arange(-reach, reach + 1)[:, None]
    period = max(1, 2 * (side - 1))
    places = (side - 1 - (places.remainder(period) - (side - 1)).abs()) if side > 1 else places * 0
    return torch.nn.functional.one_hot(places, side).flatten(1).float().to(device)
