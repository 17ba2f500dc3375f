"""Every command on a pretended GPU, up to the first tensor that would lie there: see driver.py.

What lies behind that is shown by test_step.py and test_values.py as far as a CPU can, and by `make gpu-check`
where there is a GPU; experiments/gpu_check/README.md lists what only that shows.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from composing import settings_of
from conftest import ROOT, Runner

from reid.data import silent
from reid.engine.checkpoint import Checkpoint, save_checkpoint
from reid.engine.describe import build_model, checkpoint_meta
from reid.engine.prepare import open_training_data, read_dataset

DRIVER = "tests.gpu.driver"


@dataclass(frozen=True)
class Found:
    """What the driver printed."""

    reached: str | None
    ended: str
    frames: list[str]
    made_current: list[int]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def on_a_gpu(tiny: list[str]) -> list[str]:
    """The overrides of a run on the tiny set, with the device left to `auto`."""
    return [word for word in tiny if not word.startswith("device=")]


@pytest.fixture(scope="module")
def checkpoint(home: Path, tiny: list[str]) -> Path:
    """A model before its first step."""
    settings = settings_of(*tiny)
    dataset, crops, _ = read_dataset(settings, silent)
    data = open_training_data(dataset, settings, silent, crops)
    model = build_model(settings, len(data.pids))
    path = home / "model.pt"
    save_checkpoint(path, Checkpoint(model.state_dict(), checkpoint_meta(settings, data, model), {}))
    return path


def pretended(run_command: Runner, home: Path, *words: object) -> Found:
    """What became of a command there."""
    done = run_command(DRIVER, *map(str, words), home=home)
    lines = [
        line for line in done.stdout.splitlines() if line.startswith("{")
    ]  # a sweep's report comes after
    assert lines, done.stderr
    return Found(**json.loads(lines[-1]))


def assert_reached(found: Found, file: str, current: list[int]) -> None:
    """It came to the first tensor on cuda:0, in this file, and these devices had been made current."""
    assert found.reached is not None, f"{found.ended} in {found.frames[-1:]}"
    assert found.reached.endswith(" on cuda:0")
    assert found.frames[-1] == "reid/engine/compute.py:place"
    assert found.frames[-2].startswith(file)
    assert found.made_current == current


@pytest.mark.parametrize("words", [["device=auto"], ["device=cuda", "eval.rerank=true"], ["-m", "seed=0"]])
def test_training(words: list[str], run_command: Runner, home: Path, on_a_gpu: list[str]) -> None:
    found = pretended(run_command, home, "reid.train", *words[:1], *on_a_gpu, *words[1:])
    assert_reached(found, "reid/commands/train.py:preparation", [0])


@pytest.mark.parametrize("module", ["reid.evaluate", "reid.threshold"])
def test_judging(module: str, run_command: Runner, home: Path, checkpoint: Path, on_a_gpu: list[str]) -> None:
    root = next(word for word in on_a_gpu if word.startswith("data.root="))
    found = pretended(run_command, home, module, f"checkpoint={checkpoint}", root)
    assert_reached(found, f"{module.replace('reid.', 'reid/commands/')}.py:", [0])


@pytest.mark.parametrize("command", ["reid.compare", "reid.extract", "load_model"])
def test_using_a_model(
    command: str, run_command: Runner, home: Path, checkpoint: Path, tiny_data: Path
) -> None:
    images = sorted(tiny_data.rglob("*.jpg"))[:2]
    (home / "images").mkdir(exist_ok=True)
    for image in images:
        shutil.copy(image, home / "images")
    words: dict[str, list[object]] = {
        "reid.compare": [command, *images, "--checkpoint", checkpoint],
        "reid.extract": [command, home / "images", "-o", home / "f.npz", "--checkpoint", checkpoint],
        "load_model": ["-c", f"from reid.inference import load_model; load_model({str(checkpoint)!r})"],
    }
    found = pretended(run_command, home, *words[command])
    assert found.reached is not None, f"{found.ended} in {found.frames[-1:]}"
    assert found.reached.endswith(" on cuda:0")
    assert "reid/inference.py:load_model" in found.frames


def test_the_probe_of_the_table(run_command: Runner, home: Path, tiny_data: Path) -> None:
    words = "experiments.reproduce_table", "--profile", "smoke", "--dry-run", f"data.root={tiny_data}"
    found = pretended(run_command, home, *words)
    assert_reached(found, "experiments/reproduce_table/probe.py:measure", [0])


def test_the_benchmark_of_a_gpu(run_command: Runner, home: Path) -> None:
    found = pretended(run_command, home, "experiments.benchmark", "gpu", "--quick", "--results", home)
    assert_reached(found, "experiments/benchmark/trainee.py:build", [0])


def test_the_tests_of_a_gpu_come_to_it(run_command: Runner, home: Path) -> None:
    """Each of test_cuda.py fails here, at its first tensor or at the driver itself, and never before."""
    file = ROOT / "tests" / "engine" / "test_cuda.py"
    done = run_command(DRIVER, "pytest", str(file), "-p", "no:cacheprovider", "--tb=no", "-rA", home=home)
    ended = re.findall(r"^(?:FAILED|ERROR) \S+ - (.*)$", done.stdout, flags=re.MULTILINE)
    assert len(ended) >= 6
    assert not re.search(r"^(PASSED|SKIPPED)", done.stdout, flags=re.MULTILINE)
    for reason in ended:
        assert re.search(r"FirstAllocation: .* on cuda:0|CUDA driver version|NVIDIA driver", reason), reason
