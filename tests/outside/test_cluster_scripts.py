"""The scripts of experiments/cluster/, submitted with `sbatch` as they stand there, with tiny runs."""

import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import ROOT, TINY, Runner, environment
from outside.slurm import ENDED, Slurm
from outside.sweeps_on_slurm import Note, six, until

from experiments.faults.verdict import Numbers, judge, weights_hash
from reid.engine.rundir import read_status
from reid.sweeps.slurm import Submission, read_jobs

SCRIPTS = ROOT / "experiments" / "cluster"
#: What a job of these tests gets; a run of the tiny set needs no more.
SMALL = ("--cpus-per-task=1", "--mem=3G", "--time=30")


@dataclass
class Job:
    """A script that was submitted from a folder that stands for the project's."""

    cluster: Slurm
    home: Path
    script: str
    words: Sequence[str]
    options: Sequence[str] = ()
    id: str = field(default="", init=False)

    def submit(self) -> "Job":
        place = self.home / "experiments" / "cluster"
        if not place.exists():
            shutil.copytree(SCRIPTS, place)
        variables = environment(self.home) | {"PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
        own = [
            f"{name}={variables[name]}" for name in ("PYTHON", "REID_HOME", "PYTHONPATH", "OMP_NUM_THREADS")
        ]
        answer = self.cluster.run(
            "sbatch", "--chdir", str(self.home), f"--export=ALL,{','.join(own)}", *SMALL, *self.options,
            str(place / self.script), *self.words,
        )  # fmt: skip
        self.id = answer.split()[-1]
        return self

    @property
    def log(self) -> str:
        path = self.home / f"slurm-{self.id}.out"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def restarts(self) -> int:
        match = re.search(r"Restarts=(\d+)", self.cluster.run("scontrol", "show", "job", self.id))
        return int(match[1]) if match else 0

    def warn(self) -> None:
        """Slurm's own warning, as `--signal=B:USR1@300` has it: to the script alone."""
        self.cluster.run("scancel", "--batch", "--signal=USR1", self.id)

    def end(self) -> str:
        until(lambda: self.cluster.state(self.id) in ENDED, lambda: f"the end of {self.script}:\n{self.log}")
        return self.cluster.state(self.id)

    def noted(self) -> Submission:
        return Submission(0, self.id, self.cluster.state(self.id))


def trained(home: Path) -> Path:
    """The folder of the one run there is; each start has one of its own, with a status alone."""
    (checkpoint,) = home.glob("outputs/*/last.pt")
    return checkpoint.parent


def test_one_run_is_cancelled_submitted_again_warned_and_goes_on(
    cluster: Slurm, tiny_data: Path, run_command: Runner, tmp_path: Path, noted: Note
) -> None:
    words = [*TINY, f"data.root={tiny_data}", "epochs=30"]
    home, plain = tmp_path / "home", tmp_path / "plain"
    home.mkdir()
    plain.mkdir()
    first = Job(cluster, home, "run.sbatch", words).submit()
    until(lambda: bool(list(home.glob("outputs/*/last.pt"))), lambda: f"a checkpoint:\n{first.log}")
    cluster.run("scancel", first.id)
    assert first.end() == "CANCELLED"
    status = read_status(trained(home))
    assert status is not None
    assert status.status == "KILLED", first.log
    assert "stopped by SIGTERM" in first.log

    second = Job(cluster, home, "run.sbatch", words).submit()
    until(lambda: second.log.count("resumed after epoch") == 1, lambda: f"it goes on:\n{second.log}")
    second.warn()
    assert second.end() == "COMPLETED", second.log
    assert second.restarts == 1
    assert f"saved before the end of job {second.id} (exit code 143): back into the queue" in second.log
    status = read_status(trained(home))
    assert status is not None
    assert status.status == "FINISHED", second.log

    assert run_command("reid.train", *words, home=plain, timeout=900).returncode == 0
    assert weights_hash(trained(home) / "model.pt") == weights_hash(trained(plain) / "model.pt")
    noted("run.sbatch: scancel, then USR1", cluster, [first.noted(), second.noted()], (1, 1))


def test_a_sweep_whose_command_is_a_job(
    cluster: Slurm, tiny_data: Path, local: dict[str, Numbers], tmp_path: Path, noted: Note
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    # One cell after the other, so that some are left when the command is back from the queue.
    keys = [f"hydra.launcher.{key}" for key in ("cpus_per_task=1", "array_parallelism=1")]
    words = [*TINY, *six(tiny_data), *keys]
    job = Job(cluster, home, "sweep.sbatch", words).submit()
    until(lambda: "6 cells submitted" in job.log, lambda: f"its cells:\n{job.log}")
    job.warn()
    until(lambda: "with Slurm already" in job.log, lambda: f"it takes them up again:\n{job.log}")
    assert job.end() == "COMPLETED", job.log
    assert job.restarts == 1
    verdict = judge(home, f"sqlite:///{home}/mlflow.db", local)
    assert verdict.clean, verdict
    (folder,) = home.glob("multirun/*")
    noted("sweep.sbatch: USR1", cluster, [job.noted(), *read_jobs(folder)], (6, 6))


def test_the_table(cluster: Slurm, tmp_path: Path, noted: Note) -> None:
    """Its plan alone: the table itself is tested by tests/test_reproduce_table.py."""
    home = tmp_path / "home"
    home.mkdir()
    job = Job(cluster, home, "table.sbatch", ["--profile", "smoke", "--dry-run"]).submit()
    assert job.end() == "COMPLETED", job.log
    assert "11 runs, 0 of them finished already" in job.log
    noted("table.sbatch: its plan", cluster, [job.noted()], (0, 0))


def test_torchrun_on_two_nodes(cluster: Slurm, tiny_data: Path, tmp_path: Path, noted: Note) -> None:
    """Two tasks of the one node there is, by gloo: the rendezvous, one run, the warning and the way back."""
    home = tmp_path / "home"
    home.mkdir()
    words = [*TINY, f"data.root={tiny_data}", "freeze_bn=true", "epochs=25"]
    job = Job(cluster, home, "torchrun.sbatch", words, ["--nodes=1", "--ntasks-per-node=2"]).submit()
    until(lambda: bool(list(home.glob("outputs/*/last.pt"))), lambda: f"a checkpoint:\n{job.log}")
    job.warn()
    assert job.end() == "COMPLETED", job.log
    assert job.restarts == 1
    assert "by 2 processes" in job.log
    assert "resumed after epoch" in job.log
    status = read_status(trained(home))
    assert status is not None
    assert status.status == "FINISHED"
    noted("torchrun.sbatch: two tasks, USR1", cluster, [job.noted()], (1, 1))


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.glob("*.sbatch")))
def test_the_options_of_a_script_are_known_to_slurm(script: str, cluster: Slurm) -> None:
    fits = ["--cpus-per-task=1", "--mem=1G", "--nodes=1"]
    cluster.run("sbatch", "--test-only", *fits, str(SCRIPTS / script))
