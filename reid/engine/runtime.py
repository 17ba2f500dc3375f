"""Where a run computes and how it is seeded."""

import contextlib
import ctypes
import random
import shutil
import sys
from typing import cast

import numpy as np
import psutil
import torch
from torch import nn

from reid.checks import ConfigError

#: Bounds of what a step of an evaluation takes on a GPU.
SMALLEST_WORK, LARGEST_WORK = 16 * 2**20, 2**30

# The numbers that glibc's malloc.h gives to mallopt's parameters.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


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
    return int(psutil.virtual_memory().available)


def work_bytes(device: torch.device, usual: int) -> int:
    """What a step of an evaluation aims to take at once: `usual`, or on a GPU a part of what is free there.

    Large steps keep a GPU busy. Re-ranking holds four such pieces: an eighth of the free memory in all.
    """
    if device.type != "cuda":
        return usual
    return max(SMALLEST_WORK, min(LARGEST_WORK, free_bytes(device) // 32))


def seed_everything(seed: int) -> None:
    """Seed what draws from global state: weight initialisation, dropout.

    The data path has generators of its own.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  a library may draw from it
    torch.manual_seed(seed)


def keep_resident(asked: bool | None, size: int, device: torch.device) -> bool:
    """Whether the training pixels, `size` bytes, go to the device.

    As asked, or on a GPU where a quarter of its free memory holds them: activations need the rest.
    """
    return device.type == "cuda" and size <= free_bytes(device) // 4 if asked is None else asked


def require_compiler(device: torch.device) -> None:
    """Raises ConfigError where torch.compile would not find the C++ compiler that it needs on a CPU."""
    if device.type == "cpu" and not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        raise ConfigError(
            "compile=true on a CPU needs a C++ compiler (g++ or clang++), and there is none here. Install "
            "one, or set compile=false"
        )


def compiled(network: nn.Module) -> nn.Module:
    """`network` by torch.compile: the same parameters, rounded otherwise on the way."""
    return cast(nn.Module, torch.compile(network))


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """The forward pass in bf16 where it is asked for, plain float32 otherwise."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def set_up_backend(device: torch.device, precision: str = "float32", compile: bool = False) -> None:
    """Let cuDNN time its algorithms, since image sizes never change within a run; on a CPU, keep memory.

    Call it before the first tensor is computed with, for what `flush_denormals` says.

    TensorFloat-32, which torch would use in convolutions, is a choice of its own: under `float32` nothing is
    computed so, and neither is under `bf16` what autocast leaves in float32, distances above all.

    Raises:
        ConfigError: `compile`, on a CPU without a compiler.
    """
    if compile:
        require_compiler(device)
    flush_denormals()
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    else:
        _keep_freed_memory()


def flush_denormals() -> None:
    """Let the CPU take numbers below 1.2e-38 for zero.

    Channels that die during training leave such weights and activations behind, with which it computes many
    times slower: the same step of MobileNetV2 took 0.45 s with fresh weights, 0.95 s after 16 epochs, and
    0.46 s flushed.  Torch sets it for the calling thread, and threads started from there have it: those that
    it computes with start at the first large tensor.
    """
    torch.set_flush_denormal(True)


def _keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks: it would unmap every large activation and fault it in again each step.

    MobileNetV2 at 128x64 on two cores: 147,000 page faults a step without, 1,500 with, and 1.2 times
    the images per second.  Nothing happens where the C library is another one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_TOP_PAD, 2**26)
