"""torchrun with two processes on the tiny set: the run that one process makes, stopped and gone on with.

The backbone's batch norms keep their statistics here, since each process would take those of its own half
of a batch; the neck takes those of the whole batch.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from conftest import environment

from reid.engine.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow

Run = Callable[..., "subprocess.CompletedProcess[str]"]

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
#: Seconds that a run may take: three processes that import PyTorch, on a busy machine.
LIMIT = 900
#: Columns that measure time.
CLOCK = ["train/images_per_second", "train/data_wait"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def words(tiny: list[str]) -> list[str]:
    return [*tiny, "optimizer=sgd", "freeze_bn=true", "epochs=5", "eval.period=2", "eval.batch=8"]


@pytest.fixture(scope="module")
def together(words: list[str], home: Path) -> Path:
    """An undisturbed run of two processes."""
    done = finished(start(home, "reid.train", *words, f"hydra.run.dir={home}/together"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("by 2 processes") == 1
    return home / "together"


def start(home: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*TORCHRUN, *arguments],
        env=environment(home),
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: "subprocess.Popen[str]") -> "subprocess.CompletedProcess[str]":
    out, err = process.communicate(timeout=LIMIT)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def wait_for_epoch(process: "subprocess.Popen[str]", folder: Path, epoch: int) -> None:
    deadline = time.monotonic() + LIMIT
    history = folder / "history.csv"
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        if history.exists() and f"\n{epoch}," in history.read_text():
            return
        time.sleep(0.005)
    raise AssertionError(f"no epoch {epoch} in time")


def process_of(torchrun: "subprocess.Popen[str]", number: int) -> psutil.Process:
    children = psutil.Process(torchrun.pid).children()
    return next(child for child in children if child.environ().get("RANK") == str(number))


def status(folder: Path) -> str:
    return str(json.loads((folder / "status.json").read_text())["status"])


def test_loss_gradients_and_scores_are_those_of_one_process(
    run_command: Run, words: list[str], home: Path, together: Path
) -> None:
    alone = home / "alone"
    done = run_command("reid.train", *words, f"hydra.run.dir={alone}", home=home, timeout=LIMIT)
    assert done.returncode == 0, done.stdout + done.stderr
    ours, theirs = (pd.read_csv(place / "history.csv").drop(columns=CLOCK) for place in (together, alone))
    assert "train/grad_norm" in ours
    # Later on the rounding has grown, which the neck of a network at random scales up.
    pd.testing.assert_frame_equal(ours[:2], theirs[:2], rtol=1e-3, check_like=True)
    frozen = load_checkpoint(together / "model.pt").model
    assert torch.equal(frozen["backbone.bn1.running_var"], torch.ones(64))
    assert not torch.allclose(frozen["bottleneck.running_var"], torch.ones(512), atol=0.1)


def test_one_process_writes_and_tracks(together: Path, home: Path) -> None:
    assert status(together) == "FINISHED"
    assert sorted(path.name for path in together.glob("*.log")) == ["process1.log", "train.log"]
    assert list(together.glob(".hydra/overrides.yaml"))
    assert not (home / "outputs").exists()


def test_stopped_and_bereaved_it_ends_in_order_and_goes_on(
    words: list[str], home: Path, together: Path
) -> None:
    folder = home / "disturbed"
    process = start(home, "reid.train", *words, f"hydra.run.dir={folder}")
    wait_for_epoch(process, folder, 1)
    process.send_signal(signal.SIGTERM)
    stopped = finished(process)
    assert stopped.returncode != 0
    assert status(folder) == "KILLED"

    process = start(home, "reid.train", *words, "resume=auto", f"hydra.run.dir={home}/again")
    wait_for_epoch(process, folder, 3)
    process_of(process, 1).kill()
    bereaved = finished(process)
    assert bereaved.returncode != 0
    assert "resumed after epoch" in bereaved.stdout
    # It notices by itself within a step; between two, the signal that torchrun sends may come first.
    assert "another process of this run has ended" in bereaved.stderr
    assert status(folder) in ("FAILED", "KILLED")

    done = finished(start(home, "reid.train", *words, "resume=auto", f"hydra.run.dir={home}/once_more"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resumed after epoch" in done.stdout
    ours, theirs = (load_checkpoint(place / "model.pt").model for place in (folder, together))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


STOPPED_AFTER_AN_EPOCH = """
import os, signal
import reid.commands.train as train
from reid.train import main

whole = train.train_epoch

def then_stopped(*arguments, **options):
    whole(*arguments, **options)
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)

train.train_epoch = then_stopped
if __name__ == "__main__":
    main()
"""


def test_a_process_stopped_between_an_epoch_and_its_checkpoint_takes_the_others_along(
    words: list[str], home: Path
) -> None:
    (home / "stopper.py").write_text(STOPPED_AFTER_AN_EPOCH)
    folder = home / "between"
    done = finished(start(home, "stopper", *words, f"hydra.run.dir={folder}"))
    assert done.returncode != 0
    assert status(folder) == "KILLED", done.stderr
    assert load_checkpoint(folder / "last.pt").meta["progress"]["epoch"] == 1


def test_what_several_processes_cannot_do_is_refused_by_one_of_them(words: list[str], home: Path) -> None:
    for overrides, message in (
        (["batch.identities=3"], "batch.identities=3 cannot be cut into 2 equal parts"),
        (["sync_bn=true", "freeze_bn=false"], "sync_bn=true with device=cpu is not possible"),
    ):
        done = finished(start(home, "reid.train", *words, *overrides, f"hydra.run.dir={home}/refused"))
        assert done.returncode != 0
        assert done.stderr.count(message) == 1, done.stderr
        assert "exitcode  : 2 " in done.stderr
