"""Peak resident memory, by the kernel's own count, of processes that do one thing each."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        [sys.executable, "-m", "experiments.benchmark.child", *words],
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
