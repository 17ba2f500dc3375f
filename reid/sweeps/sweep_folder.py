"""The folder of a sweep: it begins in a new one, and started again it goes on in the one that it has."""

import warnings
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from reid.config.checks import ConfigError
from reid.home import for_hydra, from_hydra, home
from reid.sweeps.cells import Plan, alike
from reid.sweeps.slots import places
from reid.sweeps.slurm import LAUNCHER_NAME, batch_size, check_cluster
from reid.sweeps.sweep_file import SweepFile, find_sweep, read_sweep
from reid.tracking.journal import Journal
from reid.tracking.sources import code

SWEEP_DIR = "hydra.sweep.dir"
BATCH = "hydra.sweeper.max_batch_size"
#: How often a job of Slurm's that was saved at its time limit goes back into the queue.
REQUEUES = 20
A_YEAR = 365 * 24 * 60  # minutes


def sweep_arguments(plan: Plan, arguments: Sequence[str]) -> list[str]:
    """What is added to a multirun's command line: the folder in which it begins or goes on.

    Raises:
        ConfigError: that folder holds another sweep, or another process runs this one.
    """
    trained = [[cell.config_hash, cell.data_root] for cell in plan.cells]
    if not plan.multirun or not trained:
        return []
    cut = cut_to_cluster(plan, arguments)
    if not all(name for name, _ in trained):
        return [f"{key}={value}" for key, value in cut.items()]
    sweep = SweepFile(plan.experiment, code(), trained, [list(cell.overrides) for cell in plan.cells])
    chosen = [word.partition("=")[2] for word in arguments if word.lstrip("+").startswith(f"{SWEEP_DIR}=")]
    root = home() / "multirun"
    added = []
    if chosen:
        folder = from_hydra(Path(chosen[-1].strip("'\"")).expanduser().absolute())
        found = read_sweep(folder)
        if found is not None and found.cells != sweep.cells:
            raise ConfigError(
                f"{SWEEP_DIR}={folder} holds another sweep, of {len(found.cells)} cells. Leave it out, and "
                "this sweep finds its own folder; cells that are finished elsewhere are taken"
            )
    else:
        earlier = None if plan.take == "none" else find_sweep(sweep, root, alike(plan.cells, plan.take))
        other = find_sweep(sweep, root) if plan.take == "same_code" and earlier is None else None
        if other is not None:
            warnings.warn(
                f"{other} holds this sweep, begun by code that may compute other numbers: it begins anew. "
                "sweep.take=any_code goes on with that one",
                stacklevel=2,
            )
        folder = earlier or root / datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
        quoted = str(for_hydra(folder)).replace("\\", "\\\\").replace("'", "\\'")
        added.append(f"{SWEEP_DIR}='{quoted}'")
    if folder.is_dir() and Journal(folder).in_use():
        raise ConfigError(
            f"this sweep is under way in another process, in {folder}. Wait until it ends, or stop it"
        )
    sweep.write(folder)
    # One job a place at a time.  Submitit starts all jobs of a batch together, joblib would go by the cores.
    own = {
        "joblib": {"hydra.launcher.n_jobs": places()},
        # Without it submitit would end every job after an hour, though nobody waits for this machine.
        "submitit_local": {BATCH: places(), "hydra.launcher.timeout_min": A_YEAR},
        LAUNCHER_NAME: {"hydra.launcher.max_num_timeout": REQUEUES, **cut},
    }
    for key, value in own.get(plan.launcher, {}).items():
        if not any(word.lstrip("+").startswith(f"{key}=") for word in arguments):
            added.append(f"{key}={value}")
    return added


def cut_to_cluster(plan: Plan, arguments: Sequence[str]) -> dict[str, int]:
    """Keys that cut a sweep into as many arrays as the cluster takes; {} where one array takes it.

    Raises:
        ConfigError: Slurm refuses such jobs, or takes fewer at a time than was typed.
        SlurmError: the controller does not answer.
    """
    if plan.launcher != LAUNCHER_NAME:
        return {}
    words = [word.lstrip("+").partition("=") for word in arguments]
    typed = [value for key, _, value in words if key == BATCH]
    cells = len(plan.cells)
    size = batch_size(cells, int(typed[-1]) if typed and typed[-1].isdecimal() else None)
    at_once = min(cells, size or int(typed[-1] if typed and typed[-1].isdecimal() else cells))
    check_cluster(plan.launcher_keys, at_once)
    return {} if size is None else {BATCH: size}
