"""Where a command writes what it has measured of a model: its checkpoint and card, and its MLflow run."""

import logging
from pathlib import Path

from reid.engine.card import card_path
from reid.engine.checkpoint import CheckpointError
from reid.engine.checkpoint_source import is_tracked
from reid.engine.rundir import LAST
from reid.home import home
from reid.tracking import (
    SCHEME,
    TrackingError,
    default_store,
    replace_model,
    run_registered_as,
    under_way,
)

log = logging.getLogger(__name__)


def destination(checkpoint: str, output: str | None, source: Path, folder: Path) -> Path:
    """Where the result goes: to `output`, of a tracked run into the job's folder, else into the file itself.

    checkpoint: as it was typed. source: its file.

    Raises:
        CheckpointError: the file is still being trained, so the next epoch would overwrite it.
    """
    if output is not None:
        return Path(output)
    if is_tracked(checkpoint):
        return folder / source.name
    if source.name == LAST and under_way(source.parent):
        raise CheckpointError(
            f"{source} belongs to a run that is under way, whose next epoch replaces it: wait for its end, "
            "or write a copy with output=other.pt"
        )
    return source


def run_named_by(checkpoint: str, uri: str | None) -> str | None:
    """The id of the MLflow run that `checkpoint` names, itself or in the registry; None where it names none.

    Ask before anything is measured: an alias that moves meanwhile names the model of another run. A store
    that fails is warned of.
    """
    if not is_tracked(checkpoint):
        return None
    if not checkpoint.startswith(SCHEME):
        return checkpoint
    try:
        return run_registered_as(default_store(home(), uri), checkpoint)
    except TrackingError as error:
        log.warning("%s. What is measured goes into no run", error)
        return None


def put_back(run_id: str | None, uri: str | None, target: Path) -> str:
    """Put `target` and its card into this MLflow run, where there is one.

    Returns the words that say what became of it. A store that fails is warned of.
    """
    if run_id is None:
        return ""
    try:
        replace_model(default_store(home(), uri), run_id, target, card_path(target))
    except TrackingError as error:
        log.warning("%s. What was measured is in %s alone", error, target)
        return ""
    return f", and as the model of run {run_id}"
