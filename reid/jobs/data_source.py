"""What the data commands take for a dataset: a choice of conf/dataset, a table, or a folder."""

import argparse
import os
from pathlib import Path

import yaml
from omegaconf import OmegaConf

from reid.config.checks import ConfigError
from reid.config.dataset import check_dataset, dataset_choice
from reid.config.schema import DataConfig, register
from reid.data import ReidDataset, load_dataset
from reid.data.crops import LeakError, Progress, silent
from reid.data.layout import FOLDERS
from reid.jobs.plain_warnings import show_plainly

#: How keys of the group `dataset` are typed to the data commands, where they are no options there.
SPELLINGS = {
    "dataset": "{value}",
    "dataset.": "--option {key}={value}",
    "data.root": "--root {value}/<folder of the set>, or set REID_DATA={value}",
}


def add_source(parser: argparse.ArgumentParser) -> None:
    """The arguments that say which dataset is meant."""
    parser.add_argument(
        "source",
        help="a table (crops.csv), a folder (of one folder a person, or in Market's layout), or the name of "
        "a dataset, as in dataset=NAME",
    )
    parser.add_argument("--root", help="where it lies, or where a table's relative paths start")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other key of the dataset, as in dataset.KEY=VALUE; may be given again",
    )


def open_source(options: argparse.Namespace, progress: Progress = silent) -> ReidDataset:
    """The dataset that was asked for, also one that shares people between its splits.

    Raises:
        ConfigError: no such dataset or option.
        DatasetError: it cannot be read.
    """
    register()
    show_plainly()
    choice, values = _named(str(options.source))
    for word in options.option:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"--option {word}: expected KEY=VALUE, such as preset=tiny")
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--option {word}: {str(error).splitlines()[0]}") from error
    if options.root is not None:
        values["root"] = options.root
    dataset = dataset_choice(choice, OmegaConf.structured(DataConfig).root, values)
    check_dataset(dataset)
    try:
        return load_dataset(**dataset, progress=progress)
    except LeakError as error:
        return error.dataset


def _named(source: str) -> tuple[str, dict[str, object]]:
    """The choice of conf/dataset that a source stands for, and the values that it sets."""
    path = Path(source).expanduser()
    if path.suffix.lower() in (".csv", ".parquet"):
        return "table", {"file": str(path)}
    if os.path.isdir(path):  # False, too, for what is no path at all
        market = all((path / folder).is_dir() for folder in FOLDERS[1:])  # it may have nobody to train on
        return "folder" if market else "folders", {"root": str(path)}
    if len(path.parts) > 1:
        raise ConfigError(f"there is no folder {source}")
    return source, {}
