"""What a check works with: the device, a folder of its own, the commands, and the time that is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
#: Lines of a failed command that the report keeps.
KEPT = 25
#: Seconds below which a check is not started: it would import PyTorch and be stopped.
LEAST = 20.0

#: What a check is: it returns what it measured, and raises `Failed` or `OutOfTime`.
Check = Callable[["Context"], Mapping[str, float | str]]


class Failed(Exception):
    """What was checked is not as it should be; the message says what was seen and what was expected."""


class OutOfTime(Exception):
    """The check was stopped at its deadline."""


@dataclass(frozen=True)
class Context:
    """`home` holds the data, stores and runs of all checks; `folder` is a check's own.

    `deadline` is a moment of `time.monotonic`.
    """

    device: str
    home: Path
    deadline: float = field(default_factory=lambda: time.monotonic() + 600)
    folder: Path = ROOT

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    def of(self, name: str, deadline: float) -> Context:
        """The same for one check."""
        folder = self.home / "checks" / name
        folder.mkdir(parents=True, exist_ok=True)
        return replace(self, folder=folder, deadline=deadline)

    def command(self, module: str, *words: str) -> str:
        """Run `python -m module word…` to its end, and return what it printed.

        Raises:
            Failed: another exit code than 0.
            OutOfTime: the deadline came first.
        """
        environment = {**os.environ, "REID_HOME": str(self.home), "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        environment.pop("MLFLOW_TRACKING_URI", None)  # nobody's store has to see these runs
        try:
            done = subprocess.run(
                [sys.executable, "-m", module, *words],
                env=environment,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=max(1.0, self.deadline - time.monotonic()),
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            raise OutOfTime(f"stopped at its limit: python -m {module} {' '.join(words)}") from late
        if done.returncode != 0:
            tail = "\n".join(done.stdout.strip().splitlines()[-KEPT:])
            raise Failed(f"python -m {module} {' '.join(words)} ended with {done.returncode}:\n{tail}")
        return done.stdout

    def train(self, folder: str, *words: str) -> Path:
        """Train on the drawn tiny set; returns the run's folder, or the sweep's for `-m`."""
        place = self.folder / folder
        sweep = words[:1] == ("-m",)
        where = f"hydra.sweep.dir={place}" if sweep else f"hydra.run.dir={place}"
        overrides = [word for word in words if word != "-m"]
        self.command(
            "reid.train", *(["-m"] if sweep else []), *TINY, f"data.root={self.home / 'data'}",
            f"device={self.device}", *overrides, where,
        )  # fmt: skip
        return place


#: Seconds on one core: the smallest run that goes through everything.
TINY = (
    "dataset=synthetic", "dataset.preset=tiny", "backbone=resnet18", "backbone.weights=none",
    "image.height=64", "image.width=32", "image.padding=4", "batch.identities=4", "epochs=2", "eval.period=0",
    "tracking.images=false", "tracking.checkpoint=false",
)  # fmt: skip


def read_status(folder: Path) -> dict[str, Any]:
    """What a run wrote of itself."""
    status: dict[str, Any] = json.loads((folder / "status.json").read_text(encoding="utf-8"))
    return status
