"""The trials: claimed one at a time, trained by the suite's own run function, pruned by their score on `val`.

A trial belongs to the process that holds the lock in its folder.  One that Optuna calls RUNNING while its
lock is free was killed: it is taken up where its checkpoint stands, with the same values.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from experiments.tune.study import SCORE, Search
from reid.commands.train import train
from reid.config.checks import ConfigError
from reid.engine.rundir import LAST, read_status
from reid.errors import UsageError
from reid.jobs.frame import run_framed
from reid.jobs.job import Job
from reid.locks import FileLock, Timeout

log = logging.getLogger(__name__)


class Pruned(BaseException):
    """The trial is not worth its remaining epochs.  Not an Exception: nothing failed."""


def run_trials(search: Search, job: Job) -> None:
    """Run trials until there are `study.trials` in all, or `study.timeout` seconds are over.

    Raises whatever would fail every trial alike (missing data, weights), and `Stopped`.  Any other failure
    belongs to its trial.
    """
    study = search.settings.study
    end = time.monotonic() + (study.timeout or float("inf"))
    while time.monotonic() < end:
        with _claimed(search) as trial:
            if trial is None:
                return
            _run_trial(search, trial, job)


@contextmanager
def _claimed(search: Search) -> Iterator[optuna.Trial | None]:
    """The next trial, for this process alone, or None where nothing is left to do."""
    # Short: what lies between two trials of all processes.
    with FileLock(search.folder / "study.lock", timeout=600):
        trial, lock = _next(search)
    try:
        yield trial
    finally:
        if lock is not None:
            lock.release()


def _next(search: Search) -> tuple[optuna.Trial | None, FileLock | None]:
    trials = search.study.get_trials(deepcopy=False)
    for lost in trials:
        if lost.state == TrialState.RUNNING and (lock := _lock(search.folder / str(lost.number))):
            return optuna.Trial(search.study, lost._trial_id), lock
    if len(trials) >= search.settings.study.trials:
        return None, None
    trial = search.study.ask()
    lock = _lock(search.folder / str(trial.number))
    search.suggest(trial)
    return trial, lock


def _lock(folder: Path) -> FileLock | None:
    folder.mkdir(exist_ok=True)
    lock = FileLock(folder / ".trial.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return None
    return lock


def _run_trial(search: Search, trial: optuna.Trial, job: Job) -> None:
    values = search.suggest(trial)
    name = trial_name(values)
    reported = dict(search.study.get_trials(deepcopy=False)[trial.number].intermediate_values)
    try:
        config, settings, overrides = search.trial_config(values)
        child = child_job(search, job, str(trial.number), name, config, overrides)
        done = read_status(child.folder)
        if done is not None and done.status == "FINISHED":  # killed before the study was told
            search.study.tell(trial, done.scores[SCORE])
            return
        child.tags = {"reid.study": search.name, "reid.trial": trial.number}
        settings.resume = str(child.folder) if (child.folder / LAST).exists() else None

        def report(epoch: int, scores: dict[str, float]) -> None:
            if epoch == 0:
                return
            if epoch not in reported:
                trial.report(scores[SCORE], epoch)
            if epoch < settings.epochs and trial.should_prune():
                _prune(child, epoch, scores)

        child.after_score = report
        run_framed(child, lambda framed: train(framed, settings))
    except Pruned:
        search.study.tell(trial, state=TrialState.PRUNED)
    except ConfigError as error:  # these values do not go together
        log.error("trial %d (%s): %s", trial.number, name, error)
        search.study.tell(trial, state=TrialState.FAIL)
    except UsageError:
        raise
    except Exception as error:
        log.error("trial %d (%s) failed: %s", trial.number, name, error, exc_info=error)
        search.study.tell(trial, state=TrialState.FAIL)
    else:
        search.study.tell(trial, child.status.scores[SCORE])


def _prune(child: Job, epoch: int, scores: dict[str, float]) -> None:
    child.console.print(f"{child.name}: pruned after epoch {epoch}, below the median of the trials before")
    child.status.status, child.status.scores = "PRUNED", scores
    if child.tracker is not None:
        child.tracker.tags({"reid.pruned": "true", "reid.pruned_epoch": epoch})
        child.tracker.artifact(child.folder / "history.csv")
    raise Pruned


def child_job(search: Search, job: Job, folder: str, name: str, config: Any, overrides: list[str]) -> Job:
    """A run of the study: a child of its parent, in a folder below the study's."""
    place = search.folder / folder
    place.mkdir(exist_ok=True)
    return Job(config, place, overrides, job.console, job.stop, name=name, sweep=search.folder)


def trial_name(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())
