"""Two processes that train together on the tiny set: the run that one makes, stopped and gone on with.

torchrun's agent starts them where it has a part: it passes a signal on, and notices that one has died.
Elsewhere they have the environment that torchrun gives, and nobody watches over them.

The backbone's batch norms keep their statistics here, since each process would take those of its own half
of a batch; the neck takes those of the whole batch.
"""

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from conftest import Starter, with_resnet18
from running import Forked

from reid.engine.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow

Run = Callable[..., "subprocess.CompletedProcess[str]"]

TORCHRUN = "tests.torchrun_forked"
#: Seconds that a run may take: three processes that import PyTorch, on a busy machine.
LIMIT = 900
#: Columns that measure time.
CLOCK = ["train/seconds", "train/images_per_second", "train/data_wait"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def words(tiny: list[str]) -> list[str]:
    return [
        *with_resnet18(tiny),
        "optimizer=sgd",
        "freeze_bn=true",
        "epochs=5",
        "eval.period=2",
        "eval.batch=8",
    ]


@dataclass(frozen=True)
class Ended:
    """The exit codes of two processes, and all that they printed."""

    codes: list[int]
    stdout: str
    stderr: str


Pair = Callable[..., Ended]


@pytest.fixture(scope="module")
def run_pair(start_command: Starter, home: Path) -> Pair:
    """Runs a module in two processes with the environment that torchrun gives, to their end."""

    def run(module: str, *arguments: str) -> Ended:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        common = {
            "TORCHELASTIC_RUN_ID": "none",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "WORLD_SIZE": "2",
        }
        processes = [
            start_command(
                module,
                *arguments,
                home=home,
                variables={**common, "RANK": rank, "LOCAL_RANK": rank},
            )
            for rank in "01"
        ]
        printed = [process.communicate(LIMIT) for process in processes]
        stdout, stderr = ("".join(texts) for texts in zip(*printed, strict=True))
        return Ended([process.wait() for process in processes], stdout, stderr)

    return run


@pytest.fixture(scope="module")
def together(run_pair: Pair, words: list[str], home: Path) -> Path:
    """An undisturbed run of two processes."""
    ended = run_pair("reid.train", *words, f"hydra.run.dir={home}/together")
    assert ended.codes == [0, 0], ended
    assert ended.stdout.count("by 2 processes") == 1
    return home / "together"


def wait_for_epoch(process: Forked, folder: Path, epoch: int) -> None:
    deadline = time.monotonic() + LIMIT
    history = folder / "history.csv"
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        if history.exists() and f"\n{epoch}," in history.read_text():
            return
        time.sleep(0.005)
    raise AssertionError(f"no epoch {epoch} in time")


def second_of(torchrun: Forked) -> psutil.Process:
    _first, second = sorted(psutil.Process(torchrun.pid).children(), key=lambda child: child.create_time())
    return second


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
    run_pair: Pair, start_command: Starter, words: list[str], home: Path, together: Path
) -> None:
    folder = home / "disturbed"
    process = start_command(TORCHRUN, "reid.train", *words, f"hydra.run.dir={folder}", home=home)
    wait_for_epoch(process, folder, 1)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(LIMIT)
    assert process.returncode != 0
    assert "stopped by SIGTERM" in stderr
    assert status(folder) == "KILLED"

    again = ["resume=auto", f"hydra.run.dir={home}/again"]
    process = start_command(TORCHRUN, "reid.train", *words, *again, home=home)
    wait_for_epoch(process, folder, 3)
    second_of(process).kill()
    stdout, stderr = process.communicate(LIMIT)
    assert process.returncode != 0
    assert "resumed after epoch" in stdout
    # It notices by itself within a step; between two, the signal that torchrun sends may come first.
    assert "another process of this run has ended" in stderr
    assert status(folder) in ("FAILED", "KILLED")

    ended = run_pair("reid.train", *words, "resume=auto", f"hydra.run.dir={home}/once_more")
    assert ended.codes == [0, 0], ended
    assert "resumed after epoch" in ended.stdout
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
    run_pair: Pair, words: list[str], home: Path
) -> None:
    (home / "stopper.py").write_text(STOPPED_AFTER_AN_EPOCH)
    folder = home / "between"
    ended = run_pair("stopper", *words, f"hydra.run.dir={folder}")
    assert 0 not in ended.codes
    assert status(folder) == "KILLED", ended.stderr
    assert load_checkpoint(folder / "last.pt").meta["progress"]["epoch"] == 1


def test_all_keep_the_best_epoch_and_one_writes_it(
    run_pair: Pair, run_command: Run, words: list[str], home: Path
) -> None:
    folder, judged = home / "best", home / "best_judged"
    own = ["eval.split=val", "eval.val_identities=4", "eval.period=1", "epochs=3", "tracking.checkpoint=best"]
    # From the second epoch on it learns so fast that it forgets.
    own += ["schedule.milestones=[1]", "schedule.gamma=1e4", "keep_last=false", f"hydra.run.dir={folder}"]
    ended = run_pair("reid.train", *words, *own)
    assert ended.codes == [0, 0], ended
    history = pd.read_csv(folder / "history.csv")
    best = history.loc[history["val/mAP"].idxmax()]
    meta = load_checkpoint(folder / "model.pt").meta
    told = json.loads((folder / "status.json").read_text())
    assert meta["progress"]["epoch"] == told["epoch"] == best["epoch"] < 3
    assert told["scores"]["val/mAP"] == best["val/mAP"]
    assert not (folder / "last.pt").exists()
    done = run_command(
        "reid.evaluate", f"checkpoint={folder}", "device=cpu", f"hydra.run.dir={judged}", home=home
    )
    assert done.returncode == 0, done.stderr
    scores = json.loads((judged / "scores.json").read_text())["scores"]
    assert scores["val/mAP"] == pytest.approx(best["val/mAP"], abs=1e-6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["batch.identities=3"], "batch.identities=3 cannot be cut into 2 equal parts"),
        (["sync_bn=true", "freeze_bn=false"], "sync_bn=true with device=cpu is not possible"),
    ],
)
def test_what_several_processes_cannot_do_is_refused_by_one_of_them(
    run_pair: Pair, words: list[str], home: Path, overrides: list[str], message: str
) -> None:
    ended = run_pair("reid.train", *words, *overrides, f"hydra.run.dir={home}/refused")
    # The other one waits for it, and notices that it has ended.
    assert 2 in ended.codes
    assert 0 not in ended.codes
    assert ended.stderr.count(message) == 1, ended.stderr
