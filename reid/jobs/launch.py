"""What every Hydra command of the suite shares: composing, refusing in words, exit codes, one job's frame."""

import contextlib
import gc
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import hydra
import torch
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from reid.config.checks import ConfigError
from reid.config.dialects import refuse_dashes, refuse_options_of_no_dataset
from reid.config.schema import config_folder, register
from reid.data import DatasetError
from reid.engine.checkpoint import CheckpointError
from reid.engine.distributed import ALONE, LostProcessError, Processes, join
from reid.engine.finite import DivergedError
from reid.engine.runtime import restored_switches, set_up_process
from reid.engine.stop import Stopped, StopSignals
from reid.home import from_hydra
from reid.jobs.compose_errors import explain, known_keys
from reid.jobs.data_ahead import refuse_ahead
from reid.jobs.job import Job, job_name
from reid.jobs.plain_warnings import show_plainly
from reid.jobs.processes import check_launch, process_arguments, run_folder
from reid.jobs.resolved import Primary, primary_config
from reid.models import BackboneError, HeadError, WeightsError
from reid.retrieval import EvaluationError
from reid.sweeps.callback import LAUNCHER, PARENT_FOLDER, SWEPT_KEYS, failed_jobs, job_statuses
from reid.sweeps.cells import SWEEP_DIR, plan, sweep_arguments
from reid.sweeps.job_lock import LOCK, alone, stop_jobs
from reid.sweeps.orphan import at_work
from reid.sweeps.slots import SHARED_LAUNCHERS, gpus, jobs_at_once, places, slot
from reid.sweeps.sweep_file import read_sweep
from reid.terminal import Terminal, complaint
from reid.tracking import Status, TrackingError, refuse_password
from reid.trust import VARIABLE as TRUST

log = logging.getLogger(__name__)

#: What the user asked for cannot be done as asked: exit code 2, the message and no traceback.
ASKED_WRONGLY = (
    ConfigError, DatasetError, BackboneError, HeadError, WeightsError, CheckpointError, EvaluationError,
    TrackingError,
)  # fmt: skip

#: What goes wrong on the way and says so itself; anything else is a mistake in somebody's code.
EXPLAINED = (DivergedError, LostProcessError, OSError, torch.OutOfMemoryError)

#: What the tracker says of a job that ended with this status; anything else was stopped.
FINAL: dict[str, Status] = {"FINISHED": "FINISHED", "FAILED": "FAILED"}


#: What joblib and submitit raise when a worker did not come back.
WORKER_LOST = ("TerminatedWorkerError", "BrokenProcessPool", "UncompletedJobError", "FailedJobError")

#: Seconds that a process that is not the first waits with its failure for that of the first.
GRACE_S = 5

#: How often this sweep was begun again by itself.
RESTARTS = "REID_SWEEP_RESTARTS"


#: In a worker of a sweep: what told it to stop, which holds for the jobs that are still meant for it.
_stopped: list[Stopped] = []


class SweepEnded(BaseException):
    """A job failed and `sweep.fail_fast` is set; Hydra would go on after any `Exception`."""


