"""What a command sets in its own process, and what a library call leaves as it was."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

from reid.config.checks import ConfigError
from reid.engine import runtime
from reid.engine.compute import work_bytes
from reid.engine.runtime import (
    borrowed_process,
    library_call,
    require_compiler,
    restored_switches,
    seed_everything,
    set_up_backend,
    set_up_process,
)

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@dataclass
class Properties:
    """What the driver says of a GPU."""

    major: int
    name: str = "a GPU"


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[Properties]:
    """A GPU of which only the driver's answers are pretended; torch's switches are put back."""
    properties = Properties(major=8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: properties)
    monkeypatch.setattr(torch.cuda, "_initialized", True)  # as after the driver's own start
    monkeypatch.setattr(torch._C, "_cuda_memoryStats", lambda _: {}, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_setDevice", lambda _: None, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: 0, raising=False)
    monkeypatch.setattr(runtime, "flush_denormals", lambda: None)  # it would outlive the test
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    tf32 = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    with restored_switches():
        yield properties
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = tf32


def switches() -> tuple[bool, ...]:
    """What `deterministic` sets."""
    cudnn = torch.backends.cudnn
    return torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16", "fp16"])
def test_products_are_rounded_to_tf32_under_that_precision_alone(
    precision: str, pretended: Properties
) -> None:
    set_up_backend(GPU, precision)
    rounded = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    assert rounded == 2 * (precision == "tf32",)


def test_a_library_call_rounds_nothing_and_leaves_no_trace(
    pretended: Properties, monkeypatch: pytest.MonkeyPatch
) -> None:
    current = [0]

    def exchange(number: int) -> int:
        current.append(number)
        return current[-2]

    monkeypatch.setattr(torch.cuda, "_exchange_device", exchange)
    monkeypatch.setattr(torch.cuda, "_maybe_exchange_device", exchange)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    with library_call(torch.device("cuda", 1)):
        assert current[-1] == 1
        assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (False, False)
    assert current[-1] == 0
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (True, True)


def test_a_gpu_without_bf16_is_refused_and_fp16_named(pretended: Properties) -> None:
    pretended.major, pretended.name = 7, "Tesla T4"
    for precision in ("float32", "tf32", "fp16"):
        set_up_backend(GPU, precision)
    with pytest.raises(ConfigError, match=r"precision=bf16: cuda:0 \(Tesla T4\) .* Set precision=fp16"):
        set_up_backend(GPU, "bf16")


def test_a_deterministic_job_ends_with_its_switches(pretended: Properties) -> None:
    """The jobs of a sweep share their process."""
    set_up_backend(GPU)
    assert switches() == (False, False, True)
    with restored_switches():
        set_up_backend(GPU, deterministic=True)
        assert switches() == (True, True, False)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert switches() == (False, False, True)
    set_up_backend(CPU, deterministic=True)
    assert switches() == (False, False, True)


def test_the_steps_of_a_deterministic_evaluation_do_not_go_by_what_is_free(pretended: Properties) -> None:
    set_up_backend(GPU, deterministic=True)
    assert work_bytes(GPU, 1234) == 1234


def test_what_has_no_deterministic_form_is_refused_in_words(pretended: Properties) -> None:
    """put_ has none on a CPU either, so that the message is torch's own."""
    with pytest.raises(ConfigError, match=r"^deterministic=true: put_ has no form"), restored_switches():
        set_up_backend(GPU, deterministic=True)
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))
    assert switches() == (False, False, False)
    with pytest.raises(RuntimeError, match=r"^another mistake$"), restored_switches():
        raise RuntimeError("another mistake")


def test_what_cannot_repeat_on_a_gpu_is_refused(
    pretended: Properties, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="deterministic=true with compile=true"):
        set_up_backend(GPU, compile=True, deterministic=True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(ConfigError, match=r"CUBLAS_WORKSPACE_CONFIG=:0:0 .* expected :4096:8 or :16:8"):
        set_up_backend(GPU, deterministic=True)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda _: {"allocation.all.allocated": 1})
    with pytest.raises(ConfigError, match="something computed on cuda:0 in this process before"):
        set_up_backend(GPU, deterministic=True)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.slow
def test_there_are_no_more_threads_than_cores_unless_somebody_set_it(monkeypatch: pytest.MonkeyPatch) -> None:
    look = (
        "import torch; from reid import limits; from reid.engine.runtime import set_up_process;"
        "torch.set_num_threads(5); limits.cores = lambda: 2; set_up_process(); print(torch.get_num_threads())"
    )
    for value, threads in ((None, "2"), ("5", "5")):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if value is not None:
            monkeypatch.setenv("OMP_NUM_THREADS", value)
        answer = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
        assert answer.stdout.strip() == threads


@pytest.mark.slow
def test_denormal_numbers_are_zero_in_every_thread() -> None:
    # In a process of its own: threads that torch has already started keep what they have.
    look = (
        "import torch; from reid.engine.runtime import set_up_backend;"
        "set_up_backend(torch.device('cpu')); print(torch.full((4_000_000,), 1e-39).mul(1.0).count_nonzero())"
    )
    answer = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "tensor(0)"


def test_threads_look_for_each_other_less_often_unless_somebody_set_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = "import os, sys, reid; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    for value, expected in ((None, "20000 False"), ("7", "7 False")):  # set later, OpenMP would not see it
        monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
        if value is not None:
            monkeypatch.setenv("GOMP_SPINCOUNT", value)
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert answer.stdout.strip() == expected


def test_compiling_without_a_compiler_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.shutil, "which", lambda _: None)
    with pytest.raises(ConfigError, match=r"compile=true on a CPU needs a C\+\+ compiler"):
        require_compiler(CPU)
    require_compiler(GPU)
    monkeypatch.undo()
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    with pytest.raises(ConfigError, match="compile=true and ATEN_CPU_CAPABILITY=default"):
        require_compiler(CPU)
    require_compiler(GPU)


def denormals_by_thread() -> list[bool]:
    """Whether each half of a large tensor, computed by a thread of its own, keeps numbers below 1.2e-38."""
    kept = torch.full((2**20,), 1e-39).mul(1.0) > 0
    return [bool(half.all()) for half in kept.chunk(2)]


def test_a_borrowed_process_computes_as_a_command_and_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    # As in a fresh process, whatever libraries the tests before have loaded.
    torch.set_flush_denormal(False)
    runtime._restart_threads()
    random.seed(5)
    torch.manual_seed(5)
    expected = random.random(), torch.rand(1).item()
    try:
        assert denormals_by_thread() == [True, True]  # the threads have begun, without what a command sets
        random.seed(5)
        torch.manual_seed(5)
        with borrowed_process():
            set_up_process()
            seed_everything(1)
            torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = True
            assert denormals_by_thread() == [False, False]
        assert denormals_by_thread() == [True, True]
        assert (random.random(), torch.rand(1).item()) == expected
        assert torch.get_num_threads() == 2
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.set_num_threads(threads)


def test_a_borrowed_process_trains_whatever_modes_a_notebook_has_set() -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.inference_mode(), torch.autocast("cpu"), borrowed_process():
            out = torch.nn.Linear(3, 3)(torch.ones(2, 3))
            assert (out.dtype, out.device.type, out.requires_grad) == (torch.float32, "cpu", True)
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_default_dtype() == torch.float64
        assert torch.get_default_device().type == "meta"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
        torch.set_float32_matmul_precision("highest")
