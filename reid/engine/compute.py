"""Where and how a run computes: its device, its precision, and the processes that train together."""

import contextlib
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar, cast

import torch
from torch import nn

from reid import limits
from reid.config.checks import ConfigError
from reid.engine.distributed import ALONE, Processes
from reid.engine.runtime import set_up_backend

#: Bounds of what a step of an evaluation takes on a GPU.
SMALLEST_WORK, LARGEST_WORK = 16 * 2**20, 2**30

#: What autocast computes in; the other precisions are float32.
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Compute:
    """Device, precision, memory format, compilation and processes: what travels together, made once.

    A command makes it by `set_up`, which changes its process; a library call by `Compute(device)`, which
    changes nothing.
    """

    device: torch.device
    precision: str = "float32"
    channels_last: bool = True
    compile: bool = False
    processes: Processes = ALONE

    @classmethod
    def set_up(
        cls,
        device: str,
        precision: str = "float32",
        *,
        channels_last: bool = True,
        compile: bool = False,
        deterministic: bool = False,
        processes: Processes = ALONE,
    ) -> "Compute":
        """For a command's own process: choose the device and set torch's switches for it.

        device: auto, cpu, cuda or cuda:N; several processes take one GPU each.

        Raises:
            ConfigError: there is no such device, or it cannot do what is asked.
        """
        chosen = choose_device(processes.device(device))
        set_up_backend(chosen, precision, compile, deterministic)
        return cls(chosen, precision, channels_last, compile, processes)

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def place(self, module: M) -> M:
        """`module` on the device and in the memory format; in place."""
        module.to(self.device)
        if self.channels_last:
            module.to(memory_format=torch.channels_last)
        return module

    def network(self, model: nn.Module, find_unused: bool = False) -> nn.Module:
        """`model` as it is trained: by all processes together, compiled where that is asked for.

        It has the same parameters. find_unused: some of them may not take part in its output.
        """
        network = self.processes.parallel(model, self.device, find_unused)
        return cast(nn.Module, torch.compile(network)) if self.compile else network

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The forward pass in bf16 or fp16 where that is the precision, plain float32 otherwise."""
        if self.precision in _AUTOCAST:
            return torch.autocast(self.device.type, dtype=_AUTOCAST[self.precision])
        return contextlib.nullcontext()

    @cached_property
    def copy_stream(self) -> "torch.cuda.Stream | None":
        """The stream that prepares batches on a GPU; None on a CPU.

        One for all batches: torch keeps freed memory by stream and gives it to no other.
        """
        return torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def free_bytes(self) -> int:
        """The memory that this process can still get on the device."""
        return free_bytes(self.device)

    def keep_resident(self, wanted: bool | None, size: int) -> bool:
        """Whether the training pixels, `size` bytes, go to the device.

        As wanted; None: on a GPU where a quarter of its free memory holds them, since activations need the
        rest.
        """
        if wanted is not None:
            return wanted
        return self.device.type == "cuda" and size <= self.free_bytes() // 4


def choose_device(name: str) -> torch.device:
    """`auto` is the first GPU, else the CPU; otherwise cpu, cuda (the first GPU) or cuda:N.

    Raises:
        ConfigError: no such device on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device={name} is not allowed: expected auto, cpu, cuda or cuda:N.") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device={name} is not allowed: expected auto, cpu, cuda or cuda:N.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device={name}: PyTorch sees {torch.cuda.device_count()} GPUs here. Set device=auto or cpu, or "
            "install a CUDA build of torch."
        )
    # With its number: torch makes no device current that has none, and tensors lie on cuda:0, not on cuda.
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def free_bytes(device: torch.device) -> int:
    """The memory that this process can still get there, on a GPU with what torch keeps and does not use."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    return limits.free_memory()


def work_bytes(device: torch.device, usual: int) -> int:
    """What a step of an evaluation aims to take at once: `usual`, or on a GPU a part of what is free there.

    Large steps keep a GPU busy. Re-ranking holds four such pieces: an eighth of the free memory in all. What
    is free differs from run to run, and with the size of a product its rounding: a run that has to repeat
    takes what is usual.
    """
    if device.type != "cuda" or torch.are_deterministic_algorithms_enabled():
        return usual
    return max(SMALLEST_WORK, min(LARGEST_WORK, free_bytes(device) // 32))
