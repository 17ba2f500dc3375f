"""What the tests share: the tiny synthetic set, drawn once, and a way to run the real commands."""

import gc
import itertools
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest
import torch
from composing import composed, settings_of
from omegaconf import DictConfig
from running import Forked, start_server

from reid.data import load_dataset, silent
from reid.engine.checkpoint import Checkpoint, save_checkpoint
from reid.engine.describe import build_model, checkpoint_meta
from reid.engine.prepare import open_training_data, read_dataset
from reid.limits import avoid_tiles
from reid.tracking import default_store

avoid_tiles()  # as every command does, before anything is computed

#: The source tree that is tested, whatever is installed.
ROOT = Path(__file__).resolve().parents[1]

#: Seconds on one core: two epochs of it are a whole run.
TINY = (
    "dataset=synthetic",
    "dataset.preset=tiny",
    "backbone=mobilenet_v2",  # a fifth of the parameters of a ResNet18: drawn, moved and saved sooner
    "backbone.weights=none",
    "image.height=32",
    "image.width=16",
    "image.padding=2",
    "batch.identities=4",
    "tricks.warmup=1",
    "eval.period=0",
    "device=cpu",
)


def with_resnet18(words: Iterable[str]) -> list[str]:
    """The same with a ResNet18, for what needs features that differ from image to image before any training.

    The signal of a MobileNetV2 fades where its batch norms have learnt no statistics.
    """
    return [word.replace("backbone=mobilenet_v2", "backbone=resnet18") for word in words]


#: Seconds. A test that takes longer without the mark `slow` is named at the end: it wants the mark, so that
#: `make check` leaves it to `make test`. The mark itself begins at a quarter of a second.
QUICK = 1.0
#: The files that take longest, longest first: the last of them must not begin when the others are done.
LONGEST = (
    "tests/test_faults.py", "tests/test_reproduce_table.py", "benchmark/test_benchmark.py",
    "notebooks/test_notebooks.py", "tests/test_train.py", "export/test_export.py",
    "tests/test_distributed.py", "tests/test_readme.py", "modern_recipe/test_study.py",
)  # fmt: skip
#: Fixtures that start processes: a test that uses one is slow without a mark of its own.
STARTERS = {"start_command", "run_command", "server"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts commands as slow, and put the files with slow tests first.

    Left to itself xdist starts the files of fewest tests last, and these are the longest: one worker would
    end minutes after the others. (`--no-loadscope-reorder` keeps this order.)
    """
    for item in items:
        if STARTERS & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
    slow = {item.path for item in items if item.get_closest_marker("slow")}

    def place(item: pytest.Item) -> int:
        name = f"{item.path.parent.name}/{item.path.name}"
        return LONGEST.index(name) if name in LONGEST else len(LONGEST) + (item.path not in slow)

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """Let no collection look through what the imports have left: each one would for half a second."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the tests without the mark that took more than a second. A busy machine may be to blame."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport) and "slow" not in report.keywords:
                seconds[report.nodeid] += report.duration
    late = {name: spent for name, spent in seconds.items() if spent > QUICK}
    if late:
        terminalreporter.section(f"not marked slow, and longer than {QUICK:g} s")
    for name, spent in sorted(late.items(), key=lambda item: -item[1]):
        terminalreporter.write_line(f"{spent:.1f} s  {name}")


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `data.root` that holds the tiny synthetic set."""
    root = tmp_path_factory.mktemp("data")
    load_dataset("synthetic", root / "synthetic" / "day_tiny_0", preset="tiny")
    return root


Runner = Callable[..., "subprocess.CompletedProcess[str]"]
Starter = Callable[..., Forked]


def environment(home: Path) -> dict[str, str]:
    """The environment of a command whose outputs and tracking store go to `home`."""
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "REID_", "HYDRA_"))
    }
    own = {"REID_HOME": str(home), "PYTHONPATH": str(ROOT), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    return {**kept, **own}


@pytest.fixture(scope="session")
def start_command(tmp_path_factory: pytest.TempPathFactory) -> Starter:
    """Starts `python -m module arguments…` with outputs in `home` and more `variables`; returns at once."""
    start_server({**environment(tmp_path_factory.mktemp("home")), "MLFLOW_DISABLE_TELEMETRY": "true"})
    output, count = tmp_path_factory.mktemp("output"), itertools.count()

    def start(module: str, *arguments: str, home: Path, variables: Mapping[str, str] | None = None) -> Forked:
        whole = {**environment(home), **(variables or {})}
        return Forked([module, *arguments], whole, home, output / str(next(count)))

    return start


@pytest.fixture(scope="session")
def run_command(start_command: Starter) -> Runner:
    """Runs the same to its end, and returns what it printed.

    `fresh=True` starts Python anew, as a user does: once for each command, since it costs ten seconds.
    """

    def run(
        module: str, *arguments: str, home: Path, timeout: float = 240, fresh: bool = False
    ) -> "subprocess.CompletedProcess[str]":
        words = [module, *arguments]
        if not fresh:
            process = start_command(*words, home=home)
            out, err = process.communicate(timeout)
            return subprocess.CompletedProcess(words, process.wait(), out, err)
        return subprocess.run(
            [sys.executable, "-m", *words],
            env=environment(home),
            cwd=home,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture(scope="session")
def template_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tracking store whose tables exist: making them takes seconds, so tests copy the file."""
    folder = tmp_path_factory.mktemp("template")
    default_store(folder, f"sqlite:///{folder / 'mlflow.db'}").prepare("first")
    return folder / "mlflow.db"


@pytest.fixture
def tables(template_db: Path, tmp_path: Path) -> None:
    """The tracking store of a home at `tmp_path` has its tables already."""
    shutil.copy(template_db, tmp_path)


@pytest.fixture
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a config says of places lies in the test's own folder, whatever the developer has set."""
    monkeypatch.setenv("REID_HOME", str(tmp_path))
    monkeypatch.delenv("REID_DATA", raising=False)


@pytest.fixture(scope="session")
def recipe() -> DictConfig:
    """The config without an override, composed once: most tests change one value of a copy."""
    return composed("train")


@pytest.fixture(scope="session")
def tiny(tiny_data: Path) -> list[str]:
    """The overrides of a run on the tiny set."""
    return [*TINY, f"data.root={tiny_data}"]


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model.pt of a run on the tiny set before its first step, without a threshold; not to be changed."""
    settings = settings_of(*with_resnet18(tiny))
    dataset, crops, _ = read_dataset(settings, silent)
    data = open_training_data(dataset, settings, silent, crops)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(settings, len(data.pids))
    path = tmp_path_factory.mktemp("checkpoint") / "model.pt"
    save_checkpoint(path, Checkpoint(model.state_dict(), checkpoint_meta(settings, data, model), {}))
    return path
