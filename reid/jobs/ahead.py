"""What is looked at before the first job begins, once all configs are right: their parts, and the data."""

import json
from collections.abc import Iterable
from typing import Any

from reid.config.checks import ConfigError
from reid.config.schema import AdaptConfig, TrainConfig, TuneConfig
from reid.config.search_space import check_ends
from reid.config.trial import check_built
from reid.data import DatasetError, ReidDataset, load_dataset
from reid.engine.prepare import split_for
from reid.sweeps.cells import DRAWN, HERE, Plan


def check_ahead(plan: Plan) -> None:
    """Raise what a job would fail with by itself, as far as that is known without beginning it.

    Raises:
        ConfigError, BackboneError: a loss, an optimizer or a backbone refuses a value.
        DatasetError, ConfigError, OSError: a sweep of which no cell has data to train on.
    """
    trained = [settings for settings in plan.settings if isinstance(settings, TrainConfig)]
    for settings in trained:
        check_built(settings)
        if isinstance(settings, TuneConfig):
            check_ends(settings, check_built)
    if plan.multirun and plan.launcher in HERE:
        # A target may lack the labels that training data need.
        refuse_without_data(one for one in trained if not isinstance(one, AdaptConfig))


def refuse_without_data(cells: Iterable[TrainConfig]) -> None:
    """Raise what every cell would fail with; where one cell can begin, the others fail by themselves.

    Each dataset is listed once and the first cell that can begin ends the search.  One that is still to be
    drawn is not drawn for this.

    Raises:
        DatasetError, ConfigError, OSError: that of the first cell.
    """
    read: dict[str, ReidDataset | Exception] = {}
    first: Exception | None = None
    for settings in cells:
        if _is_drawn(settings.dataset):
            return
        name = json.dumps(settings.dataset, sort_keys=True)
        if name not in read:
            read[name] = _read(settings.dataset)
        found = read[name]
        if isinstance(found, ReidDataset):
            try:
                split_for(found, settings)
            except (DatasetError, ConfigError) as error:
                found = error
            else:
                return
        first = first or found
    if first is not None:
        raise first


def _read(dataset: dict[str, Any]) -> ReidDataset | Exception:
    try:
        return load_dataset(**dataset)
    except (DatasetError, OSError) as error:
        return error


def _is_drawn(dataset: dict[str, Any]) -> bool:
    return dataset["name"] == DRAWN or any(_is_drawn(part) for part in dataset.get("parts", ()))
