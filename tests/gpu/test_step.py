"""A step and an embedding on a GPU without values: nothing mixes devices, reads back or changes its dtype.

fake.py checks it in a process of its own. Not to be seen there, and left to `make gpu-check`: the optimizer's
step, streams and events, pinned memory, compiled networks, several GPUs.
"""

import json
from pathlib import Path

import pytest
import torch
from conftest import ROOT, Runner
from gpu.fake import NETWORKS

LOSSES = sorted(file.stem for file in (ROOT / "conf" / "loss").glob("*.yaml"))
#: Those of pytorch-metric-learning count their pairs on the host, which waits: a known price of theirs.
WAIT = {"arcface", "circle", "cosface", "multi_similarity", "ranked_paper", "supcon"}
#: What is planted in fake.py, and what must be said of it.
PLANTED = {
    "ReadsBack": "DataDependentOutputException",
    "Branches": "DataDependentOutputException",
    "OnTheHost": "found at least two devices, cuda:0 and cpu",
    "Chooses": "DynamicOutputShapeException: aten.nonzero",
    "Doubles": "loss is torch.float64 on cuda:0, not torch.float32",
    "HalfHead": "features is torch.bfloat16 on cuda:0, not torch.float32",
    "NoAutocast": "is torch.float32 on cuda:0, not torch.bfloat16",
    "means": "DataDependentOutputException",
}


@pytest.fixture(scope="module")
def found(run_command: Runner, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """Of each check null, or what was wrong."""
    home: Path = tmp_path_factory.mktemp("home")
    done = run_command("tests.gpu.fake", home=home)
    assert done.returncode == 0, done.stderr
    answers: dict[str, str | None] = json.loads(done.stdout.strip().splitlines()[-1])
    return answers


@pytest.mark.parametrize("backbone", NETWORKS)
def test_the_network_computes_in_the_precision_and_tells_float32(
    backbone: str, found: dict[str, str | None]
) -> None:
    for precision in ("float32", "bf16", "fp16"):
        assert found[f"forward/{backbone}/{precision}"] is None
        assert found[f"embed/{backbone}/{precision}"] is None


@pytest.mark.parametrize("loss", LOSSES)
def test_what_a_step_computes_stays_on_the_gpu(loss: str, found: dict[str, str | None]) -> None:
    for backbone in NETWORKS:
        fault = found[f"step/{backbone}/{loss}"]
        if loss in WAIT:
            assert "DynamicOutputShapeException: aten.nonzero" in str(fault)
        else:
            assert fault is None


@pytest.mark.parametrize("backbone", NETWORKS)
def test_every_parameter_gets_a_gradient_like_itself(backbone: str, found: dict[str, str | None]) -> None:
    assert found[f"backward/{backbone}"] is None


def test_augmentation_is_drawn_on_the_device(found: dict[str, str | None]) -> None:
    assert found["augmentation"] is None


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_caught(fault: str, found: dict[str, str | None]) -> None:
    if fault == "NoAutocast" and torch.cuda.is_available():
        pytest.skip("where a GPU is, torch.autocast does what it says")
    assert PLANTED[fault] in str(found[f"planted/{fault}"])
