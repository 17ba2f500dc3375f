"""The cells of a command before the first one starts: every job composed, checked and named by its config.

A sweep is a set of cells.  Started again it goes on in the folder in which it was begun; what is finished is
not run again, which the job itself finds out (`reid.jobs.job`).
"""

import itertools
import shlex
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from reid.config.checks import ConfigError
from reid.config.identity import config_hash, flat
from reid.config.schema import (
    RUN_ID,
    EvaluateConfig,
    ThresholdConfig,
    TrainConfig,
    TuneConfig,
    config_folder,
    register,
)
from reid.config.search_space import tune_settings
from reid.config.settings import evaluate_settings, threshold_settings, train_settings
from reid.engine.checkpoint_source import find_checkpoint
from reid.home import for_hydra, from_hydra, home
from reid.sweeps.slots import places
from reid.sweeps.sweep_file import SweepFile, find_sweep, read_sweep
from reid.tracking import default_store
from reid.tracking.journal import Journal
from reid.tracking.sources import code, codes_since, oldest_alike

SWEEP_DIR = "hydra.sweep.dir"
A_YEAR = 365 * 24 * 60  # minutes


@dataclass(frozen=True)
class Cell:
    """One job of a command: what makes it, and what tells its result apart ("" where nothing is trained).

    alike_since: the least of the numbers of `reid.tracking.sources` that give this result.
    """

    overrides: tuple[str, ...]
    config_hash: str = ""
    data_root: str = ""
    alike_since: int = 1


@dataclass(frozen=True)
class Plan:
    """All jobs of a command.  `cells` is empty where only Hydra can tell them (a sweeper plugin, `--cfg`).

    trained: the settings of the cells that train.
    """

    multirun: bool
    cells: list[Cell] = field(default_factory=list)
    launcher: str = "basic"
    experiment: str = ""
    take: str = "same_code"
    retry: int = 0
    trained: list[TrainConfig] = field(default_factory=list)


def check_train(config: DictConfig) -> TrainConfig:
    """Check a training config, and that the file that it starts from is there (a tracked run comes later)."""
    settings = train_settings(config)
    start = settings.init_from
    if start is not None and settings.resume is None and not RUN_ID.fullmatch(start):
        find_checkpoint(start, key="init_from")
    return settings


#: How the config of each schema is checked.
CHECKS: dict[type | None, Callable[[DictConfig], object]] = {
    TrainConfig: check_train,
    EvaluateConfig: evaluate_settings,
    ThresholdConfig: threshold_settings,
    TuneConfig: tune_settings,
}


def expand(command: str, words: Sequence[str]) -> list[Cell]:
    """The cells that `python -m reid.<command> -m <words>` runs, in the order of its jobs.

    Raises:
        ConfigError, HydraException: the first job that is wrong.
    """
    register()
    return plan(command, ["-m", *words]).cells


def plan(command: str, typed: Sequence[str]) -> Plan:
    """Compose and check every job before the first one starts: a slip costs seconds and leaves no trace.

    command: the name of its primary config.
    What is typed for Hydra itself (`--cfg`, sweeps that only a plugin can expand, `${hydra:…}`, which is
    known once a job runs) is left to Hydra.  Neither data nor weights are looked at.

    Raises:
        ConfigError, HydraException: the first job that is wrong.
    """
    _refuse_scattered(typed)
    words = [word for word in typed if not word.startswith("-")]
    multirun = bool({"-m", "--multirun"} & set(typed))
    if {*typed} - {*words} - {"-m", "--multirun"} or any("${hydra:" in word for word in words):
        return Plan(multirun)
    if not multirun and any(word.startswith("sweep=") for word in words):
        raise ConfigError(f"{' '.join(words)}: a sweep runs many jobs. Add -m to run them all")
    # What the job itself will warn of is not said twice.
    with warnings.catch_warnings(), initialize_config_dir(str(config_folder()), version_base="1.3"):
        warnings.simplefilter("ignore")
        choices = _choices(words, multirun)
        if choices is None:
            return Plan(multirun)
        launcher, config = "basic", DictConfig({})
        if multirun:
            hydra = _compose(command, [choice[0] for choice in choices.values()], whole=True).hydra
            launcher = hydra.runtime.choices["hydra/launcher"]
            given = OmegaConf.select(hydra, "sweeper.params") or {}
            # What is typed wins over the sweep's file, in its place, as Hydra's own sweeper has it.
            of_file = _choices([f"{key}={value}" for key, value in given.items()], multirun) or {}
            choices = {**of_file, **choices}
        cells, trained = [], []
        for job in itertools.product(*choices.values()):
            config = _compose(command, list(job))
            check = CHECKS.get(OmegaConf.get_type(config))
            settings: Any = check(config) if check else None
            if isinstance(settings, TrainConfig):
                _refuse_two_radii(job, settings)
                root, since = str(settings.dataset["root"]), oldest_alike(flat(settings))
                cells.append(Cell(job, config_hash(settings), root, since))
                trained.append(settings)
            else:
                cells.append(Cell(job))
            if check:
                default_store(home(), config.tracking.uri)
        experiment = str(OmegaConf.select(config, "tracking.experiment", default=""))
        take = str(OmegaConf.select(config, "sweep.take", default="same_code"))
        fail_fast = OmegaConf.select(config, "sweep.fail_fast", default=False)
        retry = 0 if fail_fast else int(OmegaConf.select(config, "sweep.retry", default=0))
    if take != "none":
        _refuse_twins(cells)
    return Plan(multirun, cells, launcher, experiment, take, retry, trained)


