"""What a new run begins with: the weights of its backbone, or the trained model that `init_from` names."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from reid.config.schema import TrainConfig
from reid.engine.card import TRAINED_ON, seen_data
from reid.engine.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from reid.engine.describe import model_description, take_normalisation
from reid.models import ReidModel, WeightReport, described_head
from reid.models.matching import CAMERA_TABLE, compare, is_counted
from reid.models.weights import file_sha256
from reid.normalisation import Normalisation

log = logging.getLogger(__name__)

#: What is of one dataset's people or cameras: a new run learns its own.
_OWN = ("classifier.", f"backbone.{CAMERA_TABLE}")


@dataclass(frozen=True)
class Start:
    """The checkpoint that `init_from` names; `path` is its file, `sha256` that of the file's bytes.

    normalised: the run's config says itself how images are normalised, by image.mean or image.std.
    """

    path: Path
    sha256: str
    checkpoint: Checkpoint
    normalised: bool = False

    def load_into(self, model: ReidModel) -> WeightReport:
        """Give `model` the tensors of the checkpoint, of any number of identities, in place.

        Classifiers and camera embeddings are left out on both sides. What only one of the two heads has, such
        as a neck, is left as it is, and reported; of the backbone nothing may be missing. Of the losses' own
        parameters, nothing is taken. Images are normalised as they were for the checkpoint, unless image.mean
        or image.std says otherwise.

        Raises:
            CheckpointError: the backbones differ; `model` is then untouched.
        """
        own, from_file = _without_own(model.state_dict()), _without_own(self.checkpoint.model)
        left = [name for name in self.checkpoint.model if name.startswith(_OWN)]
        report = compare(own, from_file, str(self.path), self.sha256, left, part="model")
        misfits = [
            *report.mismatched,
            *(f"{name} (missing)" for name in report.missing if name.startswith("backbone.")),
            *(f"{name} (unknown here)" for name in report.unexpected if name.startswith("backbone.")),
        ]
        if misfits:
            raise CheckpointError(
                f"init_from={self.path} does not fit this run's {model.backbone.name}: {len(misfits)} "
                f"tensors differ, first {misfits[0]}. Build the network with the options that the checkpoint "
                "was trained with (its config_resolved.yaml has them)"
            )
        model.load_state_dict(
            {name: tensor for name, tensor in from_file.items() if name in own}, strict=False
        )
        theirs = self.checkpoint.meta["preprocessing"]
        if not self.normalised:
            take_normalisation(model, theirs)
        own_numbers = [list(channels) for channels in model.normalisation]
        if "mean" in theirs and [theirs["mean"], theirs["std"]] != own_numbers:
            log.warning(
                "init_from: the checkpoint was trained on images normalised by %s, this run normalises by %s "
                "(image.mean, image.std): the same weights give other features",
                Normalisation(theirs["mean"], theirs["std"]).describe(), model.normalisation.describe(),
            )  # fmt: skip
        return report

    def facts(self, report: WeightReport) -> dict[str, object]:
        """What the tracker shows of it."""
        meta = self.checkpoint.meta
        run = meta.get("run_id")
        return {
            "reid.init_from": f"{self.path.parent.name}/{self.path.name}",
            "reid.init_from.sha256": self.sha256,
            "reid.init_from.matched_percent": f"{100 * report.fraction:.1f}",
            TRAINED_ON: ", ".join(seen_data(meta)),
            **({"reid.init_from.run_id": run} if run else {}),
        }


def open_start(path: Path, settings: TrainConfig) -> Start:
    """Read the checkpoint that a run is to begin with, before any work is done.

    What changes the features without changing a tensor (a ReLU in the stem, the last stride) is warned of.

    Raises:
        CheckpointError: not a checkpoint of this suite, or one of another backbone.
    """
    checkpoint = load_checkpoint(path)
    theirs = checkpoint.meta["model"]
    ours = model_description(settings, theirs["num_classes"])
    name, wanted = theirs["backbone"]["name"], ours["backbone"]["name"]
    if name != wanted:
        raise CheckpointError(
            f"init_from={path} holds a {name}, and this run trains a {wanted}. Choose backbone={name}, or a "
            f"checkpoint of {wanted}"
        )
    for key, there, here in _differences(theirs, ours):
        log.warning(
            "init_from: the checkpoint was trained with %s=%s, this run has %s: the same weights give other "
            "features",
            key,
            there,
            here,
        )
    normalised = settings.image.mean is not None or settings.image.std is not None
    return Start(path, file_sha256(path), checkpoint, normalised)


def begin(model: ReidModel, start: Start | None) -> tuple[str, dict[str, object]]:
    """Load `start` into a new model; return what it begins with, for the console and for the tracker.

    Raises:
        CheckpointError: they do not fit.
    """
    weights = model.backbone.weight_report
    if start is not None:
        report = start.load_into(model)
        return f"init_from: {report.describe()}; backbone.weights is not needed", start.facts(report)
    facts: dict[str, object] = {
        "reid.weights.source": Path(weights.source).name if weights.source != "none" else "none",
        "reid.weights.matched_percent": f"{100 * weights.fraction:.1f}",
        "reid.weights.sha256": weights.sha256,
    }
    return f"weights: {weights.describe()}", facts


def _without_own(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith(_OWN) and is_counted(name)}


def _differences(theirs: dict[str, Any], ours: dict[str, Any]) -> list[tuple[str, object, object]]:
    """The keys that two models' descriptions set differently, with both values."""

    def options(description: dict[str, Any]) -> dict[str, object]:
        # A key that is not set, or null, is off.
        named = {f"backbone.{key}": value or False for key, value in description["backbone"].items()}
        without = ("backbone.camera", "backbone.drop_path")  # the latter acts in training alone
        named = {key: value for key, value in named.items() if not key.startswith(without)}
        head = described_head(description)["_target_"]
        return {**named, "tricks.last_stride": description["last_stride"], "head._target_": head}

    there, here = options(theirs), options(ours)
    both = [(key, there.get(key, False), here.get(key, False)) for key in {**there, **here}]
    return [entry for entry in both if entry[1] != entry[2]]
