"""The datasets that one model is judged on."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reid.config.dataset import judged_on, sources
from reid.config.identity import without_defaults
from reid.config.schema import EvalConfig
from reid.data import DatasetError, ReidDataset, load_dataset
from reid.data.crops import Progress
from reid.data.division import validation_split
from reid.engine.prepare import check_judgeable, with_protocol_of
from reid.models import ReidModel
from reid.retrieval import EvaluationError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Domain:
    """A dataset to judge on: `label` names it in tables and metrics, `own` is the one trained on.

    `evaluation` is how it is judged: as the settings ask, by the protocol that its cameras allow.
    `same_cameras` says whether its camids mean the cameras that were trained on.
    """

    label: str
    own: bool
    dataset: ReidDataset
    evaluation: EvalConfig
    same_cameras: bool


def read_domains(
    entries: Sequence[dict[str, Any]],
    trained_on: dict[str, Any],
    settings: EvalConfig,
    progress: Progress,
    overrides: Sequence[str] = (),
) -> list[Domain]:
    """Read every dataset of `entries` (its keys, and `label`), in their order, before any is judged on.

    Raises:
        DatasetError: one list of all that are missing or cannot be judged on, and why.
    """
    found: dict[str, Domain] = {}
    wrong: dict[str, str] = {}
    # What has to be drawn comes last: nothing is drawn in vain.
    for entry in sorted(entries, key=lambda entry: bool(entry["name"] == "synthetic")):
        label, keys = entry["label"], {key: value for key, value in entry.items() if key != "label"}
        if wrong and entry["name"] == "synthetic":
            continue
        try:
            found[label] = read_domain(keys, trained_on, settings, progress, overrides, label)
        except (DatasetError, EvaluationError) as error:
            wrong[label] = str(error)
    if wrong:
        listed = "\n\n".join(f"{label}: {problem}" for label, problem in wrong.items())
        raise DatasetError(
            f"{len(wrong)} of the {len(entries)} eval.datasets cannot be judged on.\n\n{listed}"
        )
    return [found[entry["label"]] for entry in entries]


def read_domain(
    keys: dict[str, Any],
    trained_on: dict[str, Any],
    settings: EvalConfig,
    progress: Progress,
    overrides: Sequence[str] = (),
    label: str | None = None,
) -> Domain:
    """One dataset, split as `eval.split` asks; `label` is by default what `label_of` makes of its name.

    Raises:
        DatasetError, EvaluationError: it is not there, or no query has a match.
    """
    dataset = load_dataset(**judged_on(keys), progress=progress)
    if settings.split == "val":
        dataset = validation_split(dataset, settings.val_identities, settings.val_seed)
    evaluation = with_protocol_of(dataset, settings, overrides)
    check_judgeable(dataset, evaluation)
    label = label or label_of(dataset.name)
    own = same_domain(keys, trained_on)
    return Domain(label, own, dataset, evaluation, same_cameras(keys, trained_on))


def by_learnt_cameras(model: ReidModel, domain: Domain) -> EvalConfig:
    """How a domain is judged by a model that may have learnt cameras: of other data without camids, which
    would name other cameras there. The log says so, and which cameras of its own data it does not know.
    """
    how = domain.evaluation
    if not (model.cameras and how.cameras):
        return how
    if not domain.same_cameras:
        log.warning(
            "the model has learnt the cameras of other data than %s: its images are embedded without camids, "
            "with the mean of the learnt camera embeddings",
            domain.label,
        )
        return replace(how, cameras=False)
    warn_of_unknown_cameras(model, domain.dataset)
    return how


def warn_of_unknown_cameras(model: ReidModel, dataset: ReidDataset) -> None:
    """Say which cameras of the query and the gallery a model that has learnt cameras does not know."""
    unknown = {crop.camid for crop in dataset.query + dataset.gallery} - set(model.cameras)
    if model.cameras and unknown:
        log.warning(
            "nobody to train on was seen by the cameras %s of %s: their images are embedded with the mean of "
            "the learnt camera embeddings",
            ", ".join(map(str, sorted(unknown))),
            dataset.name,
        )


def label_of(name: str) -> str:
    """A dataset's name as metrics, tags and folders take it: a table or a folder may be called anything."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._-") or "data"


def same_domain(keys: dict[str, Any], trained_on: dict[str, Any]) -> bool:
    """Whether two datasets are the same one, wherever it lies: name, options, name of the folder.

    Each part of a joint dataset was trained on too, but the one that was left out. The whole of a joint one
    with a part left out is judged on that part, which nobody was trained on.
    """
    if "parts" in trained_on and "parts" not in keys:
        return any(same_domain(keys, part) for part in sources(trained_on))

    if keys.get("left_out") is not None:
        return False
    return _identity_of(keys) == _identity_of(trained_on)


def same_cameras(keys: dict[str, Any], trained_on: dict[str, Any]) -> bool:
    """Whether the camids of a dataset mean the cameras that were trained on; of a part of a joint one they do
    not."""
    return _identity_of(keys) == _identity_of(trained_on)


def _identity_of(keys: dict[str, Any]) -> dict[str, Any]:
    """What names a dataset wherever it lies: its keys but those that came later, and its folder's name.

    Corrections of its labels make no other dataset of it: whom it is judged on stays.
    """
    folder = Path(keys["root"]).name if keys.get("root") else None
    return {**without_defaults({"dataset": judged_on(keys)})["dataset"], "root": folder}
