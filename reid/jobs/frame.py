"""The frame around one job of a Hydra command: its place on the machine, signals, status, tracked run."""

import contextlib
import gc
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from reid.engine.distributed import LostProcessError, Processes
from reid.engine.rundir import RunStatus, drop_last, read_status
from reid.engine.runtime import restored_switches
from reid.engine.stop import Stopped, StopSignals
from reid.home import from_hydra
from reid.jobs.job import Job, job_name
from reid.sweeps.cells import SHARED_LAUNCHERS
from reid.sweeps.job_lock import alone
from reid.sweeps.orphan import at_work
from reid.sweeps.slots import gpus, jobs_at_once, places, slot
from reid.sweeps.slurm import warning_signals
from reid.sweeps.sweep_file import LAUNCHER, NOT_BEGUN, PARENT_FOLDER, read_sweep
from reid.terminal import Terminal
from reid.tracking import refuse_password

#: What a command does with its job; it returns the scores.
Story = Callable[[Job], Mapping[str, float]]

#: Seconds that a process that is not the first waits with its failure for that of the first.
GRACE_S = 5

#: Seconds since 1970, from the environment: no job of a sweep begins later.
UNTIL = "REID_SWEEP_UNTIL"

#: In a worker of a sweep: what stopped it, which holds for the jobs that are still meant for it.
_stopped: list[Stopped] = []


class TimeUp(Stopped):
    """The time of a sweep is up: the job before this one was the last."""

    def __init__(self, signum: int = signal.SIGTERM, clean: bool = True) -> None:
        super().__init__(signum, clean)
        self.args = ("the time of this sweep is up",)


def run_job(config: DictConfig, story: Story, processes: Processes, earlier: list[str]) -> Job:
    """Run the job that Hydra has composed, and give it back once it is done.

    earlier: the overrides of the run whose resolved config this is.

    Raises:
        Stopped: a signal came; and whatever `story` raises.
    """
    hydra_config = HydraConfig.get()
    folder = from_hydra(Path(hydra_config.runtime.output_dir))
    in_sweep = hydra_config.mode == RunMode.MULTIRUN
    sweep = os.environ.get(PARENT_FOLDER) if in_sweep else None
    overrides = [*earlier, *hydra_config.overrides.task]
    for key in ("tracking.uri", "study.storage"):
        refuse_password(OmegaConf.select(config, key), key)
    if _stopped:
        raise _stopped[0]
    if in_sweep and time.time() >= float(os.environ.get(UNTIL, "inf")):
        if read_status(folder) is None:
            RunStatus("KILLED", overrides=overrides, error=f"{NOT_BEGUN}: the time was up").write(folder)
        raise TimeUp
    with contextlib.ExitStack() as frame:
        is_worker = os.environ.get(LAUNCHER, str(os.getpid())) != str(os.getpid())
        stop = frame.enter_context(
            StopSignals(
                once=processes.count > 1 or is_worker,
                together=processes.count > 1,
                more=warning_signals(),
            )
        )
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
            if in_sweep:
                _stopped.append(stopped)
            raise
        except LostProcessError:
            raise
        except Exception:
            if not processes.first:
                time.sleep(GRACE_S)  # where all fail, torchrun would cut off what the first one has to say
            raise
    return job


def run_framed(job: Job, story: Story) -> None:
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
        if job.processes.first and OmegaConf.select(job.config, "keep_last", default=True) is False:
            drop_last(job.folder)  # where it is finished
        # The jobs of a sweep share this process.
        gc.collect()
        if torch.cuda.is_available() and job.processes.count == 1:  # else it may wait for a lost process
            torch.cuda.empty_cache()


@contextlib.contextmanager
def _place(config: DictConfig, hydra_config: HydraConf, sweep: str | None) -> Iterator[None]:
    """A GPU of its own for a job of a sweep, or its share of the cores."""
    device = OmegaConf.select(config, "device")
    if device in ("auto", "cuda") and torch.cuda.device_count():
        with slot(gpus()) as number:
            config.device = f"cuda:{number}"
            try:
                yield
            finally:
                config.device = device
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
