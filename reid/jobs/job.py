"""One job of a command and the frame around it: folder, status, tracked run."""

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.text import Text

from reid.config.identity import flat, flat_keys
from reid.config.schema import EvaluateConfig, TrainConfig
from reid.engine.distributed import ALONE, Processes
from reid.engine.rundir import (
    LAST,
    STATUS,
    Fingerprint,
    RunStatus,
    clear_partials,
    find_finished,
    find_unfinished,
    read_status,
    run_of,
)
from reid.engine.stop import StopSignals
from reid.home import home, literal, source_root
from reid.jobs.console import ConsoleProgress
from reid.sweeps.sweep_file import SWEPT_KEYS
from reid.terminal import log_sizes, move_logs
from reid.tracking import SilentTracker, Tracker, TrackingError, default_store, environment
from reid.tracking.journal import Journal
from reid.tracking.sources import code, codes_since, oldest_alike

log = logging.getLogger(__name__)

#: Of a run's name, which is also the title of its figures.
NAME_LENGTH = 60


@dataclass
class Job:
    """One job of a command: its config and the frame around it.

    `folder` is where the job writes: Hydra's output folder, or that of the run which is resumed.
    `tags` are set on its tracked run.  `after_score` is called with the scores of an epoch once they and the
    checkpoint are written; what it raises ends the run.  Several processes that train together have a
    job each, with one folder; the first one decides and writes.
    """

    config: DictConfig
    folder: Path
    overrides: list[str]
    console: Console
    stop: StopSignals
    resuming: bool = False
    name: str = "run"
    sweep: Path | None = None
    tags: Mapping[str, object] = field(default_factory=dict)
    processes: Processes = ALONE
    after_score: Callable[[int, dict[str, float]], None] = field(default=lambda _epoch, _scores: None)
    tracker: Tracker | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.progress = ConsoleProgress(self.console)
        self.status = RunStatus("RUNNING", overrides=self.overrides, name=self.name)
        self._place = self.folder
        self._finished: list[RunStatus] = []
        self._unfinished: Path | None = None
        self._is_taken = False
        self._logs = log_sizes(self._place)

    def save_status(self) -> None:
        """Write `status.json`: into Hydra's folder, and into the resumed run's once this job owns it."""
        if not self.processes.first:
            return
        if not self._is_taken:
            self.status.run_dir = str(self.folder)
            self.status.run_id = self.tracker.run_id if self.tracker else None
        places = {self._place, self.folder} if self.tracker is not None else {self._place}
        for place in places:
            try:
                self.status.write(place)
            except OSError as error:
                log.warning("%s could not be written: %s", place / STATUS, error)

    def resume(
        self,
        wanted: str | None,
        config_hash: str,
        data_root: str,
        take: str = "none",
        fingerprint: Fingerprint = None,
    ) -> None:
        """Move into the folder of the run that `wanted` names (`auto`: the newest unfinished of this config).

        A job of a sweep does so by itself, and knows from here on which runs have finished its cell already;
        `take` says which of them count: those of the same code, of any, or (none) only what this very job
        left in its folder before it was killed.  `fingerprint` tells the data of now, which may have moved.
        Nothing is written there before `track`.

        Raises:
            CheckpointError: there is no such run.
        """
        self.status.config_hash, self.status.data_root = config_hash, data_root
        self.status.code = code()
        roots = [home() / "outputs", home() / "multirun"]
        if self.sweep is not None and wanted in (None, "auto"):
            self._find_runs_of_cell(take, roots, fingerprint)
            return
        if wanted is None:
            return
        found = None
        if self.processes.first and wanted == "auto":
            found = find_unfinished(config_hash, data_root, self.folder, roots, fingerprint=fingerprint)
        elif self.processes.first:
            found = run_of(Path(wanted))
        found = self.processes.broadcast(found)
        if found is None:
            self.console.print("nothing to resume: no unfinished run of this config; starting a new one")
            return
        self.folder, self.resuming = found, True

    def _find_runs_of_cell(self, take: str, roots: list[Path], fingerprint: Fingerprint) -> None:
        """Find what is there of this sweep's cell: finished runs, and a checkpoint to go on from."""
        status, places = self.status, None if take == "none" else roots
        codes = None if take == "any_code" else codes_since(oldest_alike(self._leaves()))
        cell = status.config_hash, status.data_root, self.folder, places, codes, fingerprint
        self._finished = find_finished(*cell)
        self._unfinished = find_unfinished(*cell)

    @property
    def found_a_run(self) -> bool:
        """Whether a run of this sweep's cell is known; its data must still be compared, see `taken`."""
        return bool(self._finished) or self._unfinished is not None

    def taken(self, data_fingerprint: str) -> dict[str, float] | None:
        """The scores of the finished run of this cell on these very data, or None: then it has to run.

        A run that was begun on these data is gone on with.
        """
        for found in self._finished:
            if found.data_fingerprint == data_fingerprint and Path(found.run_dir).is_dir():
                own = Path(found.run_dir).parent == self._place.parent
                source = "" if own else found.run_dir
                self.status = replace(found, overrides=self.overrides, name=self.name, taken_from=source)
                self._is_taken = True
                where = "" if own else f" in {found.run_dir}"
                line = Text.assemble((self.name, "bold"), f": finished already{where}")
                self.console.print(line, soft_wrap=True)
                return found.scores
        if self._unfinished is not None:
            self._go_on_from(self._unfinished, data_fingerprint)
        return None

    def _go_on_from(self, unfinished: Path, data_fingerprint: str) -> None:
        status = read_status(unfinished)
        if status is not None and status.data_fingerprint not in ("", data_fingerprint):
            log.warning("%s was begun on other data than lie there now: starting anew", unfinished)
            if Journal(self.folder).path.exists():
                self.folder = self._new_folder()
            return
        if unfinished.parent != self._place.parent:
            # Begun in another sweep: what it has learnt goes on here, as a run of this one.
            partial = self.folder / f".{LAST}.copy.partial"
            shutil.copy2(unfinished / LAST, partial)
            partial.replace(self.folder / LAST)
            unfinished = self.folder
        self.folder, self.resuming = unfinished, True

    def track(self, settings: TrainConfig | EvaluateConfig, facts: Mapping[str, object]) -> Tracker:
        """Open the tracked run of this job, as a child where it belongs to a sweep.

        From here on the run's folder is this job's: another process that holds it makes this raise.
        """
        if not self.processes.first:
            self.tracker = SilentTracker()
            return self.tracker
        provenance = environment(source_root())
        made_by = {"reid.code": self.status.code or code()}
        # In one piece, so that no run is opened without anybody to close it.
        with self.stop.in_one_piece():
            self.tracker = self._open_run(
                settings.tracking.uri,
                settings.tracking.experiment,
                {**provenance.tags, **made_by, **facts, **self.tags},
                flat(settings),
            )
        # The folder is this job's now.  What a kill left half written would fill the disk.
        move_logs(self._logs, self.folder)
        for partial in self.folder.glob(".*.partial"):
            partial.unlink(missing_ok=True)
        clear_partials([home() / "outputs", home() / "multirun"])
        self.status.data_fingerprint = str(facts.get("reid.data.fingerprint", ""))
        self.save_status()
        OmegaConf.save(OmegaConf.create(_literal(asdict(settings))), self.folder / "config_resolved.yaml")
        self.tracker.artifact(self.folder / "config_resolved.yaml")
        if provenance.diff:
            self.tracker.text(provenance.diff, "git.diff")
        return self.tracker

    def _open_run(
        self,
        uri: str | None,
        experiment: str,
        tags: Mapping[str, object],
        params: Mapping[str, object],
    ) -> Tracker:
        again = self.resuming
        if self.sweep is not None and not again and Journal(self.folder).path.exists():
            # A failed attempt at this cell is tried again as the same run.  A finished one, on other data
            # or by other code, stays what it is.
            status = read_status(self.folder)
            again = status is None or status.status != "FINISHED"
            if not again:
                self.folder = self._new_folder()
        return Tracker.start(
            default_store(home(), uri),
            experiment,
            self.folder,
            self.name,
            tags={**tags, "reid.overrides": " ".join(self.overrides)},
            params=params,
            parent=self.sweep,
            resume=again,
        )

    def _new_folder(self) -> Path:
        """A new folder beside Hydra's."""
        number = 2
        while (folder := self._place.with_name(f"{self._place.name}-{number}")).exists():
            number += 1
        folder.mkdir()
        return folder

    def _leaves(self) -> dict[str, Any]:
        """The composed config, flat."""
        return flat_keys(OmegaConf.to_container(self.config, resolve=True))  # type: ignore[arg-type]

    def record_failure(self, error: Exception) -> None:
        """Show a job of a sweep that failed before it was tracked: its run is FAILED with the traceback."""
        if self.tracker is not None or self.sweep is None:
            return
        tracking = self.config.tracking
        tags = {**environment(source_root()).tags, "reid.code": code(), **self.tags}
        try:
            self.tracker = self._open_run(tracking.uri, tracking.experiment, tags, self._leaves())
            with self.tracker:
                raise error
        except TrackingError as refusal:
            log.warning("the failed job could not be tracked: %s", refusal)
        except type(error):
            pass


