"""Gaussian blur with a width for each image, along the columns and then along the rows."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from reid.data.augment import BatchShape
from reid.data.draws import between, uniform

#: Pixels: a narrower blur changes nothing that can be seen.
NARROWEST = 0.1


@dataclass(frozen=True)
class RandomBlur:
    """Blur each image with `probability` by a Gaussian of sigma ~ U(0.1, `sigma`) pixels.

    As SimCLR has it (Chen et al., ICML 2020, arXiv 2002.05709, appendix A).  A kernel reaches 3 of its own
    sigma far, in whole pixels, and beyond the border the image is mirrored, as by torchvision's
    `gaussian_blur`.  `for_each` draws for each image, else once a batch.
    """

    probability: float
    sigma: float
    for_each: bool = True

    def draw(self, batch: BatchShape, generator: torch.Generator) -> torch.Tensor:
        """(B, 2 R + 1): the kernel of each image, of sum 1; a 1 in its middle where nothing is blurred."""
        coin, width = uniform(2, batch, generator, self.for_each).T
        sigma = between(NARROWEST, self.sigma, width)
        reach = math.ceil(3 * self.sigma)
        places = torch.arange(-reach, reach + 1, device=batch.device)
        kernels = torch.exp(-0.5 * (places / sigma[:, None]).square())
        kernels = kernels.where(places.abs() <= (3 * sigma[:, None]).ceil(), 0)
        kernels = kernels / kernels.sum(1, keepdim=True)
        return torch.where((coin < self.probability)[:, None], kernels, (places == 0).float())

    def at_once(self, pixels: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        _, height, row = pixels.shape
        reach = drawn.shape[1] // 2
        shares = drawn.T[:, :, None, None].unbind()
        padded = pixels.float().index_select(1, mirrored(height, reach, pixels.device))
        down = weighted(shares, [padded[:, start : start + height] for start in range(len(shares))])
        padded = down.index_select(2, mirrored_columns(row // 3, reach, pixels.device))
        return weighted(shares, [padded[:, :, 3 * start :][:, :, :row] for start in range(len(shares))])

    def one_by_one(
        self, images: Iterable[torch.Tensor], drawn: torch.Tensor, places: Sequence[torch.Tensor]
    ) -> Iterator[torch.Tensor]:
        height, row = places[0].shape
        device = torch.device("cpu")
        for image, kernel in zip(images, drawn.tolist(), strict=True):
            shares = [share for share in kernel if share]
            reach = len(shares) // 2
            if not reach:
                yield image
                continue
            padded = image.float().index_select(0, mirrored(height, reach, device))
            down = weighted(shares, [padded[start : start + height] for start in range(len(shares))])
            padded = down.index_select(1, mirrored_columns(row // 3, reach, device))
            yield weighted(shares, [padded[:, 3 * start :][:, :row] for start in range(len(shares))])


def weighted(shares: Sequence[torch.Tensor | float], parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum of the parts, each times its share."""
    result = parts[0] * shares[0]
    for share, part in zip(shares[1:], parts[1:], strict=True):
        if isinstance(share, torch.Tensor):
            result.addcmul_(part, share)
        else:
            result.add_(part, alpha=share)
    return result


@cache
def mirrored(side: int, reach: int, device: torch.device) -> torch.Tensor:
    """(side + 2 reach,): the places of a side, mirrored at both ends without the border itself."""
    period = max(1, 2 * (side - 1))
    places = torch.arange(-reach, side + reach).remainder(period)
    return torch.minimum(places, period - places).to(device)


@cache
def mirrored_columns(width: int, reach: int, device: torch.device) -> torch.Tensor:
    """(3 (width + 2 reach),): the same of rows of pixels, three numbers each."""
    places = mirrored(width, reach, torch.device("cpu"))
    return (3 * places[:, None] + torch.arange(3)).flatten().to(device)
