"""Refusing wrong configs in words: bounds and choices of typed fields, options against a signature."""

import difflib
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import field, fields, is_dataclass
from importlib import import_module
from typing import Any

from reid.errors import UsageError
from reid.trust import HINT, TrustError, is_trusted, trusted_function

#: The `_target_` of a group may name nothing outside these and the packages that the user trusts: a config
#: is data, instantiating is running code.
TRUSTED = {
    "loss": ("reid.losses.", "pytorch_metric_learning.losses."),
    "optimizer": ("torch.optim.",),
    "schedule": ("reid.engine.schedule.",),
}


class ConfigError(UsageError, ValueError):
    """A key, a value or a combination is wrong; the message names it, what is allowed and what is near."""


def one_of(*choices: Any) -> Any:
    """A field that takes one of `choices`, the first by default."""
    return field(default=choices[0], metadata={"choices": choices})


def at_least(minimum: float, default: Any) -> Any:
    """A field with a lowest value."""
    return field(default=default, metadata={"test": lambda v: v >= minimum, "allowed": f"{minimum} or more"})


def above(minimum: float, default: Any) -> Any:
    """A field whose value lies above `minimum`."""
    return field(default=default, metadata={"test": lambda v: v > minimum, "allowed": f"above {minimum}"})


def between(low: float, high: float, default: Any) -> Any:
    """A field whose value lies in [low, high]; where the default is None, None is allowed too."""
    metadata = {"test": lambda v: low <= v <= high, "allowed": f"from {low} to {high}"}
    return field(default=default, metadata=metadata)


def within(low: float, high: float, default: Any) -> Any:
    """A field whose value lies in (low, high), less both ends; otherwise as `between`."""
    metadata = {"test": lambda v: low < v < high, "allowed": f"above {low} and below {high}"}
    return field(default=default, metadata=metadata)


