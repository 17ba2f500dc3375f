"""Colour jitter and grey images, as one matrix of three by three and one offset an image.

With l = (0.299, 0.587, 0.114) and luma y(x) = l x of a pixel x from 0 to 255, the jitter is, in this order,

    brightness   x -> b x                          b ~ U(1 - brightness, 1 + brightness)
    contrast     x -> c x + (1 - c) mean(y)        c ~ U(1 - contrast, 1 + contrast), the mean over the image
    saturation   x -> s x + (1 - s) y(x)           s ~ U(1 - saturation, 1 + saturation)
    hue          x -> turned about the greys       by 360 h degrees, h ~ U(-hue, hue)

as in torchvision's `ColorJitter`, but for three differences that make it a single product: the order is
fixed, values are cut to [0, 255] at the end alone, and a hue turns in the plane of YIQ's colours, which keeps
the luma, where torchvision turns HSV's angle.  The amounts are FastReID's (arXiv 2006.02631).  A grey image
has its luma in all three channels, as SimCLR drops colours (arXiv 2002.05709, appendix A).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch

from reid.data.augment import BatchShape
from reid.data.draws import between, uniform

LUMA = (0.299, 0.587, 0.114)
#: From red, green and blue to the two colours of YIQ (NTSC, 1953).
_I, _Q = (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)


class Recolouring(NamedTuple):
    """Of each image: `matrix` (B, 3, 3), how much of its mean luma is added (B,), whether it is changed."""

    matrix: torch.Tensor
    of_mean: torch.Tensor
    chosen: torch.Tensor


@dataclass(frozen=True)
class RandomColour:
    """Jitter the colours of an image with `probability`, and make it grey with the probability `grey`.

    `for_each` draws for each image, else once a batch, as torchvision's transforms do.
    """

    probability: float
    brightness: float
    contrast: float
    saturation: float
    hue: float
    grey: float
    for_each: bool = True

    def draw(self, batch: BatchShape, generator: torch.Generator) -> Recolouring:
        jitter, brightness, contrast, saturation, hue, grey = uniform(6, batch, generator, self.for_each).T
        jittered, greyed = jitter < self.probability, grey < self.grey
        b, c, s = (
            between(1 - amount, 1 + amount, drawn)
            for amount, drawn in (
                (self.brightness, brightness), (self.contrast, contrast), (self.saturation, saturation),
            )
        )  # fmt: skip
        matrix = colour_matrix(b * c, s, 2 * math.pi * between(-self.hue, self.hue, hue))
        eye = torch.eye(3, device=matrix.device)
        matrix = torch.where(jittered[:, None, None], matrix, eye)
        grey_matrix = luma_weights(matrix.device).expand(3, 3)
        matrix = torch.where(greyed[:, None, None], grey_matrix @ matrix, matrix)
        return Recolouring(matrix, torch.where(jittered, b * (1 - c), 0), jittered | greyed)

    def at_once(self, pixels: torch.Tensor, drawn: Recolouring) -> torch.Tensor:
        colours = pixels.float().unflatten(2, (-1, 3))
        offset = (colours.mean(dim=(1, 2)) * luma_weights(pixels.device)).sum(1) * drawn.of_mean
        red, green, blue = (one.unsqueeze(3) for one in colours.unbind(3))
        # Not a product of matrices, of which a GPU may keep 10 bits.
        rows = drawn.matrix[:, None, None]
        result = red * rows[..., 0] + green * rows[..., 1] + blue * rows[..., 2]
        return (result + offset[:, None, None, None]).clamp_(0, 255).flatten(2)

    def one_by_one(
        self, images: Iterable[torch.Tensor], drawn: Recolouring, places: Sequence[torch.Tensor]
    ) -> Iterator[torch.Tensor]:
        luma = luma_weights(places[0].device)
        matrices = drawn.matrix.mT.contiguous().unbind()
        shares, chosen = drawn.of_mean.tolist(), drawn.chosen.tolist()
        for number, (image, place) in enumerate(zip(images, places, strict=True)):
            if not chosen[number]:
                yield image
                continue
            colours = image.view(-1, 3).float()
            result = place.view(-1, 3)
            torch.mm(colours, matrices[number], out=result)
            if shares[number]:
                result += (colours.mean(0) * luma).sum() * shares[number]
            yield place.clamp_(0, 255)


def colour_matrix(scale: torch.Tensor, saturation: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """(B, 3, 3), float32: a pixel's colours times `scale`, saturated, and turned by `angle` in radians; (B,)
    each."""
    to_yiq, back = yiq_matrices(scale.device)
    turned = torch.zeros(len(scale), 3, 3, dtype=torch.float64, device=scale.device)
    cos, sin = angle.double().cos() * saturation, angle.double().sin() * saturation
    turned[:, 0, 0] = 1
    turned[:, 1, 1], turned[:, 1, 2] = cos, -sin
    turned[:, 2, 1], turned[:, 2, 2] = sin, cos
    return (scale[:, None, None] * (back @ turned @ to_yiq)).float()


@cache
def luma_weights(device: torch.device) -> torch.Tensor:
    """`LUMA`, (3,), float32; kept, since copying it to a GPU makes the host wait."""
    return torch.tensor(LUMA, device=device)


@cache
def yiq_matrices(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """From red, green and blue to YIQ and back, (3, 3) each, float64; kept as `luma_weights` is."""
    to_yiq = torch.tensor([LUMA, _I, _Q], dtype=torch.float64)
    return to_yiq.to(device), torch.linalg.inv(to_yiq).to(device)
