"""The cells of a command before the first one starts: every job composed, checked and named by its config.

A sweep is a set of cells.  Nothing here imports torch: what a loss or a backbone itself refuses, and the
data, are looked at by `reid.jobs.ahead`, once all else is right.
"""

import copy
import itertools
import re
import shlex
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationResolutionError

from reid.config.checks import ConfigError
from reid.config.identity import config_hash, flat
from reid.config.mix import MIX, losses_of
from reid.config.schema import (
    EvaluateConfig,
    ThresholdConfig,
    TrainConfig,
    TuneConfig,
    config_folder,
    register,
)
from reid.config.search_space import tune_settings
from reid.config.settings import evaluate_settings, threshold_settings, typed_train_settings
from reid.data import load_dataset
from reid.data.corrections import read_verdicts
from reid.engine.checkpoint_source import check_checkpoint
from reid.home import home
from reid.models import check_weights
from reid.tracking import default_store
from reid.tracking.sources import codes_since, oldest_alike

#: Launchers whose jobs run side by side on one machine.
SHARED_LAUNCHERS = ("joblib", "submitit_local")

#: Launchers whose jobs see the folders that this process sees; a cluster's may lie elsewhere.
HERE = ("basic", *SHARED_LAUNCHERS)

#: The dataset that lies nowhere before it is drawn.
DRAWN = "synthetic"


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
    """All jobs of a command.

    `cells` is empty where only Hydra can tell them (a sweeper plugin, `--cfg`); `settings` are those of each
    cell that is typed, in the same order; `launcher_keys` are those of `hydra.launcher`, unresolved.
    """

    multirun: bool
    cells: list[Cell] = field(default_factory=list)
    settings: list[Any] = field(default_factory=list, repr=False)
    launcher: str = "basic"
    launcher_keys: dict[str, Any] = field(default_factory=dict, repr=False)
    experiment: str = ""
    take: str = "same_code"
    retry: int = 0


def check_train(config: DictConfig) -> TrainConfig:
    """Check a training config, and that the files that it starts from and learns from are there (a tracked
    run comes later)."""
    settings = typed_train_settings(config)
    if settings.init_from is not None and settings.resume is None:
        check_checkpoint(settings.init_from, "init_from")
    if settings.teacher.checkpoint is not None:
        check_checkpoint(settings.teacher.checkpoint, "teacher.checkpoint")
    return settings


def check_evaluate(config: DictConfig) -> EvaluateConfig:
    """Check the config of an evaluation, and that its checkpoint is there (a tracked run comes later)."""
    settings = evaluate_settings(config)
    check_checkpoint(settings.checkpoint)
    return settings


def check_threshold(config: DictConfig) -> ThresholdConfig:
    """The same for a threshold."""
    settings = threshold_settings(config)
    check_checkpoint(settings.checkpoint)
    return settings


def check_tune(config: DictConfig) -> TuneConfig:
    """The same for a study and both ends of all that it searches."""
    return tune_settings(config, typed_train_settings)


#: How the config of each schema is checked.
CHECKS: dict[type | None, Callable[[DictConfig], object]] = {
    TrainConfig: check_train,
    EvaluateConfig: check_evaluate,
    ThresholdConfig: check_threshold,
    TuneConfig: check_tune,
}


def expand(command: str, words: Sequence[str]) -> list[Cell]:
    """The cells that `python -m reid.<command> -m <words>` runs, in the order of its jobs.

    Raises:
        ConfigError, HydraException: the first job that is wrong.
    """
    return plan(command, ["-m", *words]).cells


