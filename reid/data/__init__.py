"""Crops on disk -> uint8 store -> augmented batches."""

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reid.data import datasets
from reid.data.corrections import correct
from reid.data.crops import (
    Crop,
    DatasetError,
    Progress,
    ReidDataset,
    refuse_foreign_names,
    silent,
    untrained_distractors,
)
from reid.data.files import is_about_the_path, shortened
from reid.lazy import lazy_names
from reid.trust import TrustError, trusted_function

if TYPE_CHECKING:
    from reid.data.sampler import IdentitySampler
else:
    __getattr__ = lazy_names(__name__, {"sampler": ["IdentitySampler"]})

__all__ = [
    "Crop",
    "DatasetError",
    "IdentitySampler",
    "Progress",
    "ReidDataset",
    "dataset_names",
    "dataset_reader",
    "load_dataset",
    "silent",
]


def dataset_names() -> tuple[str, ...]:
    """The datasets that `load_dataset` knows: the modules of `reid.data.datasets`."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(datasets.__path__)))


def dataset_reader(name: str) -> Callable[..., ReidDataset]:
    """The `load` function of `reid.data.datasets.<name>`, or of a module of a package that the user trusts.

    Raises:
        DatasetError: there is no such module.
    """
    if "." in name:
        try:
            return trusted_function(f"{name}.load", f"dataset.name={name}")
        except TrustError as error:
            raise DatasetError(str(error)) from error
    if name not in dataset_names():
        near = difflib.get_close_matches(name, dataset_names(), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise DatasetError(f"no dataset {name!r}: expected one of {', '.join(dataset_names())}.{hint}")
    reader: Callable[..., ReidDataset] = importlib.import_module(f"reid.data.datasets.{name}").load
    return reader


def load_dataset(
    name: str,
    root: str | Path,
    progress: Progress = silent,
    corrections: str | Path | None = None,
    **options: Any,
) -> ReidDataset:
    """Read the dataset `name` from the folder `root`; `options` are those of its reader's `load`.

    corrections: a file of verdicts on its labels, which change whom the training crops show, see
        `reid.data.corrections`.

    Raises:
        DatasetError: no such name, what the reader found wrong, a folder that cannot be opened, a file
            name that is not UTF-8, or corrections that cannot be applied.
    """
    try:
        dataset = dataset_reader(name)(Path(root).expanduser(), progress=progress, **options)
    except OSError as error:
        if not is_about_the_path(error):
            raise
        raise DatasetError(f"{shortened(str(error.filename))}: {error.strerror}") from error
    splits = (dataset.train, dataset.val, dataset.query, dataset.gallery)
    refuse_foreign_names(crop.path for crops in splits for crop in crops)
    dataset = untrained_distractors(dataset)
    return dataset if corrections is None else correct(dataset, Path(corrections).expanduser())
