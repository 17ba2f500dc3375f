"""Options are key=value to Hydra's commands, --key value to the others; each hints at the other spelling."""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reid.config.checks import ConfigError

#: Hydra's own options; all that begins with two dashes and is none of them is a key.
HYDRAS = (
    "--help", "--hydra-help", "--version", "--cfg", "--resolve", "--package", "--run", "--multirun", "--info",
    "--shell-completion", "--config-path", "--config-name", "--config-dir", "--experimental-rerun",
)  # fmt: skip
#: What the other commands have beside it.
SHORT = {"-o": "--output"}
_PAIR = re.compile(r"[+~]{0,2}([A-Za-z_][\w./@]*)=(.*)", re.DOTALL)


class CommandParser(argparse.ArgumentParser):
    """An argparse parser that knows a Hydra override when it sees one.

    also: how a key is typed here that is no option: `{"dataset": "{value}"}` for what is given by its place,
    a key that ends in a dot for all keys below it, `{"dataset.": "--option {key}={value}"}`.
    """

    def __init__(self, *arguments: Any, also: Mapping[str, str] | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._also = also or {}

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        import sys

        words = list(sys.argv[1:] if args is None else args)
        for before, word in zip(["", *words], words, strict=False):
            pair = _PAIR.fullmatch(word)
            if pair and not self._takes_a_value(before) and not Path(word).exists():
                hint = self._typed_here(*pair.groups())
                if hint:
                    self.error(f"{word}: this command takes its options as --key value. Type {hint}")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> Any:
        if message.startswith("unrecognized arguments") and re.search(r"\s[+~]*[A-Za-z_][\w.]*=", message):
            message += " (options are typed as --key value here; see --help)"
        super().error(message)

    def _takes_a_value(self, word: str) -> bool:
        action = self._option_string_actions.get(word)
        return action is not None and action.nargs != 0 and not isinstance(action, _FLAGS)

    def _typed_here(self, key: str, value: str) -> str:
        """How `key=value` is typed to this command; "" where it has nothing of that name."""
        for known, spelling in self._also.items():
            if key == known or (known.endswith(".") and key.startswith(known)):
                last = key.removeprefix(known) or key
                option = f"--{last}"
                if option in self._option_string_actions:
                    break
                return spelling.format(key=last, value=shlex.quote(value))
        name = key.rpartition(".")[2].replace("_", "-")
        action = self._option_string_actions.get(f"--{name}")
        if action is None:
            return ""
        if isinstance(action, _FLAGS) or action.nargs == 0:
            yes = value.lower() in ("true", "1", "yes", "on", "")
            no = f"--no-{name}" if f"--no-{name}" in self._option_string_actions else f"without --{name}"
            return f"--{name}" if yes else no
        return f"--{name} {shlex.quote(value)}"


_FLAGS = (argparse.BooleanOptionalAction,)


def refuse_dashes(words: Sequence[str], known: Callable[[], Sequence[str]]) -> None:
    """Refuse `--key value` on the command line of a Hydra command.

    known: gives the dotted keys that the command has.

    Raises:
        ConfigError: saying how that is typed here.
    """
    for number, word in enumerate(words):
        option, equals, value = word.partition("=")
        option = SHORT.get(option, option)
        # argparse takes the beginning of an option too.
        if not re.match(r"--[A-Za-z]", option) or any(own.startswith(option) for own in HYDRAS):
            continue
        after = words[number + 1] if number + 1 < len(words) else "-"
        if not equals and not after.startswith("-") and not (_PAIR.fullmatch(after) and option != "--option"):
            value = after
        keys = known()
        name = option[2:].replace("-", "_")
        key: str | None
        if option == "--option" and "=" in value:
            key, _, value = f"dataset.{value}".partition("=")
        else:
            key = _key_of(name, keys)
            if key is None and name.startswith("no_") and (key := _key_of(name[3:], keys)):
                value = "false"
        hint = f"Type {key}={value or 'true'}" if key else "--help lists the keys"
        raise ConfigError(f"{option}: this command takes its options as key=value. {hint}")


def refuse_options_of_no_dataset(words: Sequence[str], known: Callable[[], Sequence[str]]) -> None:
    """Refuse `dataset.key=value` where no dataset is typed and the command has none of its own.

    known: gives the dotted keys that the command has.

    Raises:
        ConfigError: saying that the dataset has to be named too.
    """
    option = next((word for word in words if re.match(r"[+~]*dataset\.\w", word)), None)
    if option is None or any(re.match(r"[+]*dataset=", word) for word in words):
        return
    if not any(key.startswith("dataset.") for key in known()):
        raise ConfigError(
            f"{option}: no dataset is named, and that of the checkpoint is taken as its training had it. "
            f"Name the dataset too, such as dataset=table dataset.file=crops.csv {option}"
        )


def _key_of(name: str, keys: Sequence[str]) -> str | None:
    """The key that an option's name stands for: itself, the only one that ends so, or the nearest."""
    if name in keys:
        return name
    ending = [key for key in keys if key.rpartition(".")[2] == name]
    if len(ending) == 1:
        return ending[0]
    if ending:
        # `--root` is asked of the data commands for the dataset, and `--margin` is first of all the loss's;
        # elsewhere the shortest is the plainest.
        return min(ending, key=lambda key: (not key.startswith(("dataset.", "loss.")), len(key)))
    near = difflib.get_close_matches(name, keys, n=1, cutoff=0.8)
    return near[0] if near else None