def plan(command: str, arguments: Sequence[str]) -> Plan:
    """Compose and check every job before the first one starts: a slip costs a second and leaves no trace.

    command: the name of its primary config.  arguments: its command line.
    What is typed for Hydra itself (`--cfg`, sweeps that only a plugin can expand, `${hydra:…}`, which is
    known once a job runs) is left to Hydra.  Neither data nor weights are looked at, see `refuse_missing`.

    Raises:
        ConfigError, HydraException: the first job that is wrong.
        CheckpointError: what a job starts from is not there.
    """
    register()
    _refuse_scattered(arguments)
    words = [word for word in arguments if not word.startswith("-")]
    multirun = bool({"-m", "--multirun"} & set(arguments))
    if {*arguments} - {*words} - {"-m", "--multirun"} or any("${hydra:" in word for word in words):
        return Plan(multirun)
    if not multirun and any(word.startswith("sweep=") for word in words):
        raise ConfigError(f"{' '.join(words)}: a sweep runs many jobs. Add -m to run them all")
    # What the job itself will warn of is not said twice.
    with warnings.catch_warnings(), initialize_config_dir(str(config_folder()), version_base="1.3"):
        warnings.simplefilter("ignore")
        compositions = _Compositions(command)
        choices = _choices(words, multirun)
        if choices is None:
            return Plan(multirun)
        launcher, config = "basic", DictConfig({})
        keys: Any = {}
        if multirun:
            hydra = compositions.whole([choice[0] for choice in choices.values()]).hydra
            launcher = hydra.runtime.choices["hydra/launcher"]
            keys = OmegaConf.to_container(hydra.launcher, resolve=False)
            values = _of_sweeper(hydra)
            # What is typed wins over the sweep's file, in its place, as Hydra's own sweeper has it.
            of_file = _choices([f"{key}={value}" for key, value in values], multirun) or {}
            choices = {**of_file, **choices}
        cells, typed = [], []
        for overrides in itertools.product(*choices.values()):
            config = compositions.job(overrides)
            check = CHECKS.get(OmegaConf.get_type(config))
            settings: Any = check(config) if check else None
            if isinstance(settings, TrainConfig):
                _refuse_two_radii(overrides, settings)
                _refuse_weights_of_parts(overrides, settings)
                root, since = str(settings.dataset["root"]), oldest_alike(flat(settings))
                cells.append(Cell(overrides, config_hash(settings), root, since))
            else:
                cells.append(Cell(overrides))
            if check:
                typed.append(settings)
                default_store(home(), config.tracking.uri)
        experiment = str(OmegaConf.select(config, "tracking.experiment", default=""))
        take = str(OmegaConf.select(config, "sweep.take", default="same_code"))
        fail_fast = OmegaConf.select(config, "sweep.fail_fast", default=False)
        retry = 0 if fail_fast else int(OmegaConf.select(config, "sweep.retry", default=0))
    if take != "none":
        _refuse_twins(cells)
    return Plan(multirun, cells, typed, launcher, keys, experiment, take, retry)


def _of_sweeper(hydra: DictConfig) -> list[tuple[str, str]]:
    """The keys of a sweep's file with their values, some of which follow from what was typed.

    Raises:
        ConfigError: they cannot, and the file's resolver says why.
    """
    try:
        return [(str(key), value) for key, value in (OmegaConf.select(hydra, "sweeper.params") or {}).items()]
    except InterpolationResolutionError as error:  # omegaconf keeps the reason, but not the exception
        reason = str(error).splitlines()[0].rpartition("resolving interpolation: ")[2]
        raise ConfigError(reason) from error


class _Compositions:
    """The configs of one command, as Hydra composes them; jobs that choose the same files share the work."""

    def __init__(self, command: str) -> None:
        self.command = command
        self.of_choices: dict[tuple[str, ...], DictConfig] = {}

    def whole(self, overrides: Sequence[str]) -> DictConfig:
        """The config with Hydra's own section."""
        try:
            return compose(self.command, overrides=list(overrides), return_hydra_config=True)
        except ValueError as error:  # such as a group set to null, which Hydra does not name
            raise ConfigError(f"{' '.join(overrides)}: {error}") from error

    def job(self, overrides: Sequence[str]) -> DictConfig:
        """The config of one job: the files are read once for all jobs that choose the same ones."""
        loader: Any = GlobalHydra.instance().config_loader()
        parsed = OverridesParser.create(loader).parse_overrides(list(overrides))
        files = tuple(str(word.input_line) for word in parsed if _decides_on_files(word, loader))
        if files not in self.of_choices:
            self.of_choices[files] = self.whole(files)
        config = copy.deepcopy(self.of_choices[files])
        loader._apply_overrides_to_config([word for word in parsed if word.input_line not in files], config)
        with open_dict(config):
            del config["hydra"]
        for group in ("loss", "optimizer"):
            _refuse_text(group, self.of_choices[files].get(group), config.get(group))
        return config


