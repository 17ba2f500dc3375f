"""Where a run computes and how it is seeded."""

import contextlib
import os
import random

import numpy as np
import torch

from reid.checks import ConfigError


def choose_device(name: str) -> torch.device:
    """`auto` is the first GPU, else the CPU; otherwise cpu, cuda or cuda:N.

    Raises:
        ConfigError: no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
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
    return device


def seed_everything(seed: int) -> None:
    """Seed what draws from global state: weight initialisation, dropout.

    The data path has generators of its own.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  a library may draw from it
    torch.manual_seed(seed)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """The forward pass in bf16 where it is asked for, plain float32 otherwise."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def set_up_backend(device: torch.device) -> None:
    """Let cuDNN time its algorithms: image sizes never change within a run."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
