"""What the tests of indexes share: facts of no model, and features of drawn people."""

from typing import Any

import numpy as np
import numpy.typing as npt

from reid.gallery import Facts, Row
from reid.judging.stored_threshold import FeatureSpace

Floats = npt.NDArray[np.float32]
SIZE = 24


def facts(**changes: Any) -> Facts:
    values = {
        "model": "a" * 64, "size": SIZE, "space": FeatureSpace("euclidean", True, "after"),
        "preprocessing": {"height": 256, "width": 128},
    }  # fmt: skip
    return Facts(**{**values, **changes})


def drawn(count: int, seed: int = 0, unit: bool = True) -> Floats:
    """Features of people: 5 images each around a centre of their own."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(-(-count // 5), SIZE))
    found = np.repeat(centres, 5, axis=0)[:count] + 0.3 * random.normal(size=(count, SIZE))
    if unit:
        found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found.astype(np.float32)


def rows(count: int, first: int = 0) -> list[Row]:
    return [
        Row(f"/crops/{number}.jpg", number // 5, number % 3, float(number))
        for number in range(first, first + count)
    ]