def _literal(value: Any) -> Any:
    """Plain data with all its texts as OmegaConf has to hold them."""
    if isinstance(value, dict):
        return {key: _literal(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_literal(item) for item in value]
    return literal(value) if isinstance(value, str) else value


def job_name(config: DictConfig, overrides: list[str], choices: dict[str, str | None]) -> str:
    """A run's name says what differs: the swept keys in a sweep, else the choices and what was typed."""
    run_name = OmegaConf.select(config, "tracking.run_name")
    values = dict(override.lstrip("+~").partition("=")[::2] for override in overrides)
    swept = [key for key in os.environ.get(SWEPT_KEYS, "").split(",") if key in values]
    if swept:
        return ", ".join(f"{key}={values[key]}" for key in swept)
    if run_name:
        return str(run_name)
    if "dataset" not in choices:  # a resolved config: its choices are those of the run that it is of
        choices = {"experiment": values.pop("experiment", None), **_named(config)}
    if choices.get("experiment"):
        parts = [str(choices["experiment"])]
    else:
        parts = [str(choices[group]) for group in ("dataset", "backbone", "loss") if choices.get(group)]
    typed = [f"{key}={value}" for key, value in values.items() if "." in key or key in ("epochs", "seed")]
    shown = [word for word in typed if "/" not in word and not word.startswith(("data.", "tracking."))]
    return shorten(" ".join([*parts, *shown]), NAME_LENGTH, placeholder=" …")


def _named(config: DictConfig) -> dict[str, str]:
    """What stands in the place of choices in a config that has none."""
    keys = {"dataset": "dataset.name", "backbone": "backbone.name", "loss": "loss._target_"}
    values = {group: OmegaConf.select(config, key) for group, key in keys.items()}
    return {group: str(value).rpartition(".")[2] for group, value in values.items() if value}
