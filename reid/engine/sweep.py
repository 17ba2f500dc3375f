"""What Hydra calls around a multirun: one parent run, and the sweep's table and figure when it ends."""

import atexit
import os
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from reid.engine import report
from reid.engine.rundir import STATUS, RunStatus, read_status
from reid.home import home, source_root
from reid.tracking import Status, Tracker, default_store, environment, open_parent

#: How the jobs of a sweep, which may be other processes, learn whose children they are.
PARENT_FOLDER = "REID_SWEEP_FOLDER"
SWEPT_KEYS = "REID_SWEPT_KEYS"


class SweepCallback(Callback):
    """Opens the parent before the first job, so that no job has to create the store, and closes it."""

    def __init__(self) -> None:
        self.parent: Tracker | None = None
        self.folder = Path()
        self.keys: list[str] = []
        self.split = "test"
        self.name: str | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        self.folder = Path(config.hydra.sweep.dir).absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        overrides = list(config.hydra.overrides.task)
        self.keys = swept_keys(overrides)
        self.split = config.eval.split
        self.name = OmegaConf.select(config, "sweep.name", default=None)
        os.environ[PARENT_FOLDER] = str(self.folder)
        os.environ[SWEPT_KEYS] = ",".join(self.keys)
        self.parent = open_parent(
            default_store(home(), config.tracking.uri),
            config.tracking.experiment,
            self.folder,
            config.tracking.run_name or f"sweep of {', '.join(self.keys) or 'one config'}",
            tags={
                **environment(source_root()).tags,
                "reid.swept": ", ".join(self.keys),
                "reid.overrides": " ".join(overrides),
                "reid.score_split": self.split,
            },
            description=f"`{' '.join(overrides)}`: under way",
        )
        # Hydra calls no callback when a job ends the process.
        atexit.register(self.close)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Put table and figure on the parent and close it; a second call does nothing."""
        parent, self.parent = self.parent, None
        if parent is None:
            return
        jobs = job_statuses(self.folder)
        statuses = {job.status for job in jobs}
        status: Status = (
            "FINISHED" if statuses == {"FINISHED"} else "KILLED" if "KILLED" in statuses else "FAILED"
        )
        try:
            report.write(parent, self.folder, jobs, self.keys, self.split, self.name)
        finally:
            parent.finish(status)


def swept_keys(overrides: list[str]) -> list[str]:
    """The keys that take several values in these overrides, in the order in which they were typed."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    return [override.key_or_group for override in parsed if override.is_sweep_override()]


def job_statuses(folder: Path) -> list[RunStatus]:
    """What became of each job of the sweep in `folder`; a job that left no word was killed: FAILED."""
    jobs = sorted((path for path in folder.glob("*") if path.name.isdigit()), key=lambda path: int(path.name))
    told = [read_status(job) or RunStatus("FAILED", error=f"no {STATUS}: the job was killed") for job in jobs]
    for status in told:
        if status.status == "RUNNING":
            status.status, status.error = "FAILED", status.error or "the job was killed"
    return told


def failed_jobs(folder: Path) -> list[RunStatus]:
    """The jobs of the sweep in `folder` that did not finish."""
    return [job for job in job_statuses(folder) if job.status != "FINISHED"]
