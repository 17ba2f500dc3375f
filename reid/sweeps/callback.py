"""What Hydra calls around a multirun: one parent run, and the sweep's table and figure when it ends."""

import atexit
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from reid.config.identity import flat_keys
from reid.home import from_hydra, home, source_root
from reid.sweeps import summary as report
from reid.sweeps.sweep_file import LAUNCHER, PARENT_FOLDER, SWEPT_KEYS, job_statuses
from reid.tracking import (
    JOURNAL,
    Status,
    Store,
    Tracker,
    TrackingError,
    default_store,
    environment,
    open_parent,
    send_late,
)

log = logging.getLogger(__name__)

#: What a sweep may wait at its end for what its jobs could not send.
CHILDREN_S = 60.0


class SweepCallback(Callback):
    """Opens the parent before the first job, so that no job has to create the store, and closes it."""

    def __init__(self) -> None:
        self.parent: Tracker | None = None
        self.store: Store | None = None
        self.folder = Path()
        self.keys: list[str] = []
        self.split = "test"
        self.name: str | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        self.folder = from_hydra(Path(config.hydra.sweep.dir).absolute())
        self.folder.mkdir(parents=True, exist_ok=True)
        overrides = list(config.hydra.overrides.task)
        of_file = OmegaConf.select(config, "hydra.sweeper.params") or {}
        self.keys = swept_keys([*(f"{key}={value}" for key, value in of_file.items()), *overrides])
        self.split = config.eval.split
        self.name = OmegaConf.select(config, "sweep.name", default=None)
        os.environ[PARENT_FOLDER] = str(self.folder)
        os.environ[SWEPT_KEYS] = ",".join(self.keys)
        os.environ[LAUNCHER] = str(os.getpid())
        self.store = default_store(home(), config.tracking.uri)
        self.parent = open_parent(
            self.store,
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
            resume=(self.folder / JOURNAL).exists(),
        )
        # Hydra calls no callback when a job ends the process.
        atexit.register(self.close)
        self.parent.params(shared(config, self.keys))

    def __getstate__(self) -> dict[str, Any]:
        """For the workers of a launcher: the parent stays with the process that opened it."""
        return {**self.__dict__, "parent": None, "store": None}

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Put table and figure on the parent and close it; a second call does nothing."""
        parent, self.parent = self.parent, None
        if parent is None or self.store is None:
            return
        send_children(self.folder, self.store)
        jobs = job_statuses(self.folder)
        statuses = {job.status for job in jobs}
        status: Status = "FINISHED" if statuses == {"FINISHED"} else "FAILED"
        if statuses & {"KILLED", "RUNNING"}:  # a worker that outlives its launcher is still at its cell
            status = "KILLED"
        try:
            summary = report.write(parent, self.folder, jobs, self.keys, self.split, self.name)
            if summary:
                print(f"\n{summary}", flush=True)
        finally:
            try:
                parent.finish(status)
            except OSError as error:
                log.warning("the sweep's end could not be written down: %s", error)


def send_children(folder: Path, store: Store) -> None:
    """Send what the jobs of the sweep in `folder` could not send, as far as the store answers.

    A job that was killed is marked FAILED there; one that an orphan is still at sends by itself.  A store
    that is slow is not waited for long.
    """
    started = time.monotonic()
    for path in sorted(folder.glob(f"*/{JOURNAL}")):
        try:
            left_s = max(0.0, CHILDREN_S - (time.monotonic() - started))
            delivery = send_late(path.parent, store, budget_s=left_s).delivery
        except (TrackingError, OSError) as error:
            log.info("%s: %s", path.parent, error)
            continue
        if delivery.error is not None or delivery.left:
            log.warning(
                "the tracking store does not take all of this sweep; later: python -m reid.sync %s", folder
            )
            return


def swept_keys(overrides: list[str]) -> list[str]:
    """The keys that take several values in these overrides, in the order in which they were typed.

    Of a key that comes twice the last counts.
    """
    last = {
        o.key_or_group: o.is_sweep_override() for o in OverridesParser.create().parse_overrides(overrides)
    }
    return [key for key, swept in last.items() if swept]


def shared(config: DictConfig, keys: Sequence[str]) -> dict[str, Any]:
    """The leaves that all jobs of a sweep over `keys` have in common; none where whole recipes are swept."""
    if "experiment" in keys:
        return {}
    ours = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    leaves = flat_keys(OmegaConf.to_container(ours, resolve=True))  # type: ignore[arg-type]
    swept = tuple(f"{key}." for key in keys)
    return {key: value for key, value in leaves.items() if not f"{key}.".startswith(swept)}
