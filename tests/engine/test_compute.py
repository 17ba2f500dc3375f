"""Where a run computes: the device, what goes there, and the compiled network."""

import copy
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from reid.config.checks import ConfigError
from reid.engine import compute
from reid.engine.compute import Compute, choose_device, free_bytes, work_bytes
from reid.engine.distributed import Processes
from reid.engine.runtime import require_compiler

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def test_a_gpu_has_its_number_and_torch_makes_it_current(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the driver's answers are replaced: torch's own code refuses a device without a number."""
    made_current: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch._C, "_cuda_setDevice", made_current.append, raising=False)
    for name, number in (("auto", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)):
        device = choose_device(name)
        assert device == torch.device("cuda", number), name
        torch.cuda.set_device(device)
    assert made_current == [0, 0, 0, 1]
    assert choose_device("cpu") == CPU
    with pytest.raises(ConfigError, match="PyTorch sees 2 GPUs here"):
        choose_device("cuda:2")


def test_pixels_go_to_a_gpu_where_a_quarter_of_its_memory_holds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "free_bytes", lambda _: 400)
    gpu, cpu = Compute(GPU), Compute(CPU)
    assert gpu.keep_resident(None, 100)
    assert not gpu.keep_resident(None, 101)
    assert not cpu.keep_resident(None, 1)
    assert cpu.keep_resident(True, 101)
    assert not gpu.keep_resident(False, 1)


def test_a_gpus_steps_go_by_what_is_free_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert work_bytes(CPU, 1234) == 1234
    for free, expected in ((2**20, 16 * 2**20), (2**33, 2**28), (2**37, 2**30)):
        monkeypatch.setattr(compute, "free_bytes", lambda _, free=free: free)
        assert work_bytes(GPU, 1234) == expected


def test_what_torch_keeps_and_does_not_use_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """After training, torch holds most of a GPU's memory, and gives it to an evaluation."""
    kept = {"reserved_bytes": {"all": {"current": 10}}, "allocated_bytes": {"all": {"current": 3}}}
    monkeypatch.setattr(torch.cuda, "_initialized", True)
    monkeypatch.setattr(torch._C, "_cuda_memoryStats", lambda _: kept, raising=False)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (4, 16))
    assert free_bytes(GPU) == 11


def test_a_module_is_placed_in_the_memory_format_of_the_run() -> None:
    for last in (True, False):
        images = nn.Conv2d(3, 4, 3)
        assert Compute(CPU, channels_last=last).place(images) is images
        assert images.weight.is_contiguous(memory_format=torch.channels_last) == last


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("float32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_the_precision_is_that_of_the_forward_pass(precision: str, dtype: torch.dtype) -> None:
    with Compute(CPU, precision).autocast():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == dtype


def test_a_cpu_has_no_stream_of_copies() -> None:
    assert Compute(CPU).copy_stream is None


def test_it_is_set_up_for_the_process_that_it_is_made_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of several processes takes the GPU of its own number, and has the switches set for it."""
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(compute, "set_up_backend", lambda *arguments: calls.append(arguments))
    second = Processes(1, 2, 1)
    made = Compute.set_up("auto", "bf16", channels_last=False, deterministic=True, processes=second)
    assert made == Compute(torch.device("cuda", 1), "bf16", channels_last=False, processes=second)
    assert calls == [(torch.device("cuda", 1), "bf16", False, True)]


@pytest.mark.slow
@pytest.mark.skipif(
    os.environ.get("ATEN_CPU_CAPABILITY") == "default", reason="refused, as the test above shows"
)
def test_a_compiled_network_has_the_same_parameters_outputs_and_gradients(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Torch's own cache does not tell vector units apart: what AVX-512 left there crashed a run kept to AVX2.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    require_compiler(CPU)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    other = copy.deepcopy(network)
    fast = Compute(CPU, compile=True).network(other)
    images = torch.randn(8, 3, 8, 8)
    results = []
    for one in (network, fast):
        one.train()
        output = one(images)
        output.square().sum().backward()
        results.append(output)
    torch.testing.assert_close(results[1], results[0])
    # What a checkpoint takes and the optimizer moves are those of the network itself.
    assert other.state_dict().keys() == network.state_dict().keys()
    for mine, theirs in zip(other.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    torch.testing.assert_close(other[1].running_mean, network[1].running_mean)
