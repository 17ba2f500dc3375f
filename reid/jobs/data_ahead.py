"""What a command needs before it starts, asked first: weights, and data for a sweep."""

import json
from collections.abc import Iterable
from typing import Any

from reid.config.checks import ConfigError
from reid.config.schema import TrainConfig
from reid.data import DatasetError, ReidDataset, load_dataset
from reid.engine.prepare import split_for
from reid.models import check_weights
from reid.sweeps.cells import Plan
from reid.sweeps.slots import SHARED_LAUNCHERS

#: Launchers whose jobs see the folders that this process sees; a cluster's may lie elsewhere.
HERE = ("basic", *SHARED_LAUNCHERS)

#: Datasets that lie nowhere before they are drawn.
DRAWN = "synthetic"


def refuse_ahead(plan: Plan) -> None:
    """Raise what would fail before a first step: weights that are not there, a sweep without any data.

    Raises:
        WeightsError: a file that `backbone.weights` names is not there.
        DatasetError, ConfigError, OSError: no cell of a sweep has data to train on.
    """
    if plan.launcher not in HERE:
        return
    for settings in plan.trained:
        if settings.resume is None:  # a resumed run has its weights
            check_weights(settings.backbone.get("weights", "none"))
    if plan.multirun:
        refuse_without_data(plan.trained)


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
