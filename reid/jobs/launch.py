"""How a Hydra command starts: composed, checked and refused in words, then its jobs, then an exit code.

Nothing here imports torch before all that can be refused without it is refused.  The jobs run in
`reid.jobs.frame`.
"""

import contextlib
import logging
import os
import sys
import warnings
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from reid.config.checks import ConfigError
from reid.config.dialects import refuse_dashes, refuse_options_of_no_dataset
from reid.config.schema import config_folder, register
from reid.engine.stop import Stopped, StopSignals
from reid.errors import RunError, UsageError
from reid.jobs.compose_errors import explain, known_keys
from reid.jobs.plain_warnings import show_plainly
from reid.jobs.processes import check_launch, process_arguments, run_folder
from reid.jobs.resolved import Primary, primary_config
from reid.limits import avoid_tiles
from reid.sweeps.cells import Plan, plan, refuse_missing
from reid.sweeps.job_lock import LOCK, stop_jobs
from reid.sweeps.sweep_file import LAUNCHER, PARENT_FOLDER, SWEPT_KEYS, failed_jobs, job_statuses
from reid.terminal import Terminal, complaint
from reid.tracking import refuse_password
from reid.trust import VARIABLE as TRUST

if TYPE_CHECKING:
    from reid.engine.distributed import Processes
    from reid.jobs.job import Job

log = logging.getLogger(__name__)

#: What joblib and submitit raise when a worker did not come back.
WORKER_LOST = ("TerminatedWorkerError", "BrokenProcessPool", "UncompletedJobError", "FailedJobError")

#: What is wrong in a config or on a command line, as Hydra and OmegaConf say it.
HYDRAS_ERRORS = (HydraException, OmegaConfBaseException)

#: What a command leaves in the environment for its workers, and takes from nobody.
INHERITED = (PARENT_FOLDER, SWEPT_KEYS, LAUNCHER)

#: How often this sweep was begun again by itself.
RESTARTS = "REID_SWEEP_RESTARTS"


class SweepEnded(BaseException):
    """A job failed and `sweep.fail_fast` is set; Hydra would go on after any `Exception`."""


@dataclass
class Outcome:
    """What is known of a command's jobs, also after an exception ended them.

    retry: how often a sweep goes on by itself after it lost a worker. failed: the jobs of a sweep that failed
    in this process. job: the one that was done, where it was no sweep.
    """

    retry: int = 0
    failed: list[Exception] = field(default_factory=list)
    job: "Job | None" = None


def launch(command: str, story: str, together: bool = False) -> NoReturn:
    """Compose `conf/<command>.yaml` with what was typed, run `story` once or for each job of a sweep, exit.

    story: `module:function`, imported once all is checked; the function takes a `Job` and returns its scores.
    together: the processes of torchrun may run it as one job.
    Exit codes: 0 done, 1 something failed, 2 asked wrongly, 130 / 143 stopped by Ctrl-C / SIGTERM.
    """
    tracebacks = os.environ.get("HYDRA_FULL_ERROR") == "1"
    processes = _processes_of_torchrun()
    outcome = Outcome()
    try:
        run_jobs(command, story, outcome, processes, together)
    except Stopped as stopped:
        several = processes is not None
        why = "; torchrun does so too where another process of this run has ended" if several else ""
        how = ". To go on: the same command; a single run with resume=auto" if command == "train" else ""
        _complain(f"{stopped}{why}{how}", processes)
        sys.exit(stopped.exit_code)
    except SweepEnded as ended:
        _complain(f"the sweep ended at its first failure (sweep.fail_fast): {ended.__cause__}")
        sys.exit(1)
    except (UsageError, *HYDRAS_ERRORS) as error:
        if tracebacks:
            raise
        _complain(in_words(error, command, sys.argv[1:]), processes)
        sys.exit(2)
    except Exception as error:
        if type(error).__name__ in WORKER_LOST:
            _go_on_without(error, outcome.retry)
        if tracebacks or not _is_explained(error):
            raise
        _complain(str(error), processes)
        sys.exit(1)
    sweep = os.environ.get(PARENT_FOLDER)
    failed = len(failed_jobs(Path(sweep))) if sweep else len(outcome.failed)
    if failed:
        where = f"; table and folders in {sweep}" if sweep else ""
        _complain(f"{failed} jobs of the sweep failed{where}")
    sys.exit(1 if failed else 0)


