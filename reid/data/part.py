"""The part of a batch that one process prepares, where several share a batch."""

from collections.abc import Sized
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """The images at `rows` of a batch of `whole`.

    Chance is drawn for the whole batch and then cut: an image gets the same draws whoever prepares it.
    """

    whole: int
    rows: slice

    @classmethod
    def of(cls, whole: int, number: int = 0, count: int = 1) -> "Part":
        """The `number`-th, from 0, of `count` equal parts of a batch of `whole`, which `count` divides."""
        length = whole // count
        return cls(whole, slice(number * length, (number + 1) * length))


def part_of(images: Sized, part: Part | None) -> Part:
    """`part`, or that `images`, B of them, are all of their batch."""
    return Part.of(len(images)) if part is None else part
