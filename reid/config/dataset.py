"""The dataset group: a choice by its name, wherever it is named, with absolute paths, checked.

Hydra composes `dataset=…` itself.  What names datasets inside a value (`dataset.parts=[market,cuhk01]`) or
outside Hydra (`python -m reid.data.check market`) comes here, and means the same files of conf/dataset.
"""

from inspect import signature
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from reid.config.checks import ConfigError, check_options, check_present, nearest
from reid.config.schema import OWN_KEYS, compose_dataset, dataset_choices
from reid.data import dataset_reader
from reid.data.datasets.synthetic import train_people

#: Keys of a dataset that name places on disk.
PLACES = ("root", "file", "corrections")
#: The parameters of a reader that the suite supplies: no key sets them.
SUPPLIED = frozenset({"progress"})


def dataset_choice(
    choice: str, data_root: str, values: dict[str, Any] | None = None, group: str = "dataset"
) -> dict[str, Any]:
    """What `dataset=<choice> dataset.<key>=<value> …` composes to: name, root, options.

    Args:
        choice: a file of conf/dataset, without its suffix.
        data_root: the `data.root` that it refers to.
        values: what is typed for single keys.
        group: what a message calls it, such as dataset.parts[0].

    Raises:
        ConfigError: there is no such choice, or a value that it needs is not given.
    """
    known = dataset_choices()
    if choice not in known:
        raise ConfigError(
            f"{group}={choice} is no choice: expected one of {', '.join(known)}.{nearest(choice, known)}"
        )
    try:
        composed = compose_dataset(choice, data_root, values or {})
    except OmegaConfBaseException as error:
        raise ConfigError(f"{group}={choice}: {str(error).splitlines()[0]}") from error
    dataset = complete_dataset(composed, data_root, group)
    refuse_missing(dataset, f"{group}={choice}")
    return dataset


def complete_dataset(dataset: dict[str, Any], data_root: str, group: str = "dataset") -> dict[str, Any]:
    """The same with absolute places, and with the parts of a joint dataset as `load_dataset` takes them.

    Without corrections it has no key of that name.

    Raises:
        ConfigError: a part is no choice, or no mapping that names one.
    """
    dataset = dict(dataset)
    if dataset.get("corrections") is None:  # as in all runs from before there was the key
        dataset.pop("corrections", None)
    for key in PLACES:
        if isinstance(dataset.get(key), str):
            dataset[key] = str(Path(dataset[key]).expanduser().absolute())
    if dataset.get("root") is None and "file" in dataset:
        dataset["root"] = str(Path(dataset["file"]).parent)
    if "parts" in dataset:
        if not isinstance(dataset["parts"], list):
            raise ConfigError(
                f"{group}.parts={dataset['parts']!r} is not allowed: expected a list, such as [market,cuhk01]"
            )
        dataset["parts"] = [
            _part(part, data_root, f"{group}.parts[{number}]") for number, part in enumerate(dataset["parts"])
        ]
    return dataset


def refuse_missing(dataset: dict[str, Any], what: str) -> None:
    """Refuse a dataset that lacks what its reader cannot do without.

    Raises:
        ConfigError: `what` needs a key that is not given.
    """
    parameters = signature(dataset_reader(str(dataset["name"]))).parameters
    needed = [name for name, parameter in parameters.items() if parameter.default is parameter.empty]
    if "file" in needed:  # the root follows from it
        needed.remove("root")
    for key in needed:
        if dataset.get(key) is None:
            raise ConfigError(f"{what} needs {key}, which is not given and has no default")


def check_dataset(dataset: dict[str, Any], group: str = "dataset") -> None:
    """Compare a dataset, and the parts of a joint one, with the signatures of their readers.

    Raises:
        ConfigError, DatasetError: an unknown name or key, a wrong type, a missing value.
    """
    check_present(group, dataset, ("name", "root"))
    if not isinstance(dataset["root"], str):
        raise ConfigError(f"{group}.root={dataset['root']} is not allowed: expected a folder")
    if not isinstance(dataset.get("corrections"), str | None):
        raise ConfigError(
            f"{group}.corrections={dataset['corrections']} is not allowed: expected a file of verdicts, such "
            "as verdicts.csv, or null"
        )
    check_options(group, dataset, OWN_KEYS["dataset"], dataset_reader(str(dataset["name"])), SUPPLIED)
    for number, part in enumerate(dataset.get("parts", ())):
        check_dataset(part, f"{group}.parts[{number}]")


def drawn_people(dataset: dict[str, Any]) -> int | None:
    """How many identities a checked dataset has to train on, where that is known before it is drawn."""
    if dataset["name"] == "synthetic":
        reader = signature(dataset_reader("synthetic"))
        return train_people(dataset.get("preset", reader.parameters["preset"].default))
    counts = [drawn_people(part) for part in sources(dataset)]
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None


def sources(dataset: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of a joint dataset that are trained on; none for any other dataset."""
    parts = dataset.get("parts") or ()
    return [part for place, part in enumerate(parts) if place != dataset.get("left_out")]


def without_places(dataset: dict[str, Any]) -> dict[str, Any]:
    """What tells datasets apart wherever they lie: no folders, and of their files the names alone.

    What corrections change counts in the fingerprint of the data.
    """
    kept = {key: value for key, value in dataset.items() if key != "root"}
    for key in ("file", "corrections"):
        if isinstance(kept.get(key), str):
            kept[key] = Path(kept[key]).name
    if "parts" in kept:
        kept["parts"] = [without_places(part) for part in kept["parts"]]
    return kept


def judged_on(dataset: dict[str, Any]) -> dict[str, Any]:
    """The same without corrections, which change nothing of whom a query and a gallery show."""
    kept = {key: value for key, value in dataset.items() if key != "corrections"}
    if "parts" in kept:
        kept["parts"] = [judged_on(part) for part in kept["parts"]]
    return kept


def _part(part: Any, data_root: str, group: str) -> dict[str, Any]:
    named = {"name": part} if isinstance(part, str) else part
    if not isinstance(named, dict) or not isinstance(named.get("name"), str):
        raise ConfigError(
            f"{group}={part!r} is not allowed: expected a choice such as market, or a mapping such as "
            "{name:table,file:crops.csv}"
        )
    if named["name"] == "joint":
        raise ConfigError(f"{group}={part!r} is not allowed: a joint dataset holds no other. List all parts")
    values = {key: value for key, value in named.items() if key != "name"}
    return dataset_choice(named["name"], data_root, values, group)