def launch(command: str, story: Callable[[Job], Mapping[str, float]], together: bool = False) -> NoReturn:
    """Compose `conf/<command>.yaml` with what was typed, run `story` once or for each job of a sweep, exit.

    together: the processes of torchrun may run it as one job.
    Exit codes: 0 done, 1 something failed, 2 asked wrongly, 130 / 143 stopped by Ctrl-C / SIGTERM.
    """
    register()
    show_plainly()
    logging.captureWarnings(True)
    for inherited in (PARENT_FOLDER, SWEPT_KEYS, LAUNCHER):
        os.environ.pop(inherited, None)
    tracebacks = os.environ.get("HYDRA_FULL_ERROR") == "1"
    # Hydra would print its own summary and exit with 1; this lets the exceptions come here.
    os.environ["HYDRA_FULL_ERROR"] = "1"

    processes = join()
    primary, trusted = Primary(command, sys.argv[1:]), os.environ.get(TRUST)
    failures: list[Exception] = []
    failed_in_sweep: list[Exception] = []

    def app(config: DictConfig) -> None:
        register()  # the worker of a launcher is a process of its own
        show_plainly()
        set_up_process()  # here already, since it holds for threads that are started later
        in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        fail_fast = OmegaConf.select(config, "sweep.fail_fast", default=False)
        retries = OmegaConf.select(config, "sweep.retry", default=0) if in_sweep and not fail_fast else 0
        for left in range(retries, -1, -1):
            try:
                if os.environ.get(TRUST) != trusted:  # hydra.job.env_set
                    raise ConfigError(f"{TRUST} is set by a config: only the environment says whom to trust")
                return _run_job(config, story, processes, primary.overrides)
            except Exception as error:
                if not in_sweep:
                    # Hydra prints the whole command line again before an exception; so it does not see it.
                    failures.append(error)
                    return None
                expected = isinstance(error, ASKED_WRONGLY)
                again = left > 0 and not expected
                told = "the job failed and is tried again: %s" if again else "the job failed: %s"
                log.error(told, error, exc_info=None if expected else error)
                if again:
                    continue
                failed_in_sweep.append(error)
                if fail_fast:
                    raise SweepEnded from error
                return None
        return None

    retry = 0
    try:
        for word in sys.argv[1:]:  # before Hydra writes it down
            key, _, value = word.lstrip("+").partition("=")
            refuse_password(value.strip("'\"") if key == "tracking.uri" else None)
        primary = primary_config(command, sys.argv[1:])
        refuse_dashes(primary.words, lambda: known_keys(command))
        refuse_options_of_no_dataset(primary.words, lambda: known_keys(command))
        sys.argv[1:] = primary.words
        if processes.first:
            check_launch(command, sys.argv[1:], processes, together)
            ahead = plan(primary.name, sys.argv[1:])
            refuse_ahead(ahead)
            retry = ahead.retry
            sys.argv += sweep_arguments(ahead, sys.argv[1:])
        sys.argv += process_arguments(processes.broadcast(run_folder(sys.argv[1:])), processes)
        main = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=primary.name)
        # A process that waits for the others in C would not come to a handler.
        with contextlib.nullcontext() if processes.count > 1 else StopSignals(first=_stop_workers):
            main(app)()
        if failures:
            raise failures[0]
        processes.leave()
    except Stopped as stopped:
        why = (
            "; torchrun does so too where another process of this run has ended"
            if processes.count > 1
            else ""
        )
        how = ". To go on: the same command; a single run with resume=auto" if command == "train" else ""
        _complain(f"{stopped}{why}{how}", processes)
        sys.exit(stopped.exit_code)
    except SweepEnded as ended:
        _complain(f"the sweep ended at its first failure (sweep.fail_fast): {ended.__cause__}")
        sys.exit(1)
    except (*ASKED_WRONGLY, HydraException, OmegaConfBaseException) as error:
        if tracebacks:
            raise
        hydras = isinstance(error, HydraException | OmegaConfBaseException)
        _complain(explain(error, command, sys.argv[1:]) if hydras else str(error), processes)
        sys.exit(2)
    except Exception as error:
        if type(error).__name__ in WORKER_LOST:
            _go_on_without(error, retry)
        if tracebacks or not isinstance(error, EXPLAINED):
            raise
        _complain(str(error), processes)
        sys.exit(1)
    sweep = os.environ.get(PARENT_FOLDER)
    failed = len(failed_jobs(Path(sweep))) if sweep else len(failed_in_sweep)
    if failed:
        where = f"; table and folders in {sweep}" if sweep else ""
        _complain(f"{failed} jobs of the sweep failed{where}")
    sys.exit(1 if failed else 0)


def _run_job(
    config: DictConfig, story: Callable[[Job], Mapping[str, float]], processes: Processes, earlier: list[str]
) -> None:
    hydra_config = HydraConfig.get()
    folder = from_hydra(Path(hydra_config.runtime.output_dir))
    in_sweep = hydra_config.mode == RunMode.MULTIRUN
    sweep = os.environ.get(PARENT_FOLDER) if in_sweep else None
    overrides = [*earlier, *hydra_config.overrides.task]
    refuse_password(OmegaConf.select(config, "tracking.uri"))
    if _stopped:
        raise _stopped[0]
    with contextlib.ExitStack() as frame:
        together = processes.count > 1
        of_a_launcher = os.environ.get(LAUNCHER, str(os.getpid())) != str(os.getpid())
        stop = frame.enter_context(StopSignals(once=together or of_a_launcher, together=together))
        if in_sweep:
            # A worker whose launcher was killed may still be at this cell.
            frame.enter_context(alone(folder))
            frame.enter_context(at_work())
            frame.enter_context(_place(config, hydra_config, sweep))
        name = job_name(config, overrides, dict(hydra_config.runtime.choices))
        parent = Path(sweep) if sweep else None
        console = Terminal(quiet=not processes.first)
        job = Job(config, folder, overrides, console, stop, name=name, sweep=parent, processes=processes)
        try:
            run_framed(job, story)
            with stop.in_one_piece():  # a signal that got lost within something else's finaliser
                pass
        except Stopped as stopped:
            _stopped.append(stopped)
            raise
        except LostProcessError:
            raise
        except Exception:
            if not processes.first:
                time.sleep(GRACE_S)  # where all fail, torchrun would cut off what the first one has to say
            raise


