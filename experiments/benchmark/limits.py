"""How fast the machine can multiply and move numbers at best: what bounds every benchmark."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Limits:
    """Measured speeds: 1e9 float32 operations a second of a large matrix product, 1e9 bytes a second of a
    copy (read and written)."""

    gflops: float
    gigabytes: float

    def product_seconds(self, rows: int, columns: int, dimensions: int) -> float:
        """Least time of a (rows, dimensions) by (dimensions, columns) product."""
        return 2 * rows * columns * dimensions / self.gflops / 1e9

    def move_seconds(self, size: float) -> float:
        """Least time to read or write `size` bytes once."""
        return size / self.gigabytes / 1e9


def measure_limits(quick: bool) -> Limits:
    """Multiply two square matrices and copy an array that no cache holds, the median of several times."""
    side, size = (512, 2**22) if quick else (4096, 2**28)
    a, b = torch.rand(side, side), torch.rand(side, side)
    source, target = torch.rand(size), torch.empty(size)
    repeats = 3 if quick else 7
    gflops = 2 * side**3 / _median_seconds(lambda: torch.mm(a, b), repeats) / 1e9
    gigabytes = 2 * source.nbytes / _median_seconds(lambda: target.copy_(source), repeats) / 1e9
    return Limits(gflops, gigabytes)


def _median_seconds(function: Callable[[], object], repeats: int) -> float:
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
