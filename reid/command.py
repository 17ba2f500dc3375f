"""What every Hydra command of the suite shares: composing, refusing in words, exit codes, one job's frame."""

import gc
import itertools
import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from textwrap import shorten
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

from reid.checks import ConfigError
from reid.compose_errors import explain
from reid.config import (
    EvaluateConfig,
    TrainConfig,
    config_folder,
    evaluate_settings,
    flat,
    register,
    train_settings,
)
from reid.console import ConsoleProgress
from reid.data import DatasetError
from reid.engine.checkpoint import CheckpointError
from reid.engine.rundir import RunStatus, find_unfinished, run_of
from reid.engine.stop import Stopped, StopSignals
from reid.engine.sweep import PARENT_FOLDER, SWEPT_KEYS, failed_jobs
from reid.home import home, source_root
from reid.models import BackboneError, WeightsError
from reid.retrieval import EvaluationError
from reid.tracking import Tracker, TrackingError, default_store, environment

log = logging.getLogger(__name__)

#: Of a run's name, which is also the title of its figures.
NAME_LENGTH = 60

#: What the user asked for cannot be done as asked: exit code 2, the message and no traceback.
ASKED_WRONGLY = (
    ConfigError, DatasetError, BackboneError, WeightsError, CheckpointError, EvaluationError, TrackingError,
)  # fmt: skip

#: How the config of each schema is checked.
CHECKS: dict[type | None, Callable[[DictConfig], object]] = {
    TrainConfig: train_settings,
    EvaluateConfig: evaluate_settings,
}


@dataclass
class Job:
    """One job of a command: its config and the frame around it.

    `folder` is where the job writes: Hydra's output folder, or that of the run which is resumed.
    """

    config: DictConfig
    folder: Path
    overrides: list[str]
    console: Console
    stop: StopSignals
    resuming: bool = False
    name: str = "run"
    sweep: Path | None = None
    tracker: Tracker | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.progress = ConsoleProgress(self.console)
        self.status = RunStatus("RUNNING", overrides=self.overrides, name=self.name)
        self._place = self.folder

    def save_status(self) -> None:
        """Write `status.json`: into Hydra's folder, and into the resumed run's once this job owns it."""
        self.status.run_dir = str(self.folder)
        self.status.run_id = self.tracker.run_id if self.tracker else None
        self.status.write(self._place)
        if self.tracker is not None and self.folder != self._place:
            self.status.write(self.folder)

    def resume(self, wanted: str | None, config_hash: str) -> None:
        """Move into the folder of the run that `wanted` names (`auto`: the newest unfinished of this config).

        Raises:
            CheckpointError: there is no such run.
        """
        self.status.config_hash = config_hash
        if wanted is None:
            return
        roots = [home() / "outputs", home() / "multirun"]
        found = find_unfinished(config_hash, self.folder, roots) if wanted == "auto" else run_of(Path(wanted))
        if found is None:
            self.console.print("nothing to resume: no unfinished run of this config; starting a new one")
            return
        self.folder, self.resuming = found, True

    def track(self, settings: TrainConfig, facts: Mapping[str, object]) -> Tracker:
        """Open the tracked run of this job, as a child where it belongs to a sweep."""
        OmegaConf.save(OmegaConf.create(asdict(settings)), self.folder / "config_resolved.yaml")
        provenance = environment(source_root())
        self.tracker = Tracker.start(
            default_store(home(), settings.tracking.uri),
            settings.tracking.experiment,
            self.folder,
            self.name,
            tags={**provenance.tags, **facts, "reid.overrides": " ".join(self.overrides)},
            params=flat(settings),
            parent=self.sweep,
            resume=self.resuming,
        )
        self.save_status()
        self.tracker.artifact(self.folder / "config_resolved.yaml")
        if provenance.diff:
            self.tracker.text(provenance.diff, "git.diff")
        return self.tracker

    def record_failure(self, error: Exception) -> None:
        """Show a job of a sweep that failed before it was tracked: its run is FAILED with the traceback."""
        if self.tracker is not None or self.sweep is None:
            return
        tracking = self.config.tracking
        try:
            self.tracker = Tracker.start(
                default_store(home(), tracking.uri),
                tracking.experiment,
                self.folder,
                self.name,
                tags={"reid.overrides": " ".join(self.overrides)},
                parent=self.sweep,
            )
            with self.tracker:
                raise error
        except type(error):
            pass


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

    @hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=command)
    def app(config: DictConfig) -> None:
        try:
            _run_job(config, story)
        except Exception as error:
            # Hydra prints the whole command line again before an exception; so it does not see it.
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            failures.append(error)

    try:
        check_ahead(command, sys.argv[1:])
        app()
        if failures:
            raise failures[0]
    except Stopped as stopped:
        _complain(str(stopped))
        sys.exit(stopped.exit_code)
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
    failed = failed_jobs(Path(sweep)) if sweep else []
    if failed:
        _complain(f"{len(failed)} jobs of the sweep failed; table and folders in {sweep}")
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
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
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


def _run_job(config: DictConfig, story: Callable[[Job], Mapping[str, float]]) -> None:
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    in_sweep = hydra_config.mode == RunMode.MULTIRUN
    sweep = os.environ.get(PARENT_FOLDER) if in_sweep else None
    overrides = list(hydra_config.overrides.task)
    with StopSignals() as stop:
        name = _name(config, overrides, dict(hydra_config.runtime.choices))
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
            if not in_sweep or OmegaConf.select(config, "sweep.fail_fast", default=False):
                raise
            # The other jobs go on; the exit code is set from the status files at the end.
            log.error("%s failed: %s", job.name, error, exc_info=not isinstance(error, ASKED_WRONGLY))
        finally:
            job.save_status()
            # The jobs of a sweep share this process.
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _name(config: DictConfig, overrides: list[str], choices: dict[str, str | None]) -> str:
    """A run's name says what differs: the swept keys in a sweep, else the choices and what was typed."""
    given = OmegaConf.select(config, "tracking.run_name")
    values = dict(override.lstrip("+~").partition("=")[::2] for override in overrides)
    swept = [key for key in os.environ.get(SWEPT_KEYS, "").split(",") if key in values]
    if swept:
        return ", ".join(f"{key}={values[key]}" for key in swept)
    if given:
        return str(given)
    if choices.get("experiment"):
        parts = [str(choices["experiment"])]
    else:
        parts = [str(choices[group]) for group in ("dataset", "backbone", "loss") if choices.get(group)]
    typed = [f"{key}={value}" for key, value in values.items() if "." in key or key in ("epochs", "seed")]
    shown = [word for word in typed if "/" not in word and not word.startswith(("data.", "tracking."))]
    return shorten(" ".join([*parts, *shown]), NAME_LENGTH, placeholder=" …")


def _complain(message: str) -> None:
    Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(message)}", highlight=False)