def _decides_on_files(override: Override, loader: Any) -> bool:
    """Whether an override chooses a file of a group, or where Hydra looks for them, and sets no value.

    One of many values belongs to them where there is one job: Hydra refuses it.
    """
    if override.is_hydra_override() or override.is_sweep_override():
        return True
    is_group = loader.repository.group_exists(override.key_or_group)
    return is_group and not isinstance(override.value(), dict)


def _refuse_text(group: str, of_file: Any, config: Any) -> None:
    """Raises ConfigError for text where the file of an open group has a number: no class has to say so."""
    if not isinstance(of_file, DictConfig) or not isinstance(config, DictConfig):
        return
    numbers: Any = OmegaConf.to_container(of_file)
    values: Any = OmegaConf.to_container(config)
    for key, number in numbers.items():
        value = values.get(key)
        if isinstance(number, dict):
            _refuse_text(f"{group}.{key}", of_file.get(key), config.get(key))
        is_text = isinstance(value, str) and "${" not in value and value != "???"
        if type(number) in (int, float) and is_text:
            raise ConfigError(f"{group}.{key}={value!r} is not allowed: expected a number.")


def _refuse_scattered(arguments: Sequence[str]) -> None:
    """Raises ConfigError where -m stands between overrides, which Hydra's parser takes on one side alone."""
    flags = ("-m", "--multirun")
    first = next((place for place, word in enumerate(arguments) if word in flags), len(arguments))
    keys = ["=" in word for word in arguments]
    if any(keys[:first]) and any(keys[first:]):
        rest = " ".join(shlex.quote(word) for word in arguments if word not in flags)
        raise ConfigError(
            f"{arguments[first]} has to stand before the first key. Type: {arguments[first]} {rest}"
        )


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


def refuse_missing(planned: Plan) -> None:
    """Refuse weights that are not there, and data that are not there for any job.

    Raises:
        WeightsError: a file that `backbone.weights` names is not there.
        DatasetError: a file of corrections is not there, or is none; what the reader says of the data of the
            first job.
    """
    if planned.launcher in HERE:
        for settings in planned.settings:
            if isinstance(settings, TrainConfig):
                for dataset in (settings.dataset, *settings.dataset.get("parts", ())):
                    if dataset.get("corrections") is not None:
                        read_verdicts(Path(dataset["corrections"]))
                if settings.resume is None:  # a resumed run has its weights
                    check_weights(str(settings.backbone.get("weights", "none")))
        missing = [list(filter(_is_missing, _datasets(settings))) for settings in planned.settings]
        if missing and all(missing):
            load_dataset(**missing[0][0])


def _datasets(settings: Any) -> list[dict[str, Any]]:
    """The datasets that a job names; an evaluation may name many, or none: then it is its checkpoint's."""
    if settings.eval.datasets:
        return [
            {key: value for key, value in one.items() if key != "label"} for one in settings.eval.datasets
        ]
    return [settings.dataset] if settings.dataset else []


def _is_missing(dataset: dict[str, Any]) -> bool:
    """Whether the folder or the table of a dataset, or of a part, is not there and will not be drawn."""
    if "parts" in dataset:
        return any(map(_is_missing, dataset["parts"]))
    own_reader = "." in dataset["name"]  # of a trusted package, which may fetch what is not there
    place = dataset.get("file") or dataset["root"]
    return dataset["name"] != DRAWN and not own_reader and not Path(place).exists()


def _refuse_two_radii(job: Sequence[str], settings: TrainConfig) -> None:
    """Raises ConfigError where a margin was typed beside the radius that makes it void."""
    typed = {key: word for word in job for key in [word.lstrip("+").partition("=")[0]]}
    for place, part in losses_of(settings.loss).items():
        radius, margin = typed.get(f"{place}.positive_radius"), typed.get(f"{place}.margin")
        if radius and margin and part.get("positive_radius") is not None:
            raise ConfigError(
                f"{radius} and {margin} cannot both be: the radius stands for alpha - margin. Leave one out"
            )


def _refuse_weights_of_parts(job: Sequence[str], settings: TrainConfig) -> None:
    """Raises ConfigError where the weight of the cross entropy was typed in a part of a mix of losses."""
    if settings.loss["_target_"] != MIX:
        return
    for word in job:
        if re.match(r"\+{0,2}loss\.\w+\.id_weight=", word):
            raise ConfigError(
                f"{word}: a loss of a mix has no weight of the cross entropy. Set loss.id_weight, that of "
                "the whole"
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
