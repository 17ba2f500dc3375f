"""What every Hydra command of the suite shares: composing, refusing in words, exit codes, one job's frame."""

import gc
import itertools
import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

import hydra
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.markup import escape

from reid.checkpoints import find_checkpoint
from reid.checks import ConfigError
from reid.compose_errors import explain
from reid.config import RUN_ID, EvaluateConfig, ThresholdConfig, TrainConfig, config_folder, register
from reid.data import DatasetError
from reid.engine.checkpoint import CheckpointError
from reid.engine.stop import Stopped, StopSignals
from reid.engine.sweep import PARENT_FOLDER, SWEPT_KEYS, failed_jobs
from reid.home import home
from reid.job import Job, job_name
from reid.models import BackboneError, WeightsError
from reid.retrieval import EvaluationError
from reid.settings import evaluate_settings, threshold_settings, train_settings
from reid.tracking import Status, TrackingError, default_store

log = logging.getLogger(__name__)

#: What the user asked for cannot be done as asked: exit code 2, the message and no traceback.
ASKED_WRONGLY = (
    ConfigError, DatasetError, BackboneError, WeightsError, CheckpointError, EvaluationError, TrackingError,
)  # fmt: skip

#: What the tracker says of a job that ended with this status; anything else was stopped.
FINAL: dict[str, Status] = {"FINISHED": "FINISHED", "FAILED": "FAILED"}


def check_train(config: DictConfig) -> None:
    """Check a training config, and that the file that it starts from is there (a tracked run comes later)."""
    settings = train_settings(config)
    start = settings.init_from
    if start is not None and settings.resume is None and not RUN_ID.fullmatch(start):
        find_checkpoint(start, key="init_from")


#: How the config of each schema is checked.
CHECKS: dict[type | None, Callable[[DictConfig], object]] = {
    TrainConfig: check_train,
    EvaluateConfig: evaluate_settings,
    ThresholdConfig: threshold_settings,
}


class SweepEnded(BaseException):
    """A job failed and `sweep.fail_fast` is set; Hydra would go on after any `Exception`."""


def launch(command: str, story: Callable[[Job], Mapping[str, float]]) -> NoReturn:
    """Compose `conf/<command>.yaml` with what was typed, run `story` once or for each job of a sweep, exit.

    Exit codes: 0 done, 1 something failed, 2 asked wrongly, 130 / 143 stopped by Ctrl-C / SIGTERM.
    """
    register()
    logging.captureWarnings(True)
    for inherited in (PARENT_FOLDER, SWEPT_KEYS):
        os.environ.pop(inherited, None)
    tracebacks = os.environ.get("HYDRA_FULL_ERROR") == "1"
    # Hydra would print its own summary and exit with 1; this lets the exceptions come here.
    os.environ["HYDRA_FULL_ERROR"] = "1"

    failures: list[Exception] = []
    failed_in_sweep: list[Exception] = []

    @hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=command)
    def app(config: DictConfig) -> None:
        try:
            _run_job(config, story)
        except Exception as error:
            if HydraConfig.get().mode != RunMode.MULTIRUN:
                # Hydra prints the whole command line again before an exception; so it does not see it.
                failures.append(error)
                return
            failed_in_sweep.append(error)
            expected = isinstance(error, ASKED_WRONGLY)
            log.error("the job failed: %s", error, exc_info=None if expected else error)
            if OmegaConf.select(config, "sweep.fail_fast", default=False):
                raise SweepEnded from error

    try:
        check_ahead(command, sys.argv[1:])
        app()
        if failures:
            raise failures[0]
    except Stopped as stopped:
        _complain(str(stopped))
        sys.exit(stopped.exit_code)
    except SweepEnded as ended:
        _complain(f"the sweep ended at its first failure (sweep.fail_fast): {ended.__cause__}")
        sys.exit(1)
    except (*ASKED_WRONGLY, HydraException, OmegaConfBaseException) as error:
        if tracebacks:
            raise
        hydras = isinstance(error, HydraException | OmegaConfBaseException)
        _complain(explain(error, command, sys.argv[1:]) if hydras else str(error))
        sys.exit(2)
    except Exception as error:
        if tracebacks or not isinstance(error, RuntimeError | OSError):
            raise
        _complain(str(error))
        sys.exit(1)
    sweep = os.environ.get(PARENT_FOLDER)
    failed = len(failed_jobs(Path(sweep))) if sweep else len(failed_in_sweep)
    if failed:
        where = f"; table and folders in {sweep}" if sweep else ""
        _complain(f"{failed} jobs of the sweep failed{where}")
    sys.exit(1 if failed else 0)


def check_ahead(command: str, typed: list[str]) -> None:
    """Compose and check every job before the first one starts: a slip costs seconds and leaves no trace.

    What is typed for Hydra itself (`--cfg`, `--config-dir`, sweeps that only a plugin can expand,
    `${hydra:…}`, which is known once a job runs) is left to Hydra.

    Raises:
        ConfigError, HydraException: the first job that is wrong.
    """
    words = [word for word in typed if not word.startswith("-")]
    if {*typed} - {*words} - {"-m", "--multirun"} or any("${hydra:" in word for word in words):
        return
    multirun = len(words) < len(typed)
    # What the job itself will warn of is not said twice.
    with warnings.catch_warnings(), initialize_config_dir(str(config_folder()), version_base="1.3"):
        warnings.simplefilter("ignore")
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        overrides = parser.parse_overrides(words)
        choices = [[override.input_line or ""] for override in overrides]
        if multirun:
            for choice, override in zip(choices, overrides, strict=True):
                if override.is_discrete_sweep():
                    key = override.get_key_element()
                    choice[:] = [f"{key}={value}" for value in override.sweep_string_iterator()]
                elif override.is_sweep_override():
                    return
        for job in itertools.product(*choices):
            try:
                config = compose(command, overrides=list(job))
            except ValueError as error:  # such as a group set to null, which Hydra does not name
                raise ConfigError(f"{' '.join(job)}: {error}") from error
            check = CHECKS.get(OmegaConf.get_type(config))
            if check:
                check(config)
                default_store(home(), config.tracking.uri)


def _run_job(config: DictConfig, story: Callable[[Job], Mapping[str, float]]) -> None:
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    in_sweep = hydra_config.mode == RunMode.MULTIRUN
    sweep = os.environ.get(PARENT_FOLDER) if in_sweep else None
    overrides = list(hydra_config.overrides.task)
    with StopSignals() as stop:
        name = job_name(config, overrides, dict(hydra_config.runtime.choices))
        parent = Path(sweep) if sweep else None
        job = Job(config, folder, overrides, Console(), stop, name=name, sweep=parent)
        try:
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
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _complain(message: str) -> None:
    Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(message)}", highlight=False)
