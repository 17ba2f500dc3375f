"""What a command sets in its own process, and no library call in its caller's: switches, threads, seeds."""

import contextlib
import ctypes
import os
import random
import shutil
import sys
from collections.abc import Iterator

import numpy as np
import torch

from reid import limits
from reid.config.checks import ConfigError
from reid.distance import full_products

# The numbers that glibc's malloc.h gives to mallopt's parameters.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4

# With one of these, cuBLAS sums in the same order each time (its manual, "Results Reproducibility").
_CUBLAS, _CUBLAS_REPEATS = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")


def seed_everything(seed: int) -> None:
    """Seed what draws from global state: weight initialisation, dropout.

    The data path has generators of its own.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  a library may draw from it
    torch.manual_seed(seed)


def require_compiler(device: torch.device) -> None:
    """Raises ConfigError where torch.compile could not build its C++ for a CPU."""
    if device.type == "cpu" and not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        raise ConfigError(
            "compile=true on a CPU needs a C++ compiler (g++ or clang++), and there is none here. Install "
            "one, or set compile=false"
        )
    if device.type == "cpu" and os.environ.get("ATEN_CPU_CAPABILITY") == "default":
        raise ConfigError(
            "compile=true and ATEN_CPU_CAPABILITY=default in the environment exclude each other: what torch "
            "generates uses vector units. Unset the variable, or set compile=false"
        )


def set_up_process() -> None:
    """What a command does to its own process, and no library call does to its caller's: numbers too small to
    matter are zero, and there are no more threads than cores that it may use.

    Call it before the first tensor is computed with, for what `flush_denormals` says.
    """
    flush_denormals()
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > limits.cores():
        torch.set_num_threads(limits.cores())


def set_up_backend(
    device: torch.device, precision: str = "float32", compile: bool = False, deterministic: bool = False
) -> None:
    """Let cuDNN time its algorithms, since image sizes never change within a run; on a CPU, keep memory.

    For a process that is a command's own: it changes all of it, `set_up_process` included.

    TensorFloat-32, which torch would use in convolutions, is a choice of its own: under `float32` nothing is
    computed so, and neither is under `bf16` and `fp16` what autocast leaves in float32.

    deterministic: the same numbers each time on a GPU too; a CPU gives them anyhow.  `restored_switches` ends
    it, and says in words what has no such form.

    Raises:
        ConfigError: what the device, or a computation that repeats, cannot do.
    """
    if compile:
        require_compiler(device)
    set_up_process()
    if device.type != "cuda":
        _keep_freed_memory()
        return
    torch.cuda.set_device(device)
    if precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(
            f"precision=bf16: {device} ({torch.cuda.get_device_name(device)}) has no units for it and would "
            "be slower than in float32. Set precision=fp16"
        )
    if deterministic:
        _require_repeats(device, compile)
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"


def _require_repeats(device: torch.device, compile: bool) -> None:
    if compile:
        raise ConfigError(
            "deterministic=true with compile=true: torch.compile chooses kernels by timing them, so the next "
            "run may round otherwise. Set one of them to false"
        )
    configured = os.environ.get(_CUBLAS)
    if configured is None and torch.cuda.memory_stats(device).get("allocation.all.allocated", 0):
        raise ConfigError(
            f"deterministic=true: something computed on {device} in this process before, and from then on "
            f"cuBLAS keeps to its own order. Write {_CUBLAS}={_CUBLAS_REPEATS[0]} before the command"
        )
    if configured not in (None, *_CUBLAS_REPEATS):
        raise ConfigError(
            f"deterministic=true with {_CUBLAS}={configured} in the environment is not possible: expected "
            f"{' or '.join(_CUBLAS_REPEATS)}, or leave it unset"
        )
    # It stays set after the job: cuBLAS reads it once, when the first product is computed.
    os.environ.setdefault(_CUBLAS, _CUBLAS_REPEATS[0])


@contextlib.contextmanager
def restored_switches() -> Iterator[None]:
    """A job whose `deterministic` ends with it: the jobs of a sweep share their process.

    Raises:
        ConfigError: under `deterministic`, an operation that has no form that repeats.
    """
    mode = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        yield
    except RuntimeError as error:
        operation, refused, _ = str(error).partition(" does not have a deterministic implementation")
        if not refused:
            raise
        raise ConfigError(
            f"deterministic=true: {operation} has no form here that gives the same numbers each time. Set "
            "deterministic=false, or leave out the part of the network or loss that computes it"
        ) from error
    finally:
        torch.use_deterministic_algorithms(mode, warn_only=warns)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn


@contextlib.contextmanager
def borrowed_process() -> Iterator[None]:
    """A block in which a job sets all that a command sets in its own process; afterwards it is as it was.

    The job computes as in a process of its own: OpenMP's threads, which keep what `set_up_process` sets from
    their start on, begin anew.
    """
    threads, flushed = torch.get_num_threads(), _flushes_denormals()
    on_gpu = torch.cuda.is_initialized()
    device = torch.cuda.current_device() if on_gpu else 0
    drawn_from = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    drawn_on_gpus = torch.cuda.get_rng_state_all() if on_gpu else []
    switches = []
    for holder, name in _switches():
        with contextlib.suppress(RuntimeError):  # torch does not say where old and new names contradict
            switches.append((holder, name, getattr(holder, name)))
    _restart_threads()
    try:
        with restored_switches(), _modes_of_a_new_process():
            yield
    finally:
        for holder, name, value in switches:
            with contextlib.suppress(RuntimeError):
                if getattr(holder, name) != value:
                    setattr(holder, name, value)
        random.setstate(drawn_from[0])
        np.random.set_state(drawn_from[1])  # noqa: NPY002
        torch.set_rng_state(drawn_from[2])
        if torch.cuda.is_initialized():
            torch.cuda.set_device(device)
            if on_gpu:
                torch.cuda.set_rng_state_all(drawn_on_gpus)
        torch.set_num_threads(threads)
        torch.set_flush_denormal(flushed)
        _restart_threads()
        _give_freed_memory_back()


@contextlib.contextmanager
def _modes_of_a_new_process() -> Iterator[None]:
    """A block in torch's own modes: a notebook may have turned gradients off, or chosen another dtype."""
    dtype = torch.get_default_dtype()
    with contextlib.ExitStack() as modes:
        modes.enter_context(torch.inference_mode(False))
        modes.enter_context(torch.enable_grad())
        modes.enter_context(full_products())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                modes.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            modes.enter_context(torch.device("cpu"))
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


