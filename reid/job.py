"""One job of a command and the frame around it: folder, status, tracked run."""

import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from textwrap import shorten

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from reid.config import EvaluateConfig, TrainConfig
from reid.console import ConsoleProgress
from reid.engine.rundir import STATUS, RunStatus, find_unfinished, run_of
from reid.engine.stop import StopSignals
from reid.engine.sweep import SWEPT_KEYS
from reid.home import home, source_root
from reid.settings import flat
from reid.tracking import Tracker, TrackingError, default_store, environment

log = logging.getLogger(__name__)

#: Of a run's name, which is also the title of its figures.
NAME_LENGTH = 60


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
        places = {self._place, self.folder} if self.tracker is not None else {self._place}
        for place in places:
            try:
                self.status.write(place)
            except OSError as error:
                log.warning("%s could not be written: %s", place / STATUS, error)

    def resume(self, wanted: str | None, config_hash: str, data_root: str) -> None:
        """Move into the folder of the run that `wanted` names (`auto`: the newest unfinished of this config).

        Nothing is written there before `track`.

        Raises:
            CheckpointError: there is no such run.
        """
        self.status.config_hash, self.status.data_root = config_hash, data_root
        if wanted is None:
            return
        roots = [home() / "outputs", home() / "multirun"]
        if wanted == "auto":
            found = find_unfinished(config_hash, data_root, self.folder, roots)
        else:
            found = run_of(Path(wanted))
        if found is None:
            self.console.print("nothing to resume: no unfinished run of this config; starting a new one")
            return
        self.folder, self.resuming = found, True

    def track(self, settings: TrainConfig | EvaluateConfig, facts: Mapping[str, object]) -> Tracker:
        """Open the tracked run of this job, as a child where it belongs to a sweep.

        From here on the run's folder is this job's: another process that holds it makes this raise.
        """
        provenance = environment(source_root())
        # In one piece, so that no run is opened without anybody to close it.
        with self.stop.deferred():
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
        OmegaConf.save(OmegaConf.create(asdict(settings)), self.folder / "config_resolved.yaml")
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
                resume=self.resuming,
            )
            with self.tracker:
                raise error
        except TrackingError as refusal:
            log.warning("the failed job could not be tracked: %s", refusal)
        except type(error):
            pass


def job_name(config: DictConfig, overrides: list[str], choices: dict[str, str | None]) -> str:
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