def run_jobs(
    command: str,
    story: str,
    outcome: Outcome,
    processes: "Processes | None" = None,
    together: bool = False,
) -> None:
    """Check what `sys.argv` says and run its jobs, in this process or those of a launcher; see `launch`.

    Much of the process is changed: `reid.jobs.python_call` puts that back.

    Raises:
        UsageError, HydraException, OmegaConfBaseException: asked wrongly, see `in_words`.
        Stopped, SweepEnded, and whatever the one job raises. The failures of a sweep are in `outcome`.
    """
    register()
    show_plainly()
    for inherited in INHERITED:
        os.environ.pop(inherited, None)
    # Hydra would print its own summary and exit with 1; this lets the exceptions come here.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    avoid_tiles()

    primary, trusted = Primary(command, sys.argv[1:]), os.environ.get(TRUST)
    failures: list[Exception] = []

    def app(config: DictConfig) -> None:
        register()  # the worker of a launcher is a process of its own
        show_plainly()
        from reid.engine.distributed import ALONE
        from reid.engine.runtime import set_up_process
        from reid.jobs.frame import run_job

        set_up_process()  # here already, since it holds for threads that are started later
        in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        fail_fast = OmegaConf.select(config, "sweep.fail_fast", default=False)
        retries = OmegaConf.select(config, "sweep.retry", default=0) if in_sweep and not fail_fast else 0
        for left in range(retries, -1, -1):
            try:
                if os.environ.get(TRUST) != trusted:  # hydra.job.env_set
                    raise ConfigError(f"{TRUST} is set by a config: only the environment says whom to trust")
                module, _, name = story.partition(":")
                work = getattr(import_module(module), name)
                job = run_job(config, work, processes or ALONE, primary.overrides)
                if not in_sweep:
                    outcome.job = job
                return
            except Exception as error:
                if not in_sweep:
                    # Hydra prints the whole command line again before an exception; so it does not see it.
                    failures.append(error)
                    return
                expected = isinstance(error, UsageError)
                again = left > 0 and not expected
                message = "the job failed and is tried again: %s" if again else "the job failed: %s"
                log.error(message, error, exc_info=None if expected else error)
                if again:
                    continue
                outcome.failed.append(error)
                if fail_fast:
                    raise SweepEnded from error
                return

    for word in sys.argv[1:]:  # before Hydra writes it down
        key, _, value = word.lstrip("+").partition("=")
        refuse_password(value.strip("'\"") if key == "tracking.uri" else None)
    primary = primary_config(command, sys.argv[1:])
    refuse_dashes(primary.words, lambda: known_keys(command))
    refuse_options_of_no_dataset(primary.words, lambda: known_keys(command))
    sys.argv[1:] = primary.words
    if processes is None or processes.first:
        if processes is not None:
            check_launch(command, sys.argv[1:], processes, together)
        planned = plan(primary.name, sys.argv[1:])
        outcome.retry = planned.retry
        refuse_missing(planned)
        if planned.cells:
            sys.argv += _look_ahead(planned)
    if processes is not None:
        sys.argv += process_arguments(processes.broadcast(run_folder(sys.argv[1:])), processes)
    logging.captureWarnings(True)  # not before: without Hydra's handlers they would be lost
    main = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=primary.name)
    # A process that waits for the others in C would not come to a handler.
    with contextlib.nullcontext() if processes is not None else StopSignals(first=_stop_workers):
        main(app)()
    if failures:
        raise failures[0]
    if processes is not None:
        processes.leave()


def in_words(error: Exception, command: str, words: list[str]) -> str:
    """What to tell a user of something that was asked wrongly."""
    return explain(error, command, words) if isinstance(error, HYDRAS_ERRORS) else str(error)


def _processes_of_torchrun() -> "Processes | None":
    """The processes that torchrun started this one with, once all are there; None without torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    from reid.engine.distributed import join

    processes = join()
    return processes if processes.count > 1 else None


def _look_ahead(planned: Plan) -> list[str]:
    """Check what takes torch, before any work; what is added to the command line of a sweep."""
    from reid.jobs.ahead import check_ahead
    from reid.sweeps.sweep_folder import sweep_arguments

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the job itself will warn of is not said twice
        check_ahead(planned)
    return sweep_arguments(planned, sys.argv[1:])


def _is_explained(error: Exception) -> bool:
    """Whether an error says itself what went wrong; any other is a mistake in somebody's code."""
    return isinstance(error, RunError | OSError) or type(error).__name__ == "OutOfMemoryError"  # torch's


def _stop_workers() -> None:
    """The jobs of a sweep that run in other processes are stopped in order, before their launcher goes."""
    sweep = os.environ.get(PARENT_FOLDER)
    if sweep:
        stop_jobs(lock.parent for lock in Path(sweep).glob(f"*/{LOCK}"))


def _go_on_without(lost: Exception, retry: int) -> None:
    """A worker of the launcher was killed, and its pool with it: start the sweep again, which then goes on.

    As often as `retry` says; then exit with 1.
    """
    sweep = os.environ.get(PARENT_FOLDER)
    jobs = job_statuses(Path(sweep)) if sweep else []
    finished = sum(job.status == "FINISHED" for job in jobs)
    restarts = int(os.environ.get(RESTARTS, "0"))
    lines = str(lost).strip().splitlines() or [type(lost).__name__]
    message = f"a worker of the sweep was killed ({lines[0]}); {finished} of {len(jobs)} cells are finished"
    if restarts < retry:
        _complain(f"{message}. Going on with the rest")
        os.environ[RESTARTS] = str(restarts + 1)
        sys.stdout.flush()
        sys.stderr.flush()
        # In the same folder, also where finished cells of other sweeps are not to be taken.
        here = [
            word for word in sys.argv if word.startswith("hydra.sweep.dir=") and word not in sys.orig_argv
        ]
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:], *here])
    _complain(
        f"{message}. Out of memory is the usual cause: run fewer at a time. The same command continues the "
        "sweep"
    )
    sys.exit(1)


def _complain(message: str, processes: "Processes | None" = None) -> None:
    speaker = (
        ""
        if processes is None or processes.first
        else f"process {processes.number + 1} of {processes.count}: "
    )
    Terminal(stderr=True, soft_wrap=True).print(complaint(f"{speaker}{message}"), highlight=False)
