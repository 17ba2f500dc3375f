"""Peak resident memory, by the kernel's own count, of processes that do one thing each.

Each is a start of this file: `python -m experiments.benchmark.memory MODULE FUNCTION JSON`.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reid.engine.runtime import set_up_backend
from reid.home import source_root

STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Child:
    """What a child process returned, and its peak of resident memory from its start to its end."""

    value: Any
    peak_mib: float


def peak_mib() -> float:
    """The most memory that this process has had resident so far (VmHWM, Linux), in MiB.

    `ru_maxrss` is not read, because a child begins with its parent's.
    """
    fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) / 1024


def in_child(function: Callable[..., Any], **arguments: Any) -> Child:
    """Call a function of a module in a fresh process; arguments and result must be JSON's.

    Raises:
        RuntimeError: the process failed; with the end of what it wrote.
    """
    words = [function.__module__, function.__qualname__, json.dumps(arguments)]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.benchmark.memory", *words],
        cwd=source_root(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        tail = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise RuntimeError(
            f"{words[0]}.{words[1]} in a process of its own ended with {done.returncode}: "
            f"{tail or 'it was killed, as the kernel does where memory runs out'}"
        )
    return Child(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Call the function, and print what it returned and the peak as the last line."""
    module, function, arguments = sys.argv[1:]
    set_up_backend(torch.device("cpu"))  # as the commands have it
    value = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    print(json.dumps({"value": value, "peak_mib": peak_mib()}))


if __name__ == "__main__":
    main()
