"""What pixels go through before a network sees them: their mean and standard deviation."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

#: One number for each of red, green and blue.
Channels: TypeAlias = tuple[float, float, float]


class Normalisation(NamedTuple):
    """(x - mean) / std, of pixels x from 0 to 1; a channel each."""

    mean: Channels
    std: Channels

    @property
    def scale(self) -> Channels:
        """With `shift`: (x / 255 - mean) / std = x * scale + shift, of pixels x from 0 to 255."""
        red, green, blue = (1 / (255 * std) for std in self.std)
        return red, green, blue

    @property
    def shift(self) -> Channels:
        red, green, blue = (-mean / std for mean, std in zip(self.mean, self.std, strict=True))
        return red, green, blue

    def from_other(self, other: Normalisation) -> tuple[Channels, Channels]:
        """Scale and shift that turn pixels normalised by `other` into pixels normalised by this one."""
        scale = [theirs / ours for theirs, ours in zip(other.std, self.std, strict=True)]
        shift = [
            (theirs - ours) / std for theirs, ours, std in zip(other.mean, self.mean, self.std, strict=True)
        ]
        return (scale[0], scale[1], scale[2]), (shift[0], shift[1], shift[2])

    def describe(self) -> str:
        """As a model card says it: `mean 0.5 0.5 0.5, std 0.5 0.5 0.5`."""
        mean, std = (" ".join(f"{one:g}" for one in channels) for channels in self)
        return f"mean {mean}, std {std}"


#: ImageNet's, which the published recipe takes.
IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