def _switches() -> list[tuple[object, str]]:
    """What `set_up_backend` sets; the names that are new since torch 2.9 last."""
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    newer = [products, *(getattr(cudnn, part, None) for part in ("conv", "rnn"))]
    return [
        (cudnn, "allow_tf32"),
        (products, "allow_tf32"),
        *((switch, "fp32_precision") for switch in newer if hasattr(switch, "fp32_precision")),
    ]


def _flushes_denormals() -> bool:
    """Whether the calling thread takes numbers below 1.2e-38 for zero: torch does not tell."""
    return torch.tensor(1e-39, dtype=torch.float32, device="cpu").mul(1.0).item() == 0


def _restart_threads() -> None:
    """End the threads that OpenMP keeps for the calling thread: the next ones inherit what it has set."""
    pause = getattr(ctypes.CDLL(None), "omp_pause_resource_all", None) if os.name == "posix" else None
    if pause is not None:
        pause(1)  # omp_pause_soft


@contextlib.contextmanager
def library_call(device: torch.device) -> Iterator[None]:
    """A block that computes on `device` in float32 as a command does, in a process that is somebody else's:
    whatever it sets is as it was when it ends."""
    with torch.autocast(device.type, enabled=False), full_products():
        if device.type != "cuda":
            yield
            return
        with torch.cuda.device(device), _full_convolutions():
            yield


@contextlib.contextmanager
def _full_convolutions() -> Iterator[None]:
    """A block in which cuDNN rounds nothing to TensorFloat-32, as torch lets it do by itself."""
    cudnn = torch.backends.cudnn
    switches = [switch for name in ("conv", "rnn") if (switch := getattr(cudnn, name, None)) is not None]
    kept = [switch.fp32_precision for switch in switches]  # since torch 2.9
    try:
        before = cudnn.allow_tf32
    except RuntimeError:  # somebody has set the switches alone, and torch will not say
        before = None
    cudnn.allow_tf32 = False
    try:
        yield
    finally:
        if before is not None:
            cudnn.allow_tf32 = before
        for switch, precision in zip(switches, kept, strict=True):
            if switch.fp32_precision != precision:
                switch.fp32_precision = precision


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
    _mallopt({_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 2**26})


def _give_freed_memory_back() -> None:
    """Let glibc do as it does by itself (these are its defaults, since it tells nobody what is set)."""
    _mallopt({_M_MMAP_MAX: 65536, _M_TRIM_THRESHOLD: 2**17, _M_TOP_PAD: 2**17})


def _mallopt(values: dict[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for name, value in values.items():
            mallopt(name, value)
