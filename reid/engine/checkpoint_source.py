"""Which checkpoint a key of a command names, and the data that a checkpoint was trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reid.config.checks import ConfigError
from reid.config.dataset import PLACES, check_dataset
from reid.config.schema import RUN_ID
from reid.data import DatasetError
from reid.engine.errors import CheckpointError
from reid.home import home
from reid.tracking import SCHEME, check_reference, default_store, fetch_checkpoint, fetch_registered

if TYPE_CHECKING:
    from reid.engine.checkpoint import Checkpoint


def find_checkpoint(name: str, tracking_uri: str | None = None, key: str = "checkpoint") -> Path:
    """The checkpoint file that `name` stands for: a file, a run's folder, an MLflow run id, or a model of
    MLflow's registry (`models:/<name>@<alias>`, `models:/<name>/<version>`).

    tracking_uri: the store that knows the run; None stands for the default one.
    key: what the user typed it under, for messages.

    A file is not opened here, one of a store is fetched, and nothing beside it.

    Raises:
        CheckpointError, TrackingError: there is none.
    """
    if is_tracked(name):
        fetch = fetch_registered if name.startswith(SCHEME) else fetch_checkpoint
        return fetch(default_store(home(), tracking_uri), name)
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(
            f"{key}={name}: no such file or folder ({path.absolute()}). Expected a checkpoint that "
            "reid.train wrote, a run's folder, an MLflow run id of 32 digits, or a registered model "
            "(models:/<name>@<alias>)"
        )
    for candidate in ("model.pt", "last.pt"):
        if (path / candidate).is_file():
            return path / candidate
    raise CheckpointError(f"{key}={name}: the folder holds neither model.pt nor last.pt")


def check_checkpoint(name: str, key: str = "checkpoint") -> None:
    """Refuse a file or a folder that is not there; what a store has is looked for once it is needed.

    Raises:
        CheckpointError, TrackingError: as `find_checkpoint`.
    """
    if name.startswith(SCHEME):
        check_reference(name)
    elif not RUN_ID.fullmatch(name):
        find_checkpoint(name, key=key)


def is_tracked(name: str) -> bool:
    """Whether `name` stands for a checkpoint in a store of MLflow, as `find_checkpoint` reads it."""
    return name.startswith(SCHEME) or bool(RUN_ID.fullmatch(name) and not Path(name).exists())


def newest_model() -> Path:
    """The `model.pt` of the newest finished run under outputs/, for commands that were given no checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    found = sorted((home() / "outputs").glob("*/model.pt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise CheckpointError(
            f"no --checkpoint is given, and no run under {home() / 'outputs'} has a model.pt: give a file, a "
            "run's folder or an MLflow run id, or train one with python -m reid.train"
        )
    return found[-1]


def with_data_now(checkpoint: Checkpoint, data_root: str) -> Checkpoint:
    """`checkpoint` with the data that it was trained on as they lie now.

    What lay below the `data.root` of its training and is no longer there lies below that of now, `data_root`.
    """
    before = checkpoint.meta["config"].get("data.root")
    if not isinstance(before, str):
        return checkpoint

    def now(dataset: dict[str, Any]) -> dict[str, Any]:
        moved = dict(dataset)
        for key in PLACES:
            place = Path(moved.get(key) or "")
            if place.is_absolute() and place.is_relative_to(before) and not place.exists():
                moved[key] = str(Path(data_root, place.relative_to(before)).expanduser().absolute())
        if "parts" in moved:
            moved["parts"] = [now(part) for part in moved["parts"]]
        return moved

    return replace(checkpoint, meta={**checkpoint.meta, "dataset": now(checkpoint.meta["dataset"])})


def trained_dataset(checkpoint: Checkpoint) -> dict[str, Any]:
    """The dataset that the model was trained on, as `load_dataset` takes it.

    Raises:
        CheckpointError: the file does not say: it comes from `reid.convert`; or what it says no reader takes.
    """
    dataset: dict[str, Any] = checkpoint.meta["dataset"]
    if "root" not in dataset:
        raise CheckpointError(
            "this checkpoint was converted from another project's file, which does not say what it was "
            "trained on: name the data, such as dataset=market"
        )
    try:
        check_dataset(dataset)
    except (ConfigError, DatasetError) as error:
        raise CheckpointError(f"what the checkpoint says of its data cannot be: {error}") from error
    return dataset
