"""Training and judging from Python: the bits of the commands, and a process that is left as it was."""

import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Runner
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from reid import api
from reid.config.checks import ConfigError
from reid.config.schema import config_folder
from reid.engine.checkpoint import load_checkpoint
from reid.engine.model_hash import model_hash
from reid.engine.session import Session
from reid.engine.stop import Stopped
from reid.errors import RunError, UsageError
from reid.jobs import python_call

LENGTH = ["epochs=2", "schedule.milestones=[]"]


@pytest.fixture
def home(tmp_path: Path, tables: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home with a tracking store, and one thread as the commands of the tests have it."""
    monkeypatch.setenv("REID_HOME", str(tmp_path))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def commanded(tiny: list[str], run_command: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run that the command makes."""
    home = tmp_path_factory.mktemp("commanded")
    done = run_command("reid.train", *tiny, *LENGTH, "hydra.run.dir=outputs/run", home=home)
    assert done.returncode == 0, done.stderr
    return home / "outputs" / "run"


def weights(folder: Path) -> str:
    return model_hash(load_checkpoint(folder / "model.pt").model)


def state() -> dict[str, Any]:
    """What a command changes in its process."""
    half_denormals = torch.full((2**16,), 1e-39).mul(1.0)
    return {
        "arguments": (id(sys.argv), list(sys.argv)),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "hydra": GlobalHydra.instance().hydra,
        "handlers": [logging.root.handlers[:], logging.root.level],
        "loggers": {name: logging.getLogger(name).level for name in ("mlflow", "alembic", "mine")},
        "warnings": [warnings.filters[:], warnings.showwarning, warnings.formatwarning],
        "signals": [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)],
        "denormals": bool((half_denormals > 0).all()),
        "threads": torch.get_num_threads(),
        "switches": [torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark],
        "random": [random.random(), str(np.random.get_state()),  # noqa: NPY002
                   torch.get_rng_state().tolist()],
    }  # fmt: skip


@pytest.mark.slow
def test_it_computes_the_bits_of_the_command_and_leaves_the_process_as_it_was(
    home: Path, tiny: list[str], commanded: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["notebook", "-f", "/tmp/kernel.json"])
    own_log = logging.FileHandler(tmp_path / "own.log", mode="w")  # which would not open again once closed
    logging.getLogger("mine").addHandler(own_log)
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        torch.manual_seed(3)
        random.seed(3)
        before = state()
        run = api.train([*tiny, *LENGTH])
        random.seed(3)
        assert state() == before
    logging.getLogger("mine").warning("still written")
    own_log.close()
    logging.getLogger("mine").removeHandler(own_log)
    assert (tmp_path / "own.log").read_text() == "still written\n"

    assert weights(run.folder) == weights(commanded)
    assert run.folder.parent == home / "outputs"
    assert run.history["epoch"].tolist() == [1, 2]
    assert run.scores["test/mAP"] == run.history["test/mAP"].iloc[-1]
    assert len(run.run_id or "") == 32
    assert repr(run).startswith("Run(synthetic mobilenet_v2 ranked")
    assert len(repr(run)) <= 100
    for name in ("train.log", "status.json", "config_resolved.yaml", "figures"):
        assert (run.folder / name).exists()
    assert "epoch   2/2" in (run.folder / "train.log").read_text()

    # A second and a third call, in the same notebook.
    judged = api.evaluate([f"checkpoint={run.folder}", "device=cpu"])
    assert judged.scores == run.scores
    assert judged.history["test/mAP"].tolist() == [run.scores["test/mAP"]]
    measured = api.threshold([f"checkpoint={run.folder}", "target=eer", "replicates=10", "device=cpu"])
    stored = measured.model.threshold
    assert stored is not None
    assert measured.scores["test/threshold"] == stored.value
    assert run.model.threshold == stored  # loaded when it is asked for first, from the file that has it now


@pytest.mark.slow
def test_ctrl_c_stops_it_between_two_epochs_and_a_thread_goes_on(
    home: Path, tiny: list[str], commanded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = Session.end_epoch
    stopped: list[bool] = []
    runs: list[api.Run] = []

    def interrupted(session: Session, *arguments: Any, **options: Any) -> None:
        end(session, *arguments, **options)
        if not stopped:
            stopped.append(True)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Session, "end_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt, match="To go on: the same call with resume=auto"):
        api.train([*tiny, *LENGTH])
    thread = threading.Thread(target=lambda: runs.append(api.train([*tiny, *LENGTH, "resume=auto"])))
    thread.start()
    thread.join()
    assert len(list((home / "outputs").glob("*/model.pt"))) == 1
    assert runs[0].history["epoch"].tolist() == [1, 2]
    assert weights(runs[0].folder) == weights(commanded)


def test_a_caller_who_goes_on_after_sigterm_is_told_of_it() -> None:
    received: list[int] = []
    handler = signal.signal(signal.SIGTERM, lambda signum, _: received.append(signum))
    try:
        with pytest.raises(RunError, match=r"reid\.api\.train was stopped by SIGTERM\. To go on"):
            python_call.stop_as_the_caller_does("train", Stopped(signal.SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert received == [signal.SIGTERM]


#: What is asked wrongly, and what the exception says.
REFUSED: list[tuple[Any, str]] = [
    (["sed=1"], r"the train command has no key sed\. Did you mean 'seed'\?"),
    (["loss=rankd"], "loss=rankd is no choice"),
    (["epochs=abc"], "epochs=abc is not allowed: expected a whole number"),
    (["schedule.milestones=[40"], "is not understood"),
    (["dataset=folder"], r"dataset\.root is not given"),
    ("seed=1", "'seed=1' is one text: expected a list"),
    ([("seed", 1)], "is no text: expected a list"),
    (["--epochs", "3"], "--epochs belongs to a command line"),
    (["-m", "seed=1,2"], "-m asks for a sweep, and reid.api.train runs one job.*python -m reid.train -m"),
    (["seed=1,2"], "seed takes several values, and reid.api.train runs one job"),
    (["sweep=alpha_margin"], "sweep=alpha_margin asks for a sweep"),
    (["hydra.mode=MULTIRUN"], "hydra.mode=MULTIRUN asks for a sweep"),
    (["tracking.uri=https://ann:s3cret@tracking.org"], r"https://ann:\*\*\*@tracking.org holds a password"),
]


@pytest.mark.parametrize(("overrides", "message"), REFUSED, ids=[str(words) for words, _ in REFUSED])
def test_what_is_asked_wrongly_is_an_exception_in_words(
    overrides: Any, message: str, own_home: None, tmp_path: Path
) -> None:
    words = overrides if isinstance(overrides, str) else ["dataset=synthetic", *overrides]
    with pytest.raises(UsageError, match=message):
        api.train(words if "dataset=folder" not in words else overrides)
    assert list(tmp_path.iterdir()) == []


def test_torchrun_and_a_second_call_at_a_time_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with python_call._one_call, pytest.raises(RunError, match=r"another call of reid\.api is under way"):
        api.train([])
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with pytest.raises(ConfigError, match=r"torchrun … -m reid\.train"):
        api.train([])
