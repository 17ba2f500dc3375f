"""What `--config-path`, `--config-name` and `--config-dir` name: a resolved config to run again, or choices.

`python -m reid.train --config-path outputs/<run> --config-name config_resolved` is how Hydra's users repeat a
run. Such a file holds every value and no choice; it is composed with its command's schema and folders.
"""

from __future__ import annotations

import copy
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from reid.config.checks import ConfigError
from reid.config.identity import FOLLOWS
from reid.config.schema import config_folder
from reid.config.search_path import further_choices
from reid.engine.rundir import read_status
from reid.tracking.machine import unseen_by_hydra

_PATH, _NAME, _FOLDER = ("--config-path", "-cp"), ("--config-name", "-cn"), ("--config-dir", "-cd")
#: What a file gives as its value follows from other keys, where it is still what follows from them.
DERIVED: dict[str, Any] = {
    "batch.size": "${reid.product:${batch.identities},${batch.instances}}",
    "data.store": "${data.root}/.store",
    "backbone.image_size": ["${image.height}", "${image.width}"],
    **{key: f"${{{owner}}}" for key, owner in FOLLOWS.items()},
}
#: Groups that came later: the config of an older run has none of them, and its default choice is what it did.
LATER_GROUPS = ("head",)


@dataclass(frozen=True)
class Primary:
    """The primary config of a command, and what is left of its command line.

    name: what Hydra composes: the command's own file, or a resolved config as it is stored.
    words: for Hydra. overrides: what made the run whose config this is.
    """

    name: str
    words: list[str]
    overrides: list[str] = field(default_factory=list)


def primary_config(command: str, typed: Sequence[str]) -> Primary:
    """Find the primary config in what was typed; one with a defaults list of its own is left to Hydra.

    Raises:
        ConfigError: no such file, one that is no resolved config, or a group chosen beside it.
    """
    named, rest = _split(typed)
    path, name, folder = (named.get(flags[0]) for flags in (_PATH, _NAME, _FOLDER))
    if folder is not None and not Path(folder).expanduser().is_dir():
        raise ConfigError(f"--config-dir {folder}: there is no such folder ({Path(folder).absolute()})")
    file = _file(path, folder, name)
    config = _read(file) if file is not None else {}
    if "defaults" in config or (file is None and name is not None):
        further_choices[:] = [config_folder()]  # of which --config-path makes Hydra lose sight
        return Primary(command, list(typed))
    flags = [flag for flag, _ in (_PATH, _NAME, _FOLDER) if flag in named]
    unseen_by_hydra[:] = [word for flag in flags for word in (flag, named[flag])]
    if folder is not None:
        further_choices[:] = [Path(folder).expanduser().absolute()]
    if file is None:
        return Primary(command, rest)
    status = read_status(file.parent if file.parent.name != ".hydra" else file.parent.parent)
    overrides = list(status.overrides) if status else []
    for word in rest:
        _refuse_group(command, word, file, overrides, rest)
    stored = f"{command}_resolved"
    of_command = OmegaConf.load(config_folder() / f"{command}.yaml")
    schema = next(entry for entry in of_command.defaults if isinstance(entry, str) and "schema" in entry)
    for entry in of_command.defaults:
        for group in LATER_GROUPS:
            if isinstance(entry, DictConfig) and group in entry and group not in config:
                config[group] = OmegaConf.load(config_folder() / group / f"{entry[group]}.yaml")
    if "dataset" in of_command and isinstance(config.get("dataset"), dict):  # keys of every dataset
        of_all: Any = OmegaConf.to_container(of_command.dataset)
        config["dataset"] = {**of_all, **config["dataset"]}
    config |= {"defaults": [schema, "_self_"], "hydra": OmegaConf.to_container(of_command.hydra)}
    ConfigStore.instance().store(name=stored, node=config)
    return Primary(stored, rest, overrides)


def _split(typed: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The values of the three flags, and the other words."""
    named: dict[str, str] = {}
    rest: list[str] = []
    words = iter(typed)
    for word in words:
        flag, equals, value = word.partition("=")
        for long, short in (_PATH, _NAME, _FOLDER):
            if flag in (long, short):
                named[long] = value if equals else next(words, "")
                break
        else:
            rest.append(word)
    return named, rest


def _file(path: str | None, folder: str | None, name: str | None) -> Path | None:
    """The file that the flags name, or None where that is one of conf/."""
    place = path if path is not None else folder
    if place is None or (path is None and name is None):
        return None
    if path is None and (config_folder() / f"{str(name).removesuffix('.yaml')}.yaml").is_file():
        return None
    where = Path(place).expanduser().absolute()
    hint = " Add --config-name config_resolved" if (where / "config_resolved.yaml").is_file() else ""
    if name is None:
        raise ConfigError(f"--config-path {place} needs the name of a config there.{hint}")
    file = where / f"{name.removesuffix('.yaml')}.yaml"
    if not file.is_file():
        raise ConfigError(f"--config-name {name}: there is no file {file}.{hint}")
    return file


def _read(file: Path) -> dict[str, Any]:
    """The values of a config, those of `DERIVED` as what they follow from; a run is not resumed with it."""
    try:
        config = OmegaConf.load(file)
    except (OSError, ValueError, TypeError, RecursionError, YAMLError, OmegaConfBaseException) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(f"{file} cannot be read: {reason}") from error
    if not isinstance(config, DictConfig):
        raise ConfigError(f"{file} is no config: expected keys and values")
    if "hydra" in config:
        raise ConfigError(f"{file} has a section hydra: expected the config of a run alone")
    for key, meaning in DERIVED.items():
        value = OmegaConf.select(config, key, default=None)
        derived = copy.deepcopy(config)
        OmegaConf.update(derived, key, meaning)
        try:
            if value is not None and OmegaConf.select(derived, key) == value:
                OmegaConf.update(config, key, meaning)
        except OmegaConfBaseException:  # it lacks what the value would follow from
            continue
    if config.get("resume") is not None:
        config.resume = None
    return {str(key): value for key, value in OmegaConf.to_container(config).items()}  # type: ignore[union-attr]


def _refuse_group(command: str, word: str, file: Path, overrides: list[str], rest: list[str]) -> None:
    """Raises ConfigError for a word that chooses a file of conf/: the resolved config knows no choices."""
    group = word.lstrip("+~").partition("=")[0].partition("@")[0]
    if not group or word.startswith("-") or not (config_folder() / group).is_dir():
        return
    others = [other for other in overrides if other.lstrip("+~").partition("=")[0] != group]
    multirun = ["-m"] if {"-m", "--multirun"} & {*rest} else []
    if overrides:
        words = [*multirun, *(shlex.quote(other) for other in [*others, word])]
        command_line = " ".join([f"python -m reid.{command}", *words])
        how = f"Type what made that run, and the choice: {command_line}"
    else:
        how = f"Set its keys one by one, or type the whole: python -m reid.{command} … {word}"
    raise ConfigError(
        f"{word} chooses a file of conf/{group}, and {file} holds values that were chosen already. {how}"
    )
