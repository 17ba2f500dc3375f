"""A program that takes a re-ID network, as far as a file for it depends on that: one a file of `targets/`."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from reid.export import targets
from reid.normalisation import Channels, Normalisation


@dataclass(frozen=True)
class Target:
    """What a program does with a crop before the graph sees it, and with what the graph gives.

    Attributes:
        name: as `--for` takes it.
        program: its name in words.
        divisor, mean, std: the graph is given (pixel / divisor - mean) / std of pixels from 0 to 255.
        resize: `opencv`, bilinear without antialiasing, or `pil`, bilinear as the suite itself resizes.
        normalises: whether the program divides features by their L2 norm.
        note: what its user has to know, in a sentence.
        files: further files beside the graph, content by what is added to its name.
    """

    name: str
    program: str
    divisor: float
    mean: Channels
    std: Channels
    resize: Literal["opencv", "pil"]
    normalises: bool
    note: str
    files: Callable[[Mapping[str, Any]], dict[str, str]] = lambda facts: {}

    @property
    def pixels(self) -> str:
        """What the graph is given, in words."""
        by = f" / {self.divisor:g}" if self.divisor != 1 else ""
        if self.std == (1.0, 1.0, 1.0) and self.mean == (0.0, 0.0, 0.0):
            return f"RGB{by}, from 0 to {255 / self.divisor:g}"
        return f"(RGB{by} - mean) / std, with the mean and std of ImageNet"

    def inside(self, normalisation: Normalisation) -> tuple[Channels, Channels] | None:
        """Scale and shift that turn what the graph is given into what the suite gives its model.

        None where both are the same.
        """
        places = range(3)
        ours, shifts = normalisation.scale, normalisation.shift
        scale = [self.std[i] * self.divisor * ours[i] for i in places]
        shift = [self.mean[i] * self.divisor * ours[i] + shifts[i] for i in places]
        if max(abs(value - 1) for value in scale) < 1e-9 and max(map(abs, shift)) < 1e-9:
            return None
        return (scale[0], scale[1], scale[2]), (shift[0], shift[1], shift[2])


def target_names() -> tuple[str, ...]:
    """What `--for` takes: the modules of `reid.export.targets`."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(targets.__path__)))


def target_named(name: str) -> Target:
    """The target of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in target_names():
        raise ValueError(f"no target {name!r}: expected one of {', '.join(target_names())}")
    target: Target = importlib.import_module(f"{targets.__name__}.{name}").TARGET
    return target
