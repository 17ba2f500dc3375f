"""AutoAugment and RandAugment: a few operations on an image, drawn from a table, by torchvision's kernels.

Torchvision's own classes draw from torch's global numbers and once for a whole batch.  Here each image has
its own draws from the generator of its step, and only the kernels are torchvision's.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torchvision.transforms.v2 import functional

from reid.data.augment import BatchShape
from reid.data.draws import uniform

#: An operation by its name, and how strong it is, in the numbers of its kernel.
Step: TypeAlias = tuple[str, float]

#: ImageNet's policy (AutoAugment, Cubuk et al., CVPR 2019, arXiv 1805.09501, table 9): pairs of operations,
#: each with its probability and the strength, one of ten (0 to 9); None where it has none.
_IMAGENET: tuple[tuple[tuple[str, float, int | None], tuple[str, float, int | None]], ...] = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, None)),
    (("equalize", 0.8, None), ("equalize", 0.6, None)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, None), ("solarize", 0.2, 4)),
    (("equalize", 0.4, None), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, None)),
    (("posterize", 0.8, 5), ("equalize", 1.0, None)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, None), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("saturation", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, None)),
    (("equalize", 0.0, None), ("equalize", 0.8, None)),
    (("invert", 0.6, None), ("equalize", 1.0, None)),
    (("saturation", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("saturation", 1.0, 2)),
    (("saturation", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, None)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, None)),
    (("saturation", 0.4, 0), ("equalize", 0.6, None)),
    (("equalize", 0.4, None), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, None)),
    (("invert", 0.6, None), ("equalize", 1.0, None)),
    (("saturation", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, None), ("equalize", 0.6, None)),
)
#: What RandAugment draws from.
_RANDOM = (
    "identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "saturation",
    "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize",
)  # fmt: skip
#: The strongest of each operation whose strength is drawn with a sign.
_SIGNED = {
    "shear_x": 0.3, "shear_y": 0.3, "translate_x": 150 / 331, "translate_y": 150 / 331, "rotate": 30.0,
    "brightness": 0.9, "saturation": 0.9, "contrast": 0.9, "sharpness": 0.9,
}  # fmt: skip
#: The strongest step of a RandAugment, which has 31 of them.
STRONGEST = 30


@dataclass(frozen=True)
class RandomPolicy:
    """Apply a policy to each image with `probability`; black comes in from beyond the border.

    kind: "autoaugment", ImageNet's policy (arXiv 1805.09501), or "randaugment" (arXiv 1909.13719):
        `operations` of 14 in turn, all of the strength `magnitude` of 0 to 30.
    for_each: draw for each image, else once a batch, as torchvision's transforms do.

    FastReID's SBS has AutoAugment with a probability of 0.1.  The host reads what is drawn, then sends the
    numbers of the images that have the same steps, as some kernels do with their own, so the thread that
    prepares a GPU's batches waits for these.
    """

    kind: str
    probability: float
    operations: int = 2
    magnitude: int = 9
    for_each: bool = True

    def draw(self, batch: BatchShape, generator: torch.Generator) -> list[tuple[Step, ...]]:
        """The steps of each image, () where it stays as it is."""
        steps, columns = self._randaugment, 2 * self.operations
        if self.kind == "autoaugment":
            steps, columns = self._autoaugment, 5  # which pair; of each, whether and with which sign
        rows = uniform(1 + columns, batch, generator, self.for_each).tolist()
        return [steps(row[1:], batch) if row[0] < self.probability else () for row in rows]

    def _autoaugment(self, drawn: Sequence[float], batch: BatchShape) -> tuple[Step, ...]:
        pair = _IMAGENET[int(drawn[0] * len(_IMAGENET))]
        chances, signs = drawn[1:3], drawn[3:]
        return tuple(
            (name, strength(name, (level or 0) / 9, sign < 0.5, batch))
            for (name, probability, level), chance, sign in zip(pair, chances, signs, strict=True)
            if chance < probability
        )

    def _randaugment(self, drawn: Sequence[float], batch: BatchShape) -> tuple[Step, ...]:
        names = [_RANDOM[int(one * len(_RANDOM))] for one in drawn[: self.operations]]
        signs = drawn[self.operations :]
        return tuple(
            (name, strength(name, self.magnitude / STRONGEST, sign < 0.5, batch))
            for name, sign in zip(names, signs, strict=True)
        )

    def at_once(self, pixels: torch.Tensor, drawn: list[tuple[Step, ...]]) -> torch.Tensor:
        images = pixels.unflatten(2, (-1, 3)).permute(0, 3, 1, 2)
        alike: defaultdict[tuple[Step, ...], list[int]] = defaultdict(list)
        for number, steps in enumerate(drawn):
            alike[steps].append(number)
        if list(alike) == [()]:
            return pixels
        result = images.clone()
        for steps, numbers in alike.items():
            if steps:
                rows = torch.tensor(numbers, device=pixels.device)
                result[rows] = _applied(steps, images[rows])
        return result.permute(0, 2, 3, 1).flatten(2)

    def one_by_one(
        self, images: Iterable[torch.Tensor], drawn: list[tuple[Step, ...]], places: Sequence[torch.Tensor]
    ) -> Iterator[torch.Tensor]:
        for image, steps in zip(images, drawn, strict=True):
            if steps:
                planes = image.unflatten(1, (-1, 3)).permute(2, 0, 1)
                yield _applied(steps, planes.contiguous()).permute(1, 2, 0).flatten(1)
            else:
                yield image


def strength(name: str, share: float, negative: bool, batch: BatchShape) -> float:
    """How strong an operation is at `share`, from 0 to 1, of its range, in the numbers of its kernel."""
    if name == "posterize":
        return 8.0 - round(4 * share)  # bits
    if name == "solarize":
        return 255 * (1 - share)  # the value from which pixels are inverted
    if name not in _SIGNED:
        return 0.0
    signed = _SIGNED[name] * share * (-1 if negative else 1)
    if name == "translate_x":
        return float(int(signed * batch.width))
    if name == "translate_y":
        return float(int(signed * batch.height))
    return signed


def _applied(steps: tuple[Step, ...], images: torch.Tensor) -> torch.Tensor:
    """uint8 (…, 3, H, W) -> the same, by each step in turn."""
    for name, value in steps:
        images = _KERNELS[name](images, value)
    return images


def _affine(
    images: torch.Tensor, across: float = 0, down: float = 0, shear: tuple[float, float] = (0, 0)
) -> torch.Tensor:
    """Moved by whole pixels, or sheared by tangents from the upper left corner."""
    angles = [math.degrees(math.atan(one)) for one in shear]
    centre = [0.0, 0.0] if any(shear) else None
    moved: torch.Tensor = functional.affine(
        images, angle=0.0, translate=[int(across), int(down)], scale=1.0, shear=angles, center=centre
    )
    return moved


_KERNELS: dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "identity": lambda images, _: images,
    "shear_x": lambda images, value: _affine(images, shear=(value, 0)),
    "shear_y": lambda images, value: _affine(images, shear=(0, value)),
    "translate_x": lambda images, value: _affine(images, across=value),
    "translate_y": lambda images, value: _affine(images, down=value),
    "rotate": lambda images, value: functional.rotate(images, value),
    "brightness": lambda images, value: functional.adjust_brightness(images, 1 + value),
    "saturation": lambda images, value: functional.adjust_saturation(images, 1 + value),
    "contrast": lambda images, value: functional.adjust_contrast(images, 1 + value),
    "sharpness": lambda images, value: functional.adjust_sharpness(images, 1 + value),
    "posterize": lambda images, value: functional.posterize(images, int(value)),
    "solarize": lambda images, value: functional.solarize(images, value),
    "autocontrast": lambda images, _: functional.autocontrast(images),
    "equalize": lambda images, _: functional.equalize(images),
    "invert": lambda images, _: functional.invert(images),
}
