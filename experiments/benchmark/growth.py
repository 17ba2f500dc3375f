"""How time grows with the work: the exponent that fits it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.benchmark.outcome import Goal

#: What an exponent of 1 may come out as.
MOST = 1.05


def exponent(work: Sequence[float], seconds: Sequence[float]) -> float:
    """The slope of log(seconds) over log(work), by least squares."""
    return float(np.polyfit(np.log(work), np.log(seconds), 1)[0])


def growth_goal(what: str, work: Sequence[float], seconds: Sequence[float]) -> Goal:
    """Time must not grow faster than `what`."""
    return Goal(f"exponent of time over {what}", exponent(work, seconds), MOST, "<=", "")
