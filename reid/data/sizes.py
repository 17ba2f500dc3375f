"""Progressive resizing: which size each epoch of a run trains at, as `image.sizes` says it.

Small images first make an epoch cheap, and large ones at the end give the details (EfficientNetV2, Tan and
Le, ICML 2021, arXiv 2104.00298, section 4).  All sizes are made of one store, which holds the largest, and a
model is judged at image.height x image.width, whatever it was trained at.
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

#: Of an image, in pixels: a larger one is a slip, and would take all memory.
SMALLEST_SIDE, LARGEST_SIDE = 16, 4096
#: `64x32`, `64x32@9` for 9 epochs, or `64x32@0.4` for 40 % of them.
_STAGE = re.compile(r"(\d+)x(\d+)(?:@(\d+|\d*\.\d+))?")
_FORM = (
    "expected HEIGHTxWIDTH each, or HEIGHTxWIDTH@LENGTH with a length in whole epochs or as a share of the "
    "run below 1, as in image.sizes=[64x32@0.4,128x64]"
)


class ImageSize(NamedTuple):
    """Height and width of a training image, and the padding around it, in pixels."""

    height: int
    width: int
    padding: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


class _Stage(NamedTuple):
    height: int
    width: int
    length: str  # as it was written, "" where it was not


def largest_size(stages: Sequence[str]) -> tuple[int, int]:
    """The height and width that a store needs for all of these stages.

    Raises:
        ValueError: a stage is written wrongly.
    """
    parsed = [_parsed(stage) for stage in stages]
    return max(stage.height for stage in parsed), max(stage.width for stage in parsed)


def epoch_sizes(stages: Sequence[str], epochs: int, height: int, padding: int) -> tuple[ImageSize, ...]:
    """The size of each epoch of a run; () without stages.

    Stages without a length share equally what the others leave, and each begins at a whole epoch.  `padding`
    is that of images of `height` pixels; others have it in proportion to their height, and at least 1 where
    it is not 0.

    Raises:
        ValueError: a stage is written wrongly, or they do not fill the run.
    """
    if not stages:
        return ()
    parsed = [_parsed(stage) for stage in stages]
    known = [_length(stage, epochs) for stage in parsed]
    left = epochs - sum(length for length in known if length is not None)
    open_stages = known.count(None)
    lengths = [left / open_stages if length is None else length for length in known]
    ends = [math.floor(sum(lengths[: number + 1]) + 0.5) for number in range(len(lengths))]
    counts = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    if ends[-1] != epochs:
        raise ValueError(
            f"the stages have {ends[-1]} epochs together, and the run has {epochs}. Give the last one no "
            "length, and it lasts to the end"
        )
    if min(counts) < 1:
        raise ValueError(
            f"{stages[counts.index(min(counts))]} would get less than one of {epochs} epochs. Take fewer "
            "stages, or more epochs"
        )
    sizes: list[ImageSize] = []
    for stage, count in zip(parsed, counts, strict=True):
        scaled = max(1, math.floor(padding * stage.height / height + 0.5)) if padding else 0
        sizes += [ImageSize(stage.height, stage.width, scaled)] * count
    return tuple(sizes)


def _parsed(stage: str) -> _Stage:
    match = _STAGE.fullmatch(str(stage))
    if match is None:
        raise ValueError(f"{stage!r} is no stage: {_FORM}")
    height, width, length = match.groups(default="")
    for side in (height, width):
        if not SMALLEST_SIDE <= int(side) <= LARGEST_SIDE:
            raise ValueError(
                f"{stage!r} is no stage: expected sides from {SMALLEST_SIDE} to {LARGEST_SIDE} pixels"
            )
    return _Stage(int(height), int(width), length)


def _length(stage: _Stage, epochs: int) -> float | None:
    """In epochs; None where the stage takes its part of what is left."""
    if not stage.length:
        return None
    length = float(stage.length)
    if "." in stage.length and not 0 < length < 1:
        raise ValueError(f"a length of {stage.length} is neither whole epochs nor a share below 1: {_FORM}")
    return length * epochs if "." in stage.length else length
