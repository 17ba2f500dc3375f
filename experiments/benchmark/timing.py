"""Contestants timed in turn, so that what slows the machine down slows all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

#: A sample of a short function is so many calls that it lasts this long, in seconds.
SAMPLE_SECONDS = 0.1


class Disagreement(RuntimeError):
    """A reference computes something else than what it is the reference of."""


class Contest:
    """Functions that do the same job. Each is called once, to warm it up; `results` is what it returned."""

    def __init__(self, functions: Mapping[str, Callable[[], Any]]) -> None:
        self.functions = functions
        self.results: dict[str, Any] = {}
        self._once: dict[str, float] = {}
        for name, function in functions.items():
            start = time.perf_counter()
            self.results[name] = function()
            self._once[name] = time.perf_counter() - start

    def run(self, repeats: int) -> dict[str, list[float]]:
        """Seconds a call, `repeats` times for each contestant, in turn."""
        self.results.clear()  # they would take memory while others run
        seconds: dict[str, list[float]] = {name: [] for name in self.functions}
        for _ in range(repeats):
            for name, function in self.functions.items():
                calls = max(1, int(SAMPLE_SECONDS / max(self._once[name], 1e-6)))
                start = time.perf_counter()
                for _ in range(calls):
                    function()
                seconds[name].append((time.perf_counter() - start) / calls)
        return seconds


def agree(what: str, ours: float, reference: float, tolerance: float) -> None:
    """Raise Disagreement unless two numbers are equal to an absolute tolerance."""
    if not abs(ours - reference) <= tolerance:
        raise Disagreement(
            f"{what}: {ours!r} here, {reference!r} by the reference, allowed difference {tolerance:g}; "
            "a time of something else is worth nothing: find out which of the two is wrong"
        )