def nearest(word: str, words: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the nearest of `words`, or nothing where none is near."""
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def unknown_key(key: str, known: Iterable[str], command: str = "") -> str:
    """The message for a key that is none of `known`, all dotted: what is near, and what stands beside it."""
    known = list(known)
    owner, _, name = key.rpartition(".")
    beside = [other for other in known if owner and other.rpartition(".")[0] == owner]
    # One key of that name elsewhere is what was meant; else the spelling counts, less a prefix that is right.
    named_so = [other for other in known if other.rpartition(".")[2] == name]
    near = difflib.get_close_matches(name, [other.rpartition(".")[2] for other in beside], n=1)
    if len(named_so) == 1 or near:
        hint = f" Did you mean {named_so[0] if len(named_so) == 1 else f'{owner}.{near[0]}'!r}?"
    else:
        hint = "" if beside else nearest(key, known)
    listed = f" {owner} has {', '.join(other.rpartition('.')[2] for other in beside)}." if beside else ""
    if not hint and not listed:
        listed = f" The keys here: {', '.join(dict.fromkeys(other.partition('.')[0] for other in known))}."
    return f"{f'the {command} command has ' if command else ''}no key {key}.{hint}{listed}"


def check_fields(settings: Any, prefix: str = "") -> None:
    """Compare every field of a (nested) dataclass with what its definition allows.

    Raises:
        ConfigError: at the first value that is not allowed, or key that is no field.
    """
    known = [f"{prefix}.{entry.name}" if prefix else entry.name for entry in fields(settings)]
    for name in vars(settings):  # OmegaConf makes an attribute of what `+key=value` appends
        key = f"{prefix}.{name}" if prefix else name
        if key not in known:
            raise ConfigError(unknown_key(key, known))
    for entry in fields(settings):
        key = f"{prefix}.{entry.name}" if prefix else entry.name
        value = getattr(settings, entry.name)
        if is_dataclass(value):
            check_fields(value, key)
        elif "choices" in entry.metadata and value not in entry.metadata["choices"]:
            choices = [str(choice) for choice in entry.metadata["choices"]]
            raise ConfigError(
                f"{key}={value} is not allowed: expected one of {', '.join(choices)}."
                f"{nearest(str(value), choices)}"
            )
        elif value is None and entry.default is None:
            continue
        elif "test" in entry.metadata and not _passes(entry.metadata["test"], value):
            raise ConfigError(f"{key}={value} is not allowed: expected a number {entry.metadata['allowed']}.")


def _passes(test: Callable[[Any], bool], value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and test(value)


def check_options(
    group: str,
    values: dict[str, Any],
    own: frozenset[str],
    target: Callable[..., Any],
    supplied: frozenset[str] = frozenset(),
) -> None:
    """Compare the keys of an open group, less the suite's `own`, with the parameters of what they go to.

    Parameters that the suite supplies are no keys.

    Raises:
        ConfigError: an unknown key (with the nearest one), a wrong type, or a missing value.
    """
    parameters = parameter_names(target) - supplied
    known = [f"{group}.{key}" for key in sorted(parameters | own) if key != "_target_"]
    for key in values:
        if key not in own and key not in parameters:
            raise ConfigError(unknown_key(f"{group}.{key}", known))
    check_types(group, {key: value for key, value in values.items() if key not in own}, target)


def parameter_names(target: Callable[..., Any]) -> set[str]:
    """What `target` takes by name; where a class passes **options on, also what its base classes take."""
    names: set[str] = set()
    for function in _called(target):
        parameters = inspect.signature(function).parameters.values()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return names - {"self"}


def _called(target: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """What takes the arguments of a call: a function, or the constructors that pass **options on, and the
    first that does not."""
    functions = [target]
    if inspect.isclass(target):
        functions = [vars(base)["__init__"] for base in target.__mro__ if "__init__" in vars(base)]
    for function in functions:
        yield function
        if not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values()):
            break


def required_names(function: Callable[..., Any]) -> set[str]:
    """What a function has to be given."""
    parameters = inspect.signature(function).parameters.values()
    needed = [p for p in parameters if p.default is p.empty]
    return {p.name for p in needed if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def check_present(group: str, values: dict[str, Any], keys: Iterable[str]) -> None:
    """Refuse an open group that lacks one of `keys`.

    Raises:
        ConfigError: a key was deleted, or its file forgot it.
    """
    for key in keys:
        if key not in values:
            raise ConfigError(f"{group}.{key} is not given and has no default: add ++{group}.{key}=…")


def check_types(group: str, values: dict[str, Any], target: Callable[..., Any]) -> None:
    """Compare the values that `target` has an annotation for with it.

    Raises:
        ConfigError: a value of another type.
    """
    hints = _hints(target)
    for key, value in values.items():
        if key in hints and not _fits(value, hints[key]):
            raise ConfigError(
                f"{group}.{key}={value!r} is not allowed: expected {_name(hints[key])}."
                f"{nearest(str(value), _choices(hints[key]))}"
            )


def refuse_untrusted(group: str, path: str) -> None:
    """Refuse a `_target_` outside the packages that the project or its user trusts; nothing is imported.

    Raises:
        ConfigError: naming the packages.
    """
    try:
        if str(path).startswith(_trusted(group)) or is_trusted(str(path)):
            return
    except TrustError as error:
        raise ConfigError(str(error)) from error
    raise ConfigError(
        f"{group}._target_={path} is refused: this one may come from "
        f"{', '.join(t + '*' for t in _trusted(group))} alone. {HINT}"
    )


def _trusted(group: str) -> tuple[str, ...]:
    """What is trusted for a group, or for a part of one, such as `loss.first`."""
    return TRUSTED[group.partition(".")[0]]


def trusted_target(group: str, path: str) -> Callable[..., Any]:
    """What a `_target_` names, if it lies in a package that this project trusts.

    Raises:
        ConfigError: it does not, or there is no such thing.
    """
    refuse_untrusted(group, path)
    if not str(path).startswith(_trusted(group)):
        try:
            return trusted_function(str(path), f"{group}._target_={path}")
        except TrustError as error:
            raise ConfigError(str(error)) from error
    module, _, name = path.rpartition(".")
    try:
        target: Callable[..., Any] = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{group}._target_={path}: there is no such class or function ({error})."
        ) from error
    if not callable(target):
        raise ConfigError(f"{group}._target_={path} is neither a class nor a function.")
    return target


def construct(
    group: str, values: dict[str, Any], own: frozenset[str], supplied: Mapping[str, Any] | None = None
) -> Any:
    """What `_target_` names, called with the values that are not the suite's `own`; None for no target.

    Of the values that the suite supplies it gets those that it has a parameter for.

    Raises:
        ConfigError: it is not trusted, or refuses a value.
    """
    if values["_target_"] is None:
        return None
    arguments = {key: value for key, value in values.items() if key not in own}
    target = trusted_target(group, values["_target_"])
    parameters = parameter_names(target)
    try:
        more = {key: value for key, value in (supplied or {}).items() if key in parameters}
        return target(**arguments, **more)
    except (TypeError, ValueError, AssertionError) as error:  # a library's way to refuse a value
        if isinstance(error, ConfigError):
            raise
        named = str(error).split(" ")[0] in arguments
        raise ConfigError(f"{group}.{error}" if named else f"{group}: {error}") from error


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    hints: dict[str, Any] = {}
    for function in _called(target):
        with suppress(NameError, TypeError):  # a library's own annotations may not resolve here
            hints = typing.get_type_hints(function) | hints
    return hints


def _fits(value: Any, hint: Any) -> bool:
    """Whether a YAML value fits an annotation; anything but plain types and choices is let through."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in typing.get_args(hint))
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str, type(None)):
        return isinstance(value, hint)
    return hint is Any or origin is not None or not isinstance(value, str)


def _choices(hint: Any) -> list[str]:
    """What an annotation lists by name, if anything."""
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return [str(choice) for choice in parts]
    return [choice for part in parts for choice in _choices(part)]


def _name(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(str(choice) for choice in typing.get_args(hint))
    plain = {float: "a number", int: "a whole number", bool: "true or false", str: "text", type(None): "null"}
    if hint in plain:
        return plain[hint]
    parts = typing.get_args(hint)
    return " or ".join(_name(part) for part in parts) if parts else str(hint)
