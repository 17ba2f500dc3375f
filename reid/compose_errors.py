"""Hydra's and OmegaConf's complaints about a command line, said in one readable message."""

import re

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from reid.checks import nearest
from reid.config import config_folder

_KINDS = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}


def explain(error: Exception, command: str, overrides: list[str]) -> str:
    """What was wrong, what is allowed, the nearest spelling."""
    text = str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        options = sorted(option for option in error.options or [] if not option.endswith("schema"))
        if group and options:
            hint = nearest(choice, options)
            return f"{group}={choice} is no choice: expected one of {', '.join(options)}.{hint}"
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        told = re.match(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", str(cause))
        if told:
            kind = _KINDS.get(told[2], told[2])
            return f"{cause.full_key}={told[1]} is not allowed: expected {kind}."
    unknown = re.match(r"Could not override '([^']+)'", text) or re.search(r"full_key: (\S+)", text)
    if unknown and isinstance(error, ConfigCompositionException):
        key = unknown[1]
        known = _known_keys(command, overrides)
        owner = key.rpartition(".")[0]
        beside = [name.rpartition(".")[2] for name in known if owner and name.startswith(f"{owner}.")]
        listed = f" {owner} has {', '.join(beside)}." if beside else ""
        return f"no key {key}.{nearest(key, known)}{listed}"
    return text.split("\nConfig search path")[0].strip()


def _known_keys(command: str, overrides: list[str]) -> list[str]:
    """The dotted keys of the command's config, with the group choices that were typed where they exist."""
    folder = config_folder()
    choices = [
        word
        for word in overrides
        if (match := re.fullmatch(r"(\w+)=(\w+)", word)) and (folder / match[1] / f"{match[2]}.yaml").exists()
    ]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(folder), version_base="1.3"):
        config = compose(command, overrides=choices)
    keys: list[str] = []

    def walk(prefix: str, node: object) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                name = f"{prefix}.{key}" if prefix else str(key)
                keys.append(name)
                walk(name, value)

    walk("", OmegaConf.to_container(config, resolve=False))
    return [key for key in keys if not key.endswith("_target_")]