def _refuse_scattered(typed: Sequence[str]) -> None:
    """Raises ConfigError where -m stands between overrides, which Hydra's parser takes on one side alone."""
    flags = ("-m", "--multirun")
    first = next((place for place, word in enumerate(typed) if word in flags), len(typed))
    keys = ["=" in word for word in typed]
    if any(keys[:first]) and any(keys[first:]):
        rest = " ".join(shlex.quote(word) for word in typed if word not in flags)
        raise ConfigError(f"{typed[first]} has to stand before the first key. Type: {typed[first]} {rest}")


def sweep_arguments(plan: Plan, typed: Sequence[str]) -> list[str]:
    """What is added to a multirun's command line: the folder in which it begins or goes on.

    Raises:
        ConfigError: that folder holds another sweep, or another process runs this one.
    """
    trained = [[cell.config_hash, cell.data_root] for cell in plan.cells]
    if not plan.multirun or not trained or not all(name for name, _ in trained):
        return []
    sweep = SweepFile(plan.experiment, code(), trained, [list(cell.overrides) for cell in plan.cells])
    chosen = [word.partition("=")[2] for word in typed if word.lstrip("+").startswith(f"{SWEEP_DIR}=")]
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
        "submitit_local": {"hydra.sweeper.max_batch_size": places(), "hydra.launcher.timeout_min": A_YEAR},
    }
    for key, value in own.get(plan.launcher, {}).items():
        if not any(word.lstrip("+").startswith(f"{key}=") for word in typed):
            added.append(f"{key}={value}")
    return added


def alike(cells: Sequence[Cell], take: str = "same_code") -> frozenset[str] | None:
    """The codes that give these cells the numbers of ours, see `tracking.sources`; None where any will do."""
    return None if take == "any_code" else codes_since(max(cell.alike_since for cell in cells))


def _choices(words: Sequence[str], multirun: bool) -> dict[str, list[str]] | None:
    """The values that each key takes, as overrides; None where only a plugin can tell them."""
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    choices: dict[str, list[str]] = {}
    for override in parser.parse_overrides(list(words)):
        key = override.get_key_element()
        if multirun and override.is_discrete_sweep():
            choices[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        elif multirun and override.is_sweep_override():
            return None
        else:
            choices[key] = [override.input_line or ""]
    return choices


def _compose(command: str, overrides: list[str], whole: bool = False) -> DictConfig:
    try:
        return compose(command, overrides=overrides, return_hydra_config=whole)
    except ValueError as error:  # such as a group set to null, which Hydra does not name
        raise ConfigError(f"{' '.join(overrides)}: {error}") from error


def _refuse_two_radii(job: Sequence[str], settings: TrainConfig) -> None:
    """Raises ConfigError where a margin was typed beside the radius that makes it void."""
    typed = {key: word for word in job for key in [word.lstrip("+").partition("=")[0]]}
    radius, margin = typed.get("loss.positive_radius"), typed.get("loss.margin")
    if radius and margin and settings.loss.get("positive_radius") is not None:
        raise ConfigError(
            f"{radius} and {margin} cannot both be: the radius stands for alpha - margin. Leave one out"
        )


def _refuse_twins(cells: list[Cell]) -> None:
    """Raises ConfigError where two jobs of a sweep are one and the same experiment."""
    first: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        if not cell.config_hash:
            continue
        twin = first.setdefault((cell.config_hash, cell.data_root), cell)
        if twin is not cell:
            apart = sorted(set(twin.overrides) ^ set(cell.overrides))
            raise ConfigError(
                "two jobs of this sweep are the same experiment"
                + (f", though {', '.join(apart)} differ" if apart else "")
                + ". Name each once; to run both nonetheless set sweep.take=none"
            )
