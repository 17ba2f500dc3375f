"""The machine that a benchmark runs on, and the code that it runs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import torch

from experiments.benchmark.limits import Limits
from reid.home import source_root
from reid.tracking import environment


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
