"""`python -m tests.benchmark.forking …`: the benchmarks, whose processes are forked instead of started anew.

Each would import PyTorch for seconds. `in_child` itself is tested in test_references.py.
"""

import importlib
import multiprocessing
import sys
from collections.abc import Callable
from typing import Any

from experiments.benchmark import memory


def forked(function: Callable[..., Any], **arguments: Any) -> memory.Child:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return memory.Child(*pool.apply(_measured, (function, arguments)))


def _measured(function: Callable[..., Any], arguments: dict[str, Any]) -> tuple[Any, float]:
    return function(**arguments), memory.peak_mib()


if __name__ == "__main__":
    memory.in_child = forked  # before a benchmark takes it from there
    sys.exit(importlib.import_module("experiments.benchmark.__main__").main())
