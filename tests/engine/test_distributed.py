"""Several processes that train one model: what each refuses by itself, and what they do together."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from reid.config.checks import ConfigError
from reid.engine.distributed import ALONE, Processes, synchronise_batch_norm
from reid.jobs.processes import check_launch, process_arguments, run_folder

SECOND = Processes(1, 4, 1)


def test_a_batch_is_cut_between_identities_or_refused() -> None:
    SECOND.check_batch(8, 4)
    with pytest.raises(ConfigError, match=r"batch\.identities=6 .* 4 equal parts.* Set .*=4 or 8"):
        SECOND.check_batch(6, 4)
    with pytest.raises(ConfigError, match=r"batch\.identities=3 .* Set batch\.identities=4,"):
        SECOND.check_batch(3, 4)
    with pytest.raises(ConfigError, match="one image for each"):
        SECOND.check_batch(4, 1)
    ALONE.check_batch(3, 1)


def test_each_process_takes_the_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert SECOND.device("auto") == SECOND.device("cuda") == "cuda:1"
    assert SECOND.device("cpu") == "cpu"
    assert ALONE.device("cuda:3") == "cuda:3"  # `choose_device` refuses it
    with pytest.raises(ConfigError, match="one device for 4 processes"):
        SECOND.device("cuda:0")
    with pytest.raises(ConfigError, match="--nproc-per-node 2"):
        Processes(2, 4, 2).device("auto")


def test_without_a_gpu_auto_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert SECOND.device("auto") == "auto"


def test_torchrun_runs_training_alone_and_no_sweep() -> None:
    check_launch("train", ["epochs=1"], SECOND, together=True)
    check_launch("evaluate", ["-m"], ALONE, together=False)
    with pytest.raises(ConfigError, match=r"python -m reid\.evaluate"):
        check_launch("evaluate", [], SECOND, together=False)
    for flag in ("-m", "--multirun"):
        with pytest.raises(ConfigError, match="sweep in each of 4 processes"):
            check_launch("train", [flag, "seed=0,1"], SECOND, together=True)


def test_one_folder_and_one_voice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REID_HOME", str(tmp_path))
    assert Path(run_folder(["epochs=1"])).parent == tmp_path / "outputs"
    assert run_folder(["hydra.run.dir=/runs/mine"]) == "/runs/mine"
    assert "now" not in run_folder(["hydra.run.dir='/runs/${now:%Y}/x'"])
    assert process_arguments("/runs/it's", ALONE) == []
    assert process_arguments("/runs/it's", Processes(0, 2)) == [r"hydra.run.dir='/runs/it\'s'"]
    assert "hydra.output_subdir=null" in process_arguments("/runs/mine", SECOND)


def test_a_batch_norm_that_does_more_is_not_replaced() -> None:
    class WithActivation(nn.BatchNorm2d):
        pass

    with pytest.raises(ConfigError, match="WithActivation"):
        synchronise_batch_norm(nn.Sequential(nn.Conv2d(3, 4, 1), WithActivation(4)))
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    synchronise_batch_norm(plain)
    assert isinstance(plain[1], nn.SyncBatchNorm)


@pytest.mark.slow
def test_two_processes_together(tmp_path: Path) -> None:
    script = Path(__file__).with_name("processes_together.py")
    root = script.parents[2]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, script, tmp_path],
        env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all is well" in done.stdout