def _stop_workers() -> None:
    """The jobs of a sweep that run in other processes are stopped in order, before their launcher goes."""
    sweep = os.environ.get(PARENT_FOLDER)
    if sweep:
        stop_jobs(lock.parent for lock in Path(sweep).glob(f"*/{LOCK}"))


def run_framed(job: Job, story: Callable[[Job], Mapping[str, float]]) -> None:
    """Run `story`; whatever happens, status.json and the tracked run tell what became of the job."""
    try:
        with restored_switches():
            job.status.scores = dict(story(job))
        job.status.status = "FINISHED"
    except Stopped:
        job.status.status = "KILLED"
        raise
    except Exception as error:
        job.status.status, job.status.error = "FAILED", f"{type(error).__name__}: {error}"
        job.record_failure(error)
        raise
    finally:
        if job.tracker is not None:
            # Where the run was opened and then not closed by its own `with` block.
            status = job.status.status
            job.tracker.finish(
                "FAILED" if status == "FAILED" else "KILLED" if status != "FINISHED" else "FINISHED"
            )
        job.save_status()
        # The jobs of a sweep share this process.
        gc.collect()
        if torch.cuda.is_available() and job.processes.count == 1:  # else it may wait for a lost process
            torch.cuda.empty_cache()


@contextlib.contextmanager
def _place(config: DictConfig, hydra_config: HydraConf, sweep: str | None) -> Iterator[None]:
    """A GPU of its own for a job of a sweep, or its share of the cores."""
    asked = OmegaConf.select(config, "device")
    if asked in ("auto", "cuda") and torch.cuda.device_count():
        with slot(gpus()) as number:
            config.device = f"cuda:{number}"
            try:
                yield
            finally:
                config.device = asked
        return
    launcher = hydra_config.runtime.choices["hydra/launcher"]
    if launcher in SHARED_LAUNCHERS:
        of_sweep = read_sweep(Path(sweep)) if sweep else None
        n_jobs = int(hydra_config.launcher.get("n_jobs", -1))
        cells = len(of_sweep.cells) if of_sweep else places()
        share = places() // jobs_at_once(launcher, n_jobs, cells, places())
        # Never more than what was set: OMP_NUM_THREADS=1 makes the numbers the same by every launcher.
        torch.set_num_threads(max(1, min(share, torch.get_num_threads())))
    yield


def _go_on_without(lost: Exception, retry: int) -> None:
    """A worker of the launcher was killed, and its pool with it: start the sweep again, which then goes on.

    As often as `retry` says; then exit with 1.
    """
    sweep = os.environ.get(PARENT_FOLDER)
    jobs = job_statuses(Path(sweep)) if sweep else []
    finished = sum(job.status == "FINISHED" for job in jobs)
    restarts = int(os.environ.get(RESTARTS, "0"))
    lines = str(lost).strip().splitlines() or [type(lost).__name__]
    told = f"a worker of the sweep was killed ({lines[0]}); {finished} of {len(jobs)} cells are finished"
    if restarts < retry:
        _complain(f"{told}. Going on with the rest")
        os.environ[RESTARTS] = str(restarts + 1)
        sys.stdout.flush()
        sys.stderr.flush()
        # In the same folder, also where finished cells of other sweeps are not to be taken.
        here = [word for word in sys.argv if word.startswith(f"{SWEEP_DIR}=") and word not in sys.orig_argv]
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:], *here])
    _complain(
        f"{told}. Out of memory is the usual cause: run fewer at a time. The same command continues the sweep"
    )
    sys.exit(1)


def _complain(message: str, processes: Processes = ALONE) -> None:
    speaker = "" if processes.first else f"process {processes.number + 1} of {processes.count}: "
    Terminal(stderr=True, soft_wrap=True).print(complaint(f"{speaker}{message}"), highlight=False)
