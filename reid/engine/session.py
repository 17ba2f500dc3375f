"""The state of a training run between steps: what a checkpoint saves and a resume brings back."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from reid.config.identity import changed
from reid.data.image_store import ImageStore
from reid.data.sizes import epoch_sizes
from reid.engine.best import BestModel
from reid.engine.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    restore_rng,
    rng_state,
    save_checkpoint,
)
from reid.engine.checkpoint_meta import check_tensors
from reid.engine.compute import Compute
from reid.engine.describe import take_normalisation
from reid.engine.finite import DivergedError, NonFiniteError, check_finite
from reid.engine.loop import EpochTotals
from reid.engine.optimizers import Optimizers, load_optimizer, restore_optimizer
from reid.engine.rundir import LAST
from reid.engine.schedule import same_rates
from reid.models import ReidModel

log = logging.getLogger(__name__)


class Session:
    """How far a training is, and the only one that saves it.

    Every moment from which a killed run can go on is a method, which first changes the state and then writes
    `last.pt`; nothing else writes it:

        start          before the run is tracked       end_epoch      an epoch is complete
        attach         the run is tracked              add_score      the model was judged
        pause          stopped within an epoch         finish         model.pt, at the end

    Where the model of the best epoch is kept, `last.pt` holds that one too: it is written in one piece with
    the state that it belongs to, so no kill can tear them apart.

    `epoch` counts the complete epochs, `totals` belongs to the one after them, which may be under way.
    `judged` says whether the score that was due after `epoch` is in the history.  `best` is None where the
    model of the last epoch is kept.  Several processes have to come to each of these together: the first one
    writes, with what each of them draws random numbers from.
    """

    def __init__(
        self,
        folder: Path,
        model: ReidModel,
        optimizers: Optimizers,
        compute: Compute,
        meta: dict[str, Any],
        metric_loss: nn.Module | None = None,
        distillation: nn.Module | None = None,
        best: BestModel | None = None,
    ) -> None:
        self.folder = folder
        self.model = model
        self.optimizers = optimizers
        self.compute = compute
        self.meta = meta
        self.metric_loss = metric_loss
        self.distillation = distillation
        self.best = best
        self.epoch = 0
        self.judged = False
        self.totals = EpochTotals()
        self.history: list[dict[str, float]] = []

    @property
    def result(self) -> ReidModel:
        """The model that is judged and saved: the average of the weights where one is kept."""
        average = self.optimizers.average
        return self.model if average is None else average.model

    def start(self) -> None:
        """A new run: a kill from here on, such as while a store is made, finds one to resume."""
        self._save()

    def attach(self, folder: Path, run_id: str | None, run_key: str | None, resumed: bool) -> None:
        """The run is tracked from here on under this id, and its folder is this job's."""
        self.meta |= {"run_id": run_id, "run_key": run_key}
        self.folder = folder
        if not resumed:
            self._save()

    def pause(self) -> None:
        """Stopped between two steps, where everything is consistent.

        Gradients half accumulated would be lost: then the checkpoint of the last epoch stays.
        """
        if self.optimizers.accumulate == 1:
            self._save()

    def end_epoch(self, values: dict[str, float], last: bool = False) -> None:
        """The epoch under way is complete, with these values.

        last: a checkpoint that cannot be written ends the run; before the last epoch training goes on.

        Raises:
            DivergedError: the model has become useless; what was saved before stays.
            OSError: the last checkpoint could not be written.
        """
        self._record(self.epoch + 1, values)
        check_finite(self.model, self.compute.processes)
        self.epoch += 1
        self.judged = False
        self.totals = EpochTotals()
        self._save(must=last)

    def add_score(self, values: dict[str, float] | None) -> None:
        """The model was judged after `epoch` epochs; the values are None where another process has them."""
        self.judged = True
        if self.best is not None:
            # The first process alone knows the score; each of them keeps the model.
            better = values is not None and self.best.is_beaten_by(self.epoch, values)
            mAP = self.compute.processes.broadcast(values[self.best.score] if better and values else None)
            if mAP is not None:
                self.best.take(self.epoch, mAP, self.result)
        if values is not None:
            self._record(self.epoch, values)
        self._save()

    @property
    def kept_epoch(self) -> int:
        """The epoch whose model the run keeps, as far as it has come."""
        return self.epoch if self.best is None or self.best.model is None else self.best.epoch

    def take_best(self) -> None:
        """Put the weights of the best epoch in the place of the last one's, once the training is over.

        Nothing is saved to `last.pt` after it.
        """
        if self.best is not None and self.best.model is not None:
            self.result.load_state_dict(self.best.model)

    def finish(self) -> Path:
        """Write `model.pt`: the model and what it says of itself, without the state of the training."""
        path = self.folder / "model.pt"
        self.take_best()
        save_checkpoint(path, Checkpoint(self.result.state_dict(), self.meta_of_result(), {}))
        return path

    def meta_of_result(self) -> dict[str, Any]:
        """What `model.pt` says of itself at the end."""
        meta = {**self.meta, "progress": {"epoch": self.kept_epoch}}
        if self.best is not None:
            meta["selected"] = {**self.best.description(), "of_epochs": self.epoch}
        return meta

    def _record(self, epoch: int, values: dict[str, float]) -> None:
        """Add values to the row of `epoch` in the history and in `history.csv`."""
        if not self.history or self.history[-1]["epoch"] != epoch:
            self.history.append({"epoch": epoch})
        self.history[-1].update(values)
        if not self.compute.processes.first:
            return
        try:
            pd.DataFrame(self.history).to_csv(self.folder / "history.csv", index=False)
        except OSError as error:
            log.warning("history.csv could not be written (%s); the numbers go on in the checkpoint", error)

    def _save(self, must: bool = False) -> None:
        """Write `last.pt`.  A full disk is only warned of, since training can go on, unless `must`."""
        rng, *rng_of_others = self.compute.processes.gather(rng_state(self.compute.device))
        if not self.compute.processes.first:
            return
        progress: dict[str, Any] = {"epoch": self.epoch, "judged": self.judged, "history": self.history}
        loss_optimizer, scaler = self.optimizers.loss, self.optimizers.scaler
        training: dict[str, Any] = {
            "optimizer": self.optimizers.network.state_dict(),
            "rng": rng,
            "totals": self.totals.state(),
            "metric_loss": self.metric_loss.state_dict() if self.metric_loss is not None else {},
            "loss_optimizer": loss_optimizer.state_dict() if loss_optimizer is not None else {},
        }
        if scaler is not None:
            training["scaler"] = scaler.state_dict()
        if self.distillation is not None:
            training["distillation"] = self.distillation.state_dict()
        if rng_of_others:
            training["rng_of_others"] = rng_of_others
        if self.optimizers.average is not None:
            training["trained_model"] = self.model.state_dict()
            training["averaged_moves"] = self.optimizers.average.moves
        if self.best is not None and self.best.model is not None:
            progress["best"] = self.best.description()
            training["best_model"] = self.best.model
        checkpoint = Checkpoint(self.result.state_dict(), {**self.meta, "progress": progress}, training)
        try:
            save_checkpoint(self.folder / LAST, checkpoint)
        except OSError as error:
            if must:
                raise
            log.warning("the checkpoint of epoch %d could not be written: %s", self.epoch, error)

    def diverged(self, error: DivergedError, store: ImageStore) -> str:
        """What to say of a training that cannot go on; the crops of a failed step go to `bad_batch.txt`."""
        problem, crops = str(error), ""
        if isinstance(error, NonFiniteError):
            bad = self.folder / "bad_batch.txt"
            if self.compute.processes.first:
                bad.write_text("".join(f"{store.crops[i].path}\n" for i in error.indices.tolist()))
            problem, crops = (
                f"{error} of epoch {self.epoch + 1}.",
                f" The crops of that batch stand in {bad};",
            )
        return (
            f"{problem}{crops} last.pt holds epoch {self.epoch}. A lower optimizer.lr, clip_norm=5, a longer "
            "warm-up or precision=float32 are the usual cures"
        )

    def resume(self, epochs: float = math.inf) -> dict[str, object]:
        """Take up what `last.pt` in the folder holds; returns what the tracker shows of how it began.

        Raises:
            CheckpointError: it was trained with another config, on other data or by another teacher, or for
                more than `epochs`: its model would not be what it says.
        """
        path = self.folder / LAST
        # To the CPU: Adam would read its step counts back from a GPU at every step.
        checkpoint = load_checkpoint(path)
        for key, what in (("resume_hash", "another config"), ("train_fingerprint", "other data")):
            was, now = checkpoint.meta.get(key), self.meta[key]
            if was != now:
                keys = changed(checkpoint.meta.get("config", {}), self.meta.get("config", {}))
                named = "; ".join(keys) if keys and key == "resume_hash" else f"{key} was {was}, is {now}"
                raise CheckpointError(
                    f"{path} was trained with {what} ({named}). "
                    "What is trained, and on what, must stay as it was; to start anew leave `resume` out"
                )
        was, now = (meta.get("teacher", {}).get("sha256") for meta in (checkpoint.meta, self.meta))
        if was != now:
            raise CheckpointError(
                f"{path} learns from the teacher with sha256 {str(was)[:16]}, and teacher.checkpoint names a "
                f"file with {str(now)[:16]}. Name the file that the run began with, or leave `resume` out"
            )
        if not checkpoint.training:
            raise CheckpointError(
                f"{path} holds a model without the state of its training: nothing to resume"
            )
        try:
            self._restore(path, checkpoint, epochs)
        except (CheckpointError, torch.OutOfMemoryError):  # the latter is the device's, not the file's
            raise
        # What a file holds that was changed may be of any type, and of any shape.
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
            raise CheckpointError(
                f"{path} cannot be resumed: the state of its training does not fit this run "
                f"({type(error).__name__}: {error}). To start anew leave `resume` out"
            ) from error
        self.meta["begun"] = checkpoint.meta.get("begun", {})
        return dict(self.meta["begun"])

    def _restore(self, path: Path, checkpoint: Checkpoint, epochs: float) -> None:
        training, progress = checkpoint.training, checkpoint.meta["progress"]
        steps = training["totals"]["steps"]
        _require_epochs(path, progress["epoch"], steps, epochs)
        trained = progress["epoch"] + bool(steps)
        _require_rates(path, trained, checkpoint.meta["config"], self.meta.get("config", {}))
        _require_sizes(path, trained, checkpoint.meta["config"], self.meta.get("config", {}))
        average = self.optimizers.average
        if average is not None:
            average.restore(checkpoint.model, training["averaged_moves"])
        self.model.load_state_dict(dict(checkpoint.model if average is None else training["trained_model"]))
        beside = [module for module in (self.metric_loss, self.distillation) if module is not None]
        learnt = [parameter for module in (self.model, *beside) for parameter in module.parameters()]
        restore_optimizer(self.optimizers.network, training["optimizer"], learnt)
        if self.metric_loss is not None:
            self.metric_loss.load_state_dict(training.get("metric_loss", {}))
        if self.distillation is not None:
            self.distillation.load_state_dict(training["distillation"])
        if self.optimizers.loss is not None:
            load_optimizer(self.optimizers.loss, training["loss_optimizer"])
        if self.optimizers.scaler is not None:
            self.optimizers.scaler.load_state_dict(training["scaler"])
        if self.best is not None and "best" in progress:
            check_tensors(training["best_model"], checkpoint.meta)
            self.best.restore(progress["best"], training["best_model"], self.result)
        # A weight file may have stated how images are normalised, and it is not read again.
        for model in (self.model, self.result):
            take_normalisation(model, checkpoint.meta["preprocessing"])
        self.meta["preprocessing"] = checkpoint.meta["preprocessing"]
        rngs = [training["rng"], *training.get("rng_of_others", [])]
        number, device = self.compute.processes.number, self.compute.device
        if number < len(rngs):  # a run may go on with more processes than it had
            restore_rng(rngs[number], device)
        self.totals = EpochTotals.from_state(training["totals"], device)
        self.epoch, self.judged, self.history = progress["epoch"], progress["judged"], progress["history"]


