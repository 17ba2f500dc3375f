"""Seeded choices: one independent stream for each thing that is drawn."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
#: Images and coordinates; float32 throughout.
Floats = NDArray[np.floating[Any]]

#: What a stream is for: the third number of its key, after the seed and the domain.
IDENTITY, CAMERA, SCENE, TRACK, SHOT, SENSOR, PLAN = range(7)


class Dice:
    """Random choices of one purpose, keyed by non-negative integers (seed, domain, purpose, index, …).

    Only uniform doubles are drawn from the generator: they are the stream that numpy changes least, and a
    comparison of one with a constant comes out the same everywhere.
    """

    def __init__(self, *key: int) -> None:
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))

    def between(self, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        return low + (high - low) * self._generator.random()

    def below(self, count: int) -> int:
        """Uniform integer in [0, count)."""
        return int(self._generator.random() * count)

    def chance(self, probability: float) -> bool:
        """True that often."""
        return self._generator.random() < probability

    def pick(self, options: Sequence[T], weights: Sequence[float] | None = None) -> T:
        """One of the options; `weights` sum to 1, and each option is as likely as any when left out."""
        if weights is None:
            return options[self.below(len(options))]
        at = self._generator.random()
        for option, weight in zip(options, weights, strict=True):
            at -= weight
            if at < 0:
                return option
        return options[-1]

    def sample(self, count: int, size: int) -> list[int]:
        """`size` different integers of [0, count), in a random order."""
        left = list(range(count))
        return [left.pop(self.below(len(left))) for _ in range(size)]

    def grain(self, *shape: int) -> Floats:
        """Noise of mean 0 and standard deviation 1, near enough to normal: three uniforms summed."""
        total = self._generator.random((3, *shape), dtype=np.float32).sum(axis=0)
        return (total - np.float32(1.5)) * np.float32(2.0)
