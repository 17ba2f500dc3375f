"""The campaign of experiments/faults in short: sweeps by every launcher here, killed and started again."""

import itertools
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from running import Forked

from experiments.faults.sweep import Sweep
from experiments.faults.verdict import Numbers, all_runs, judge, numbers_of
from reid.tracking import default_store

pytestmark = pytest.mark.slow

CELLS = "loss.alpha=1.4,1.6"


@dataclass(frozen=True)
class Undisturbed:
    """A sweep of two cells that nothing happened to: its numbers by config hash, and how much it tracked."""

    sweep: Sweep
    numbers: dict[str, Numbers]
    operations: int

    def runs(self) -> list[tuple[str, str]]:
        home = self.sweep.home
        found = all_runs(home, default_store(home).uri)
        return sorted((run.info.run_id, run.info.status) for run in found)


Prepare = Callable[[Path, str], Sweep]


@pytest.fixture(scope="module")
def prepare(tiny_data: Path, template_db: Path, start_command: Callable[..., Forked]) -> Prepare:
    """A sweep that was not started, in a new home whose store has its tables."""
    count = itertools.count()

    # The server that this is forked from is started by `start_command`.
    def forked(words: list[str], environment: dict[str, str], log: Path) -> Forked:
        return Forked(words, environment, log.parent, log.parent / f"start-{next(count)}")

    def prepared(folder: Path, launcher: str) -> Sweep:
        home = folder / "home"
        home.mkdir()
        shutil.copy(template_db, home)
        # On a machine with one core joblib would have no workers by itself.
        workers = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
        return Sweep(home, launcher, [CELLS, f"data.root={tiny_data}", *workers], begin=forked)

    return prepared


@pytest.fixture(scope="module")
def undisturbed(prepare: Prepare, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    sweep = prepare(tmp_path_factory.mktemp("undisturbed"), "basic")
    sweep.start()
    assert sweep.wait() == 0, printed(sweep)
    numbers = numbers_of(sweep.home, default_store(sweep.home).uri)
    return Undisturbed(sweep, {name: found for (name, _), found in numbers.items()}, sweep.progress())


def printed(sweep: Sweep) -> str:
    return "\n".join(path.read_text() for path in sorted(sweep.home.parent.glob("start-*/*")))


def assert_as_undisturbed(sweep: Sweep, undisturbed: Undisturbed) -> None:
    verdict = judge(sweep.home, default_store(sweep.home).uri, undisturbed.numbers)
    assert verdict.cells == 2
    assert verdict.clean, (verdict, printed(sweep))


def test_finished_sweep_started_again_runs_nothing(undisturbed: Undisturbed) -> None:
    before = undisturbed.runs()
    assert len(before) == 3
    undisturbed.sweep.start()
    assert undisturbed.sweep.wait() == 0
    assert undisturbed.runs() == before
    assert undisturbed.sweep.progress() == undisturbed.operations


def test_launcher_killed_in_the_second_cell_is_started_again(
    undisturbed: Undisturbed, prepare: Prepare, tmp_path: Path
) -> None:
    sweep = prepare(tmp_path, "basic")
    sweep.start()
    assert sweep.wait_for(undisturbed.operations // 2 + 4), printed(sweep)
    assert sweep.process is not None
    sweep.process.send_signal(signal.SIGKILL)
    assert sweep.wait() == -signal.SIGKILL
    sweep.start()
    assert sweep.wait() == 0, printed(sweep)
    assert_as_undisturbed(sweep, undisturbed)


def test_sweep_goes_on_by_itself_when_a_worker_is_killed(
    undisturbed: Undisturbed, prepare: Prepare, tmp_path: Path
) -> None:
    sweep = prepare(tmp_path, "joblib")
    sweep.start()
    assert sweep.wait_for(undisturbed.operations // 3), printed(sweep)
    sweep.workers()[0].kill()
    assert sweep.wait() == 0, printed(sweep)
    assert "a worker of the sweep was killed" in printed(sweep)
    assert_as_undisturbed(sweep, undisturbed)


def test_launcher_of_workers_told_to_stop_has_them_save_first(
    undisturbed: Undisturbed, prepare: Prepare, tmp_path: Path
) -> None:
    sweep = prepare(tmp_path, "joblib")
    sweep.start()
    assert sweep.wait_for(undisturbed.operations // 3), printed(sweep)
    assert sweep.process is not None
    sweep.process.send_signal(signal.SIGTERM)
    assert sweep.wait() == 143, printed(sweep)
    assert "Traceback" not in printed(sweep)
    store = default_store(sweep.home).uri
    assert {run.info.status for run in all_runs(sweep.home, store)} == {"KILLED"}, printed(sweep)
    # Another launcher goes on with it. The basic one needs no further processes, and no imports in them.
    again = replace(sweep, launcher="basic", words=[word for word in sweep.words if "launcher" not in word])
    again.start()
    assert again.wait() == 0, printed(sweep)
    assert "resumed after epoch" in printed(sweep)
    assert_as_undisturbed(sweep, undisturbed)


def test_submitit_runs_the_cells_in_processes_of_their_own(
    undisturbed: Undisturbed, prepare: Prepare, tmp_path: Path
) -> None:
    sweep = prepare(tmp_path, "submitit")
    sweep.start()
    assert sweep.wait() == 0, printed(sweep)
    assert_as_undisturbed(sweep, undisturbed)
