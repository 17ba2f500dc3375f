"""How the tests compose a command's config: as Hydra does, without running the command."""

import copy
import functools

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from reid.config.schema import EvaluateConfig, TrainConfig, config_folder, register
from reid.config.settings import evaluate_settings, train_settings

#: The story of a command whose command line is wrong, as `launch` takes it.
NO_WORK = "composing:no_work"


def no_work(job: object) -> dict[str, float]:
    raise AssertionError("a wrong command line came through to the work")


#: Half of the time that composing takes, and once a process is enough.
register_once = functools.cache(register)


def composed(command: str, *overrides: str) -> DictConfig:
    register_once()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose(command, overrides=list(overrides))


def settings_of(*overrides: str) -> TrainConfig:
    return train_settings(composed("train", *overrides))


def changed(recipe: DictConfig, key: str, value: object) -> TrainConfig:
    config = copy.deepcopy(recipe)
    OmegaConf.update(config, key, value)
    return train_settings(config)


def judged(*overrides: str) -> EvaluateConfig:
    return evaluate_settings(composed("evaluate", *overrides))
