"""Where a run computes: what goes to the device, and the compiled network."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from reid.checks import ConfigError
from reid.engine import runtime
from reid.engine.runtime import compiled, keep_resident, require_compiler

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_pixels_go_to_a_gpu_where_a_quarter_of_its_memory_holds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "free_bytes", lambda _: 400)
    assert keep_resident(None, 100, GPU)
    assert not keep_resident(None, 101, GPU)
    assert not keep_resident(None, 1, CPU)
    assert keep_resident(True, 101, CPU)
    assert not keep_resident(False, 1, GPU)


def test_denormal_numbers_are_zero_in_every_thread() -> None:
    # In a process of its own: threads that torch has already started keep what they have.
    look = (
        "import torch; from reid.engine.runtime import set_up_backend;"
        "set_up_backend(torch.device('cpu')); print(torch.full((4_000_000,), 1e-39).mul(1.0).count_nonzero())"
    )
    told = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "tensor(0)"


def test_compiling_without_a_compiler_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.shutil, "which", lambda _: None)
    with pytest.raises(ConfigError, match=r"compile=true on a CPU needs a C\+\+ compiler"):
        require_compiler(CPU)
    require_compiler(GPU)


@pytest.mark.slow
def test_a_compiled_network_has_the_same_parameters_outputs_and_gradients() -> None:
    require_compiler(CPU)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    other = copy.deepcopy(network)
    fast = compiled(other)
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
