"""The command line of each process of `torchrun … -m reid.train`: one run, so one folder and one voice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from reid.config.checks import ConfigError
from reid.home import for_hydra, home

if TYPE_CHECKING:
    from reid.engine.distributed import Processes

_RUN_DIR = "hydra.run.dir"


def check_launch(command: str, typed: Sequence[str], processes: Processes, together: bool) -> None:
    """Raises ConfigError for what several processes cannot do: another command than training, and sweeps."""
    if processes.count == 1:
        return
    if not together:
        raise ConfigError(
            f"the {command} command is one process, and torchrun started {processes.count}: start it with "
            f"python -m reid.{command}"
        )
    if {"-m", "--multirun"} & set(typed):
        raise ConfigError(
            f"-m under torchrun would run the whole sweep in each of {processes.count} processes. Start "
            "sweeps with python -m, one GPU a job; over several machines by a launcher of Hydra's, such as "
            "hydra/launcher=submitit_slurm"
        )


def run_folder(typed: Sequence[str]) -> str:
    """The folder of the run, as one process decides it for all: a time in it differs from one to the next."""
    chosen = [word.partition("=")[2] for word in typed if word.lstrip("+").startswith(f"{_RUN_DIR}=")]
    default = str(for_hydra(home()) / "outputs" / "${now:%Y-%m-%d_%H-%M-%S-%f}")
    folder = chosen[-1].strip("'\"") if chosen else default
    dated = re.sub(r"\$\{now:([^}]*)\}", lambda now: datetime.now().strftime(now[1]), folder)
    return dated if "${" in dated else str(Path(dated).expanduser().absolute())


def process_arguments(folder: str, processes: Processes) -> list[str]:
    """What is added to the command line of one of several processes: where the run lies.

    One that is not the first prints nothing, and keeps its log beside the first one's.
    """
    if processes.count == 1:
        return []
    quoted = folder.replace("\\", "\\\\").replace("'", "\\'")
    added = [f"{_RUN_DIR}='{quoted}'"]
    if not processes.first:
        added += [
            f"hydra.job.name=process{processes.number}",
            "hydra.job_logging.root.handlers=[file]",
            "hydra.output_subdir=null",
        ]
    return added
