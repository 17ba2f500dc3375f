"""The machine that a benchmark runs on: how fast it multiplies and moves numbers at best, and what it is."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch

from reid.home import source_root
from reid.tracking import environment


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


def describe(limits: Limits) -> dict[str, Any]:
    """Processor, cores, threads, memory, versions, code and date, with the measured limits."""
    tags = environment(source_root()).tags
    return {
        "cpu": tags["reid.cpu"],
        "cores": int(tags["reid.cpu_count"]),
        "threads": torch.get_num_threads(),
        "memory_gb": float(tags["reid.memory_gb"]),
        "gpu": tags["reid.gpu"],
        "os": tags["reid.os"],
        "python": tags["reid.version.python"],
        "torch": tags["reid.version.torch"],
        "numpy": tags["reid.version.numpy"],
        "git_sha": tags["reid.git.sha"],
        "git_dirty": tags.get("reid.git.dirty") == "true",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "gflops": round(limits.gflops, 1),
        "gigabytes_per_second": round(limits.gigabytes, 1),
    }
