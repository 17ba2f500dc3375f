"""A command on a pretended GPU: `python -m tests.gpu.driver MODULE word…`, or `-c CODE word…`.

Only what torch calls of the driver's is replaced (`DRIVER`); torch's own Python runs as it is.  The command
ends where the first tensor would be made on a GPU, and what is printed last says how far it came, as JSON:

    reached       the operation that would have made it and the device, or null: it ended before that
    ended         what ended it: an exception, or an exit code
    frames        where it was then, "file:function" of this project's code, the innermost last
    made_current  the devices that the driver was told to make current
"""

import json
import runpy
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parents[2]
GIB = 2**30
#: Two cards, as their driver would describe them.
COUNT = 2
CARD = SimpleNamespace(
    name="Pretended GPU", major=8, minor=0, total_memory=16 * GIB, multi_processor_count=108,
    uuid="00000000-0000", is_integrated=False, is_multi_gpu_board=False, warp_size=32, gcnArchName="",
)  # fmt: skip

made_current: list[int] = []


def _start() -> None:
    """What the driver's start leaves behind in torch.cuda."""
    # One generator a card. On the CPU, since none can be made there.
    generators: Any = tuple(torch.Generator() for _ in range(COUNT))
    torch.cuda.default_generators = generators


#: Name in torch._C or torch.cuda -> what answers instead of the driver.
DRIVER: dict[Any, Mapping[str, Any]] = {
    torch._C: {
        "_cuda_init": _start,
        "_cuda_getDeviceCount": lambda: COUNT,
        "_cuda_getDevice": lambda: made_current[-1] if made_current else 0,
        "_cuda_setDevice": made_current.append,
        "_cuda_exchangeDevice": lambda _: 0,
        "_cuda_maybeExchangeDevice": lambda _: 0,
        "_cuda_getArchFlags": lambda: "sm_80",
        "_cuda_getCompiledVersion": lambda: 13000,
        "_cuda_isInBadFork": lambda: False,
        "_cuda_emptyCache": lambda: None,
        "_cuda_memoryStats": lambda _: {},
        "_cuda_resetPeakMemoryStats": lambda _: None,
        "_cuda_synchronize": lambda: None,
    },
    torch.cuda: {
        "is_available": lambda: True,
        "device_count": lambda: COUNT,
        # A function of torch._C that the driver's start puts there.
        "_get_device_properties": lambda _: CARD,
        "get_device_properties": lambda *_: CARD,
        "mem_get_info": lambda *_: (12 * GIB, 16 * GIB),
        "_cudart": SimpleNamespace(),
    },
}


class FirstAllocation(BaseException):
    """No Exception, so that nobody takes it for a failure that can be reported and survived."""


class UpToAGpu(TorchDispatchMode):
    """Ends the program at the first operation whose result would lie on a GPU."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        device = (kwargs or {}).get("device")
        if device is not None and torch.device(device).type == "cuda":
            raise FirstAllocation(f"{function} on {device}")
        return function(*args, **(kwargs or {}))


def replace_driver() -> None:
    """Let torch meet two GPUs, in this process and for good."""
    for module, answers in DRIVER.items():
        for name, answer in answers.items():
            setattr(module, name, answer)


def _run(words: list[str]) -> None:
    """What `python -m word…`, or `python -c code word…`, does."""
    if words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(words[1], {"__name__": "__main__"})
        return
    sys.argv = list(words)
    sys.modules.pop(words[0], None)  # or runpy warns
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def main() -> None:
    replace_driver()
    reached: str | None = None
    ended, frames = "exit 0", []
    try:
        with UpToAGpu():
            _run(sys.argv[1:])
    except BaseException as error:
        if isinstance(error, FirstAllocation):
            reached = str(error)
        ended = f"exit {error.code}" if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
        frames = [
            f"{Path(frame.filename).relative_to(ROOT)}:{frame.name}"
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).is_relative_to(ROOT) and ".venv" not in frame.filename
        ]
        frames = [frame for frame in frames if not frame.startswith("tests/gpu/")]
    found = {"reached": reached, "ended": ended, "frames": frames, "made_current": made_current}
    print("\n" + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
