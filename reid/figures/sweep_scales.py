"""How the charts of a sweep order, scale, name and colour what they show."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.colors import Normalize

from reid.figures.style import WRONG

COLOURS = matplotlib.colormaps["viridis"]
CROSS: dict[str, Any] = {"color": WRONG, "markersize": 9, "markeredgewidth": 2.4}  # a failed run
FEW = 10  # at most so many values of a key get a tick, or a written score, each


def distinct_values(column: pd.Series) -> list[Any]:
    """The distinct values of a key: numbers sorted, choices in the order of the sweep."""
    distinct = column.unique().tolist()
    return sorted(distinct) if pd.api.types.is_numeric_dtype(column) else distinct


def named(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def is_log(values: Sequence[float] | npt.NDArray[np.float64]) -> bool:
    """Whether a key spans decades, as a learning rate does."""
    return bool(min(values) > 0 and max(values) >= 50 * min(values))


def normalise(scores: npt.NDArray[np.float64]) -> Normalize:
    done = scores[~np.isnan(scores)]
    low, high = (float(done.min()), float(done.max())) if len(done) else (0.0, 100.0)
    return Normalize(low, high) if high > low else Normalize(low - 0.5, high + 0.5)