def _require_epochs(path: Path, epoch: int, steps: int, epochs: float) -> None:
    if epoch < epochs or (epoch == epochs and not steps):
        return
    rest = f" and {steps} steps of the next" if steps else ""
    raise CheckpointError(
        f"{path} stands after epoch {epoch}{rest}, beyond epochs={epochs}, and no epoch can be taken back. "
        f"Set epochs={epoch + bool(steps)} or more, or leave `resume` out to train {epochs} anew"
    )


def _require_sizes(path: Path, trained: int, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Refuse another length where the images of what is trained would then have had another size."""
    stages = ours.get("image.sizes")
    if not stages or "epochs" not in theirs:
        return
    was, now = (
        epoch_sizes(stages, int(config["epochs"]), ours["image.height"], ours["image.padding"])
        for config in (theirs, ours)
    )
    if was[:trained] != now[:trained]:
        raise CheckpointError(
            f"{path} is trained for {trained} epochs with the sizes of image.sizes={stages} in a run of "
            f"epochs={theirs['epochs']}; in one of epochs={ours['epochs']} they are others within them. Set "
            f"epochs={theirs['epochs']}, or leave `resume` out to train {ours['epochs']} anew"
        )


def _require_rates(path: Path, trained: int, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Refuse another length where the rates of what is trained would then have been others."""
    if "epochs" not in theirs or "epochs" not in ours:
        return
    was, now = int(theirs["epochs"]), int(ours["epochs"])
    if was != now and not same_rates(ours, (was, now), trained):
        raise CheckpointError(
            f"{path} is trained for {trained} epochs with the learning rates of a run of epochs={was}; those "
            f"of epochs={now} are others within them, so it would not be that run. Set epochs={was}, or "
            f"leave `resume` out to train {now} anew"
        )
