"""A study's config, checked: where it searches, and that it looks at `val` alone."""

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from reid.config.checks import ConfigError, unknown_key
from reid.config.identity import flat
from reid.config.schema import Dimension, TrainConfig, TuneConfig
from reid.config.settings import train_settings
from reid.errors import UsageError

#: What may not be searched: it says how trials are judged, where they lie, or how long they are.
FIXED = ("eval.", "dataset.", "data.", "tracking.", "sweep.", "study.", "epochs", "seed", "device", "resume",
         "init_from", "teacher.checkpoint", "keep_last")  # fmt: skip


def tune_settings(
    config: DictConfig, check: Callable[[DictConfig], TrainConfig] = train_settings
) -> TuneConfig:
    """The composed config of a study as typed values, refused where a value or a range is wrong.

    check: how the config of a run is checked, at both ends of every range too.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    settings = check(copy.deepcopy(config))
    assert isinstance(settings, TuneConfig)
    if settings.eval.split != "val":
        raise ConfigError(
            f"eval.split={settings.eval.split} is not allowed: a study chooses by its score, so it looks at "
            "val alone. Leave the key out; the winner is judged on test by itself, once"
        )
    if settings.eval.period != 1 and settings.study.prune != "none":
        raise ConfigError(
            f"eval.period={settings.eval.period} is not allowed: trials are pruned by the score of each "
            "epoch. Leave the key out, or set study.prune=none"
        )
    if settings.resume is not None:
        raise ConfigError(f"resume={settings.resume} is not for a study: the same command goes on with it")
    space = settings.study.space
    if not isinstance(space, dict) or not space:
        raise ConfigError(
            "study.space is empty: give it a key, +study.space.lr={key:optimizer.lr,low:1e-5,high:1e-2}"
        )
    base = flat(training(settings))
    settings.study.space = space = {name: _dimension(name, keys) for name, keys in space.items()}
    for name, dimension in space.items():
        _check_dimension(f"study.space.{name}", dimension, base)
    keys = [dimension.key for dimension in space.values()]
    if len(set(keys)) < len(keys):
        raise ConfigError(f"study.space names a key twice: {', '.join(keys)}")
    for name, key, value in _ends(settings):
        changed = copy.deepcopy(config)
        OmegaConf.update(changed, key, value)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a trial warns of itself
                check(changed)
        except ConfigError as error:
            raise ConfigError(f"study.space.{name}: {error}") from error
    return settings


def check_ends(settings: TuneConfig, check: Callable[[TrainConfig], object]) -> None:
    """Call `check` with the typed settings of both ends of every range, and of every choice.

    Raises:
        ConfigError: what it raises, with the name of the dimension.
    """
    for name, key, value in _ends(settings):
        changed: Any = copy.deepcopy(settings)
        *groups, last = key.split(".")
        node = changed
        for group in groups:
            node = node[group] if isinstance(node, dict) else getattr(node, group)
        if isinstance(node, dict):
            node[last] = value
        else:
            setattr(node, last, value)
        try:
            check(changed)
        except UsageError as error:
            raise ConfigError(f"study.space.{name}: {error}") from error


def _ends(settings: TuneConfig) -> Iterator[tuple[str, str, Any]]:
    """Name, key and value of both ends of every range, and of every choice."""
    base = flat(training(settings))
    for name, dimension in settings.study.space.items():
        for value in dimension.choices or (dimension.low, dimension.high):
            whole = dimension.choices is None and is_whole(dimension, base[dimension.key])
            yield name, dimension.key, int(value or 0) if whole else value


def training(settings: TuneConfig) -> TrainConfig:
    """What `reid.train` would know of this config: a trial and the same run by hand share their hash."""
    return TrainConfig(**{entry.name: getattr(settings, entry.name) for entry in fields(TrainConfig)})


def is_whole(dimension: Dimension, value: Any) -> bool:
    """Whether the key, which is `value` in the config, takes whole numbers over this range."""
    ends = (dimension.low, dimension.high, dimension.step or 1)
    return type(value) is int and all(float(end or 0).is_integer() for end in ends)


def _dimension(name: str, keys: Any) -> Dimension:
    """A dimension as typed values.

    Raises:
        ConfigError: a key that it does not have, or a value of another type.
    """
    known = [f"study.space.{name}.{entry.name}" for entry in fields(Dimension)]
    if not isinstance(keys, dict):
        raise ConfigError(f"study.space.{name}={keys} is not allowed: expected {{key:…,low:…,high:…}}")
    for key in keys:
        if f"study.space.{name}.{key}" not in known:
            raise ConfigError(unknown_key(f"study.space.{name}.{key}", known))
    try:
        typed: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Dimension), keys))
    except MissingMandatoryValue as error:
        raise ConfigError(
            f"study.space.{name}.key is not given: say which key is searched, such as loss.alpha"
        ) from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"study.space.{name}.{error.full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(typed, Dimension)
    return typed


def _check_dimension(name: str, dimension: Dimension, base: dict[str, Any]) -> None:
    key = dimension.key
    if key not in base:
        raise ConfigError(f"{name}.key={key}: {unknown_key(key, base, 'tune')}")
    if key.startswith(FIXED):
        raise ConfigError(f"{name}.key={key} cannot be searched: it has to be the same for all trials")
    low, high, step, choices = dimension.low, dimension.high, dimension.step, dimension.choices
    if choices is not None:
        if (low, high, step, dimension.log) != (None, None, None, False):
            raise ConfigError(f"{name} has choices and a range: give it one of them")
        if len(choices) < 2 or not all(isinstance(choice, str | int | float | bool) for choice in choices):
            raise ConfigError(f"{name}.choices={choices} is not allowed: expected two values or more")
        return
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"{name} has low={low} and high={high}: expected two numbers, low below high")
    if isinstance(base[key], bool) or not isinstance(base[key], int | float | None):
        raise ConfigError(f"{name}.key={key} is {base[key]!r}, no number: give {name}.choices, not a range")
    if dimension.log and (low <= 0 or step is not None):
        raise ConfigError(f"{name}.log=true needs low above 0 and no step; low is {low}, step {step}")
    if step is not None and not 0 < step <= high - low:
        raise ConfigError(f"{name}.step={step} is not allowed: expected a number above 0, at most high - low")
