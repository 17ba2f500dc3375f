"""Hydra's and OmegaConf's complaints about a command line, said in one readable message."""

import re
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from reid.config.checks import nearest, unknown_key
from reid.config.schema import OWN_KEYS, config_folder
from reid.config.search_path import further_choices
from reid.trust import trusted_choices

#: What OmegaConf says of a value of the wrong type, and what it had expected.
_EXPECTED = {
    r"could not be converted to Integer": "a whole number",
    r"could not be converted to Float": "a number",
    r"is not a valid bool": "true or false",
    r"Cannot convert .* to string": "text",
    r"is not a ListConfig": "a list, such as [40,70]",
    r"is not Optional": "a value, not null",
    r"is not a subclass of": "no value: it is a group, set its keys",
}

#: Groups of training that are no choice of a command, since its checkpoint decides on them.
_OF_CHECKPOINT = {"adapt": ("backbone", "head")}

#: Hydra's words for a key that is not there.
_UNKNOWN = (
    r"Could not override '([^']+)'",
    r"Could not delete from config\. '([^']+)' does not exist",
    r"Key '[^']+' (?:not|is not) in [^\n]*\n\s*full_key: (\S+)",
)


def explain(error: Exception, command: str, overrides: list[str]) -> str:
    """What was wrong, what is allowed, the nearest spelling."""
    text = str(error)
    if isinstance(error, OverrideParseException):
        key, _, value = error.override.partition("=")
        if "/" in value:  # of a path it is a part of the name, and no interpolation
            value = value.replace("${", "\\${")
        quoted = f" A value with such characters needs quotes: '{key}=\"{value}\"'." if value else ""
        return (
            f"{error.override!r} is not understood: expected key=value, such as loss.alpha=1.2 or "
            f"schedule.milestones=[40,70].{quoted}"
        )
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, choice, options = _choices(error.missing_cfg_file, error.options or [])
        if group and options:
            hint = nearest(choice, options)
            return f"{group}={choice} is no choice: expected one of {', '.join(options)}.{hint}"
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        merged = re.match(r"Error merging override (.*)", text)
        place = merged[1] if merged else str(cause.full_key)
        for pattern, expected in _EXPECTED.items():
            if re.search(pattern, str(cause)):
                return f"{place} is not allowed: expected {expected}."
    if isinstance(error, ConfigCompositionException):
        for pattern in _UNKNOWN:
            if unknown := re.search(pattern, text):
                key, known = unknown[1], known_keys(command, overrides)
                if key.partition(".")[0] in _OF_CHECKPOINT.get(command, ()):
                    return (
                        f"{key} is no key of the {command} command: it is as in the checkpoint. Leave it out"
                    )
                message = unknown_key(key, known, command)
                open_group = key.partition(".")[0] in known and key.partition(".")[0] in OWN_KEYS
                if open_group and "." in key and "Did you mean" not in message:
                    message += f" An option of its class that its file leaves out takes a +: +{key}=…"
                return message
    return text.split("\nConfig search path")[0].strip()


def _choices(missing: str, beside: Sequence[str]) -> tuple[str, str, list[str]]:
    """The group of a file that is missing, the choice as it was typed, and the choices that there are.

    Hydra counts folders inside a group (experiment/paper) as groups, and tells what lies `beside` the file.
    """
    group, _, choice = missing.partition("/")
    options = {
        file.relative_to(folder / group).with_suffix("").as_posix()
        for folder in _folders()
        for file in (folder / group).rglob("*.yaml")
    }
    if choice and options:
        return group, choice, sorted(options)
    group, _, choice = missing.rpartition("/")
    return group, choice, sorted(option for option in beside if not option.endswith("schema"))


def _folders() -> list[Path]:
    """Where the choices lie: those of the suite, and those that the user adds."""
    return [config_folder(), *further_choices, *trusted_choices()]


def known_keys(command: str, overrides: Sequence[str] = ()) -> list[str]:
    """The dotted keys of the command's config, with the group choices that were typed where they exist."""
    choices = [
        word
        for word in overrides
        if (match := re.fullmatch(r"(\w+)=(\w+)", word))
        and any((folder / match[1] / f"{match[2]}.yaml").exists() for folder in _folders())
    ]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        try:
            config = compose(command, overrides=choices)
        except HydraException:  # the wrong key stands in the file of a choice
            config = compose(command)
    keys: list[str] = []

    def walk(prefix: str, node: object) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                name = f"{prefix}.{key}" if prefix else str(key)
                keys.append(name)
                walk(name, value)

    walk("", OmegaConf.to_container(config, resolve=False))
    return [key for key in keys if not key.endswith("_target_")]
