"""The published augmentation, on a whole uint8 batch at once and on the device that trains.

Order, as published: (resize, done by the store) -> flip -> zero padding and random crop -> [0, 1] ->
ImageNet mean / std -> random erasing.  Everything is drawn from the generator given, without a
synchronisation, so the same generator state gives the same batch.
"""

from dataclasses import dataclass

import torch

from reid.data.erasing import random_erasing

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


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

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """uint8 (B, 3, H, W) -> float32 (B, 3, H, W), normalised, on the same device.

        `generator` lives on the device of `images`.
        """
        images = random_flip(images, self.flip, generator)
        images = random_crop(images, self.padding, generator)
        floats = normalise_pixels(images)
        return random_erasing(floats, self.erasing, self.fill, generator)


def normalise_pixels(images: torch.Tensor) -> torch.Tensor:
    """uint8 (B, 3, H, W) -> float32: scaled to [0, 1], then by ImageNet's mean and standard deviation."""
    mean = torch.tensor(IMAGENET_MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=images.device).view(1, 3, 1, 1)
    return images.to(torch.float32).div_(255).sub_(mean).div_(std)


def random_flip(images: torch.Tensor, probability: float, generator: torch.Generator) -> torch.Tensor:
    """Mirror each image left to right with `probability`."""
    chosen = torch.rand(len(images), generator=generator, device=images.device) < probability
    return torch.where(chosen.view(-1, 1, 1, 1), images.flip(3), images)


def random_crop(images: torch.Tensor, padding: int, generator: torch.Generator) -> torch.Tensor:
    """Pad with black by `padding` pixels on every side and cut the original size out at random."""
    if padding == 0:
        return images
    batch, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    offsets = torch.randint(2 * padding + 1, (2, batch), generator=generator, device=images.device)
    # All windows as a view, (B, 2p+1, 2p+1, 3, H, W): the gather copies only those that were drawn.
    windows = padded.unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5)
    rows = torch.arange(batch, device=images.device)
    return windows[rows, offsets[0], offsets[1]].contiguous(memory_format=torch.channels_last)
