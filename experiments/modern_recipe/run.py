"""A cell as a run of the suite: found where it is finished, continued where it was killed, and made a row."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pandas as pd

from experiments.modern_recipe.plan import Cell, Plan
from experiments.modern_recipe.table import Row, Table
from reid.config.checks import ConfigError
from reid.config.schema import TrainConfig
from reid.engine.rundir import RunStatus, find_finished, find_unfinished, read_status
from reid.errors import RunError
from reid.home import home
from reid.limits import cores
from reid.sweeps import cells
from reid.sweeps.cells import Cell as Job
from reid.sweeps.cells import alike
from reid.tracking import environment, read_record
from reid.tracking.sources import tree_hash

ROOT = Path(__file__).resolve().parents[2]

#: How a recorded command names what lies elsewhere for everybody.
MODEL = "MODEL"
_PLACE = re.compile(r"(?<==)\{(\w+)\}")

#: `command, words, seconds` -> exit code: runs `python -m reid.<command> <words>`, for at most so long.
Command = Callable[[str, Sequence[str], float], int]


class OutOfTime(Exception):
    """The time of this start is over; the run that was under way has saved what it has."""


@dataclass(frozen=True)
class Trained:
    """A finished training: its status, its settings, and how long it took where it was not interrupted."""

    status: RunStatus
    settings: TrainConfig
    minutes: float | None


def in_process_of_its_own(command: str, words: Sequence[str], seconds: float) -> int:
    """Run a command of the suite, and end it as Ctrl-C would where it takes too long.

    SIGTERM and Ctrl-C are passed on, and its end is waited for, since it saves what it has.

    Raises:
        OutOfTime: the seconds are over.
    """
    child = subprocess.Popen([sys.executable, "-m", f"reid.{command}", *words])
    handlers = {
        signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),  # the terminal sends it to both
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: child.terminate()),
    }
    try:
        return child.wait(timeout=None if seconds == float("inf") else max(0.0, seconds))
    except subprocess.TimeoutExpired:
        child.terminate()
        child.wait()
        raise OutOfTime from None
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


class Runner:
    """Runs cells on this machine.

    places: what stands for {crops}, {weights} and the like in the plan.  command: runs one of the suite.
    ends: when to stop, as time.monotonic has it.
    """

    def __init__(
        self,
        plan: Plan,
        places: Mapping[str, str],
        command: Command = in_process_of_its_own,
        ends: float = float("inf"),
    ) -> None:
        self.frame, self.domains, self.places = plan.frame, plan.domains, places
        self.command, self.ends = command, ends
        self.machine = environment(ROOT).tags
        self.tree = _tree()
        self._jobs: dict[Cell, tuple[Job, TrainConfig]] = {}
        self.dirty = "+" if _changed() else ""

    @property
    def cpu(self) -> str:
        return self.machine["reid.cpu"]

    @property
    def threads(self) -> int:
        return int(os.environ.get("OMP_NUM_THREADS") or cores())

    def refuse_stale(self, table: Table) -> None:
        """Refuse a table whose rows here would be other runs now, since a file of conf/ has changed.

        A cell that begins with another's model is as that one is. One of weights that lie nowhere here is not
        looked at, since no stage that needs them runs.

        Raises:
            ConfigError: naming the row.
        """
        for row in table.rows:
            unnamed = {*_PLACE.findall(row.changes)} - {*self.places}
            if row.cpu == self.cpu and not row.cell.models and not unnamed:
                job, _ = self.job(row.cell, {})
                if job.config_hash != row.config_hash:
                    raise ConfigError(
                        f"{table.path}: {row.cell} is a run of the config {row.config_hash}, and its changes "
                        f"give {job.config_hash} now: a file of conf/ has changed. Put it back, or take the "
                        "row out of the table to run it again"
                    )

    def row(self, cell: Cell, teachers: Mapping[str, Cell]) -> Row:
        """Run a cell, or take the finished run of it, and say what came out.

        Raises:
            OutOfTime: it is not finished, see `OutOfTime`.
            RunError: it failed; what it printed says why.
            KeyboardInterrupt: it was stopped.
        """
        if cell.judged_on:
            return self._judged(cell, self._found(replace(cell, judged_on="")))
        return self._row(cell, self._trained(cell, teachers))

    def job(self, cell: Cell, teachers: Mapping[str, Cell]) -> tuple[Job, TrainConfig]:
        """The job of a cell, composed and checked.

        Raises:
            ConfigError, HydraException: it does not compose, or is refused.
        """
        cell = replace(cell, judged_on="")
        if cell not in self._jobs:
            planned = cells.plan("train", self._words(cell, teachers))
            self._jobs[cell] = planned.cells[0], planned.settings[0]
        return self._jobs[cell]

    def _words(self, cell: Cell, teachers: Mapping[str, Cell]) -> list[str]:
        words = [_PLACE.sub(self._place, word) for word in cell.words(self.frame)]
        for name, teacher in teachers.items():
            if any(f"<{name}>" in word for word in words):
                model = Path(self._found(teacher).status.run_dir) / "model.pt"
                words = [word.replace(f"<{name}>", str(model)) for word in words]
        return words

    def _place(self, found: re.Match[str]) -> str:
        if found[1] not in self.places:
            raise ConfigError(f"the plan names {{{found[1]}}}: say where it lies, by --place {found[1]}=PATH")
        return self.places[found[1]]

    def _found(self, cell: Cell) -> Trained:
        """The training that a score elsewhere or a student needs.  Its row is there, so it is not run unseen.

        Raises:
            RunError: its model is gone.
        """
        job, settings = self.job(cell, {})
        found = self._finished(job)
        if found is None:
            raise RunError(
                f"the model of {cell} is not below {home()} any more. Bring its run's folder back, or take "
                "its row out of cells.csv to train it again"
            )
        return Trained(found, settings, None)

    def _trained(self, cell: Cell, teachers: Mapping[str, Cell]) -> Trained:
        job, settings = self.job(cell, teachers)
        found = self._finished(job)
        if found is not None:
            return Trained(found, settings, None)
        roots = [home() / "outputs", home() / "multirun"]
        unfinished = find_unfinished(job.config_hash, job.data_root, roots[0] / "none", roots, alike([job]))
        words = [*self._words(cell, teachers), *([f"resume={unfinished}"] if unfinished else [])]
        began = time.monotonic()
        self._run("train", words, cell)
        minutes = (time.monotonic() - began) / 60
        found = self._finished(job)
        if found is None:
            raise RunError(f"{cell}: it ended without an error, and no finished run of it is found")
        return Trained(found, settings, None if unfinished else minutes)

    def _finished(self, job: Job) -> RunStatus | None:
        """The newest finished run of a job by code of our numbers on this model of CPU."""
        roots = [home() / "outputs", home() / "multirun"]
        for status in find_finished(job.config_hash, job.data_root, roots[0] / "none", roots, alike([job])):
            folder = Path(status.run_dir)
            if (folder / "model.pt").exists() and read_record(folder).tags["reid.cpu"] == self.cpu:
                return status
        return None

    def _run(self, command: str, words: Sequence[str], cell: Cell) -> None:
        code = self.command(command, words, self.ends - time.monotonic())
        if code in (-signal.SIGTERM, 128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGINT):
            raise KeyboardInterrupt
        if code:
            raise RunError(f"{cell}: python -m reid.{command} {' '.join(words)} ended with {code}")

    def _row(self, cell: Cell, trained: Trained) -> Row:
        folder, settings = Path(trained.status.run_dir), trained.settings
        history = pd.read_csv(folder / "history.csv")
        seconds = history["train/seconds"]
        images = (history["train/images_per_second"] * seconds).sum()
        last = history.iloc[-1]
        return self._with_scores(
            cell,
            trained,
            {name: trained.status.scores[f"{settings.eval.split}/{name}"] for name in _SCORES},
            train_minutes=float(seconds.sum() / 60),
            minutes=trained.minutes,
            accuracy=100 * float(last["train/accuracy"]),
            id_loss=float(last["train/id_loss"]) if "train/id_loss" in history else None,
            images_per_s=float(images / seconds.sum()),
            command=f"python -m reid.train {self._shown(cell)}",
        )

    def _judged(self, cell: Cell, trained: Trained) -> Row:
        folder = home() / "outputs" / f"away_{trained.status.config_hash}_{cell.judged_on}"
        words = [f"checkpoint={trained.status.run_dir}", f"eval.datasets=[{self.domains[cell.judged_on]}]"]
        more = ["device=cpu", f"tracking.experiment={self.frame['tracking.experiment']}_away"]
        more += [f"data.root={self.places['crops']}"] if self.frame.get("data.root") == "{crops}" else []
        self._run("evaluate", [*words, *more, f"hydra.run.dir={folder}"], cell)
        status = read_status(folder)
        if status is None or status.status != "FINISHED":
            raise RunError(f"{cell}: {folder} does not say that it is finished")
        scores = {name: status.scores[f"{cell.judged_on}/{name}"] for name in _SCORES}
        return self._with_scores(
            cell, trained, scores, train_minutes=None, minutes=None, accuracy=None, id_loss=None,
            images_per_s=None,
            command=f"python -m reid.evaluate checkpoint={MODEL} {words[1]}",
        )  # fmt: skip

    def _with_scores(
        self, cell: Cell, trained: Trained, scores: Mapping[str, float], **more: float | str | None
    ) -> Row:
        record = read_record(Path(trained.status.run_dir))
        percent = {name: 100 * value for name, value in scores.items()}
        return Row(
            stage=cell.stage,
            name=cell.name,
            changes=" ".join(cell.changes),
            seed=cell.seed,
            split=trained.settings.eval.split,
            judged_on=cell.judged_on,
            budget=cell.budget,
            epochs=trained.settings.epochs,
            mAP=percent["mAP"],
            rank_1=percent["rank-1"],
            rank_5=percent["rank-5"],
            mINP=percent["mINP"],
            cpu=self.cpu,
            threads=self.threads,
            config_hash=trained.status.config_hash,
            code=trained.status.code,
            tree=self.tree,
            commit=record.tags["reid.git.sha"] + self.dirty,
            torch=record.tags["reid.version.torch"],
            **more,  # type: ignore[arg-type]
        )

    def _shown(self, cell: Cell) -> str:
        words = [_PLACE.sub(lambda found: found[1].upper(), word) for word in cell.words(self.frame)]
        return " ".join(f"{word.partition('<')[0]}{MODEL}" if "<" in word else word for word in words)


_SCORES = ("mAP", "rank-1", "rank-5", "mINP")


@cache
def _tree() -> str:
    return tree_hash(ROOT / "reid")


def _changed() -> bool:
    """Whether what computes, or what is composed, differs from the commit."""
    answer = subprocess.run(
        ["git", "-C", str(ROOT), "status", "--porcelain", "--", "reid", "conf", "experiments/modern_recipe"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = [line for line in answer.stdout.splitlines() if "/results/" not in line and "README" not in line]
    return bool(lines) or answer.returncode != 0
