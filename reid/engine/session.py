"""The state of a training run between steps: what a checkpoint saves and a resume brings back."""

import logging
import math
from bisect import bisect_right
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.amp import GradScaler

from reid.config.identity import changed
from reid.config.schema import ScheduleConfig
from reid.data.store import ImageStore
from reid.engine.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    restore_rng,
    rng_state,
    save_checkpoint,
)
from reid.engine.distributed import ALONE, World
from reid.engine.finite import DivergedError, NonFiniteError, check_finite
from reid.engine.loop import EpochTotals
from reid.engine.optimizers import load_optimizer, take_up
from reid.engine.rundir import LAST
from reid.models import ReidModel

log = logging.getLogger(__name__)


class Session:
    """Model, metric loss, optimizers, how far training is, and the history of what was measured.

    `epoch` counts the complete epochs, `totals` belongs to the one after them, which may be under way.
    `judged` says whether the score that was due after `epoch` is in the history.  Of several ranks the first
    writes, and all of them resume.
    """

    def __init__(
        self,
        folder: Path,
        model: ReidModel,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        meta: dict[str, Any],
        metric_loss: nn.Module | None = None,
        loss_optimizer: torch.optim.Optimizer | None = None,
        world: World = ALONE,
    ) -> None:
        self.folder = folder
        self.model = model
        self.optimizer = optimizer
        self.device = device
        self.meta = meta
        self.metric_loss = metric_loss
        self.loss_optimizer = loss_optimizer
        self.scaler: GradScaler | None = None  # of a run in fp16
        self.world = world
        self.epoch = 0
        self.judged = False
        self.totals = EpochTotals()
        self.history: list[dict[str, float]] = []

    def record(self, epoch: int, values: dict[str, float]) -> None:
        """Add values to the row of `epoch` in the history and in `history.csv`."""
        if not self.history or self.history[-1]["epoch"] != epoch:
            self.history.append({"epoch": epoch})
        self.history[-1].update(values)
        if not self.world.first:
            return
        try:
            pd.DataFrame(self.history).to_csv(self.folder / "history.csv", index=False)
        except OSError as error:
            log.warning("history.csv could not be written (%s); the numbers go on in the checkpoint", error)

    def end_epoch(self) -> None:
        """The epoch under way is complete.

        Raises:
            DivergedError: the model has become useless; what was saved before stays.
        """
        check_finite(self.model, self.world)
        self.epoch += 1
        self.judged = False
        self.totals = EpochTotals()

    def save(self, must: bool = False) -> None:
        """Write `last.pt`.  A full disk is only warned of, since training can go on, unless `must`.

        All ranks have to come here: what each draws from is saved.
        """
        rng, *rng_of_others = self.world.all_say(rng_state(self.device))
        if not self.world.first:
            return
        progress = {"epoch": self.epoch, "judged": self.judged, "history": self.history}
        training: dict[str, Any] = {
            "optimizer": self.optimizer.state_dict(),
            "rng": rng,
            "totals": self.totals.state(),
            "metric_loss": self.metric_loss.state_dict() if self.metric_loss is not None else {},
            "loss_optimizer": self.loss_optimizer.state_dict() if self.loss_optimizer is not None else {},
        }
        if self.scaler is not None:
            training["scaler"] = self.scaler.state_dict()
        if rng_of_others:
            training["rng_of_others"] = rng_of_others
        checkpoint = Checkpoint(self.model.state_dict(), {**self.meta, "progress": progress}, training)
        try:
            save_checkpoint(self.folder / LAST, checkpoint)
        except OSError as error:
            if must:
                raise
            log.warning("the checkpoint of epoch %d could not be written: %s", self.epoch, error)

    def diverged(self, error: DivergedError, store: ImageStore) -> str:
        """What to say of a training that cannot go on; the crops of a failed step go to `bad_batch.txt`."""
        told, crops = str(error), ""
        if isinstance(error, NonFiniteError):
            bad = self.folder / "bad_batch.txt"
            if self.world.first:
                bad.write_text("".join(f"{store.crops[i].path}\n" for i in error.indices.tolist()))
            told, crops = f"{error} of epoch {self.epoch + 1}.", f" The crops of that batch stand in {bad};"
        return (
            f"{told}{crops} last.pt holds epoch {self.epoch}. A lower optimizer.lr, clip_norm=5, a longer "
            "warm-up or precision=float32 are the usual cures"
        )

    def save_model(self) -> Path:
        """Write `model.pt`: the model and what it says of itself, without the state of the training."""
        path = self.folder / "model.pt"
        progress = {"epoch": self.epoch}
        save_checkpoint(path, Checkpoint(self.model.state_dict(), {**self.meta, "progress": progress}, {}))
        return path

    def resume(self, epochs: float = math.inf) -> dict[str, object]:
        """Take up what `last.pt` in the folder holds; returns what the tracker shows of how it began.

        Raises:
            CheckpointError: it was trained with another config or on other data, or for more than `epochs`:
                its model would not be what it says.
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
        if not checkpoint.training:
            raise CheckpointError(
                f"{path} holds a model without the state of its training: nothing to resume"
            )
        try:
            self._take_up(path, checkpoint, epochs)
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

    def _take_up(self, path: Path, checkpoint: Checkpoint, epochs: float) -> None:
        training, progress = checkpoint.training, checkpoint.meta["progress"]
        steps = training["totals"]["steps"]
        _require_epochs(path, progress["epoch"], steps, epochs)
        trained = progress["epoch"] + bool(steps)
        _require_rates(path, trained, checkpoint.meta["config"], self.meta.get("config", {}))
        self.model.load_state_dict(dict(checkpoint.model))
        learnt_by_loss = [] if self.metric_loss is None else self.metric_loss.parameters()
        take_up(self.optimizer, training["optimizer"], [*self.model.parameters(), *learnt_by_loss])
        if self.metric_loss is not None:
            self.metric_loss.load_state_dict(training.get("metric_loss", {}))
        if self.loss_optimizer is not None:
            load_optimizer(self.loss_optimizer, training["loss_optimizer"])
        if self.scaler is not None:
            self.scaler.load_state_dict(training["scaler"])
        rngs = [training["rng"], *training.get("rng_of_others", [])]
        if self.world.rank < len(rngs):  # a run may go on with more ranks than it had
            restore_rng(rngs[self.world.rank], self.device)
        self.totals = EpochTotals.from_state(training["totals"], self.device)
        self.epoch, self.judged, self.history = progress["epoch"], progress["judged"], progress["history"]


def _require_epochs(path: Path, epoch: int, steps: int, epochs: float) -> None:
    if epoch < epochs or (epoch == epochs and not steps):
        return
    rest = f" and {steps} steps of the next" if steps else ""
    raise CheckpointError(
        f"{path} stands after epoch {epoch}{rest}, beyond epochs={epochs}, and no epoch can be taken back. "
        f"Set epochs={epoch + bool(steps)} or more, or leave `resume` out to train {epochs} anew"
    )


def _require_rates(path: Path, trained: int, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Refuse another length where fractions of a schedule then fell elsewhere in what is trained."""
    milestones = ours.get("schedule.milestones", [])
    if "epochs" not in theirs or "epochs" not in ours:
        return
    lengths = [int(config["epochs"]) for config in (theirs, ours)]
    before, now = (ScheduleConfig(milestones).milestone_epochs(length) for length in lengths)
    if any(bisect_right(before, index) != bisect_right(now, index) for index in range(trained)):
        raise CheckpointError(
            f"{path} is trained for {trained} epochs with schedule.milestones={milestones} of "
            f"epochs={lengths[0]}; of epochs={lengths[1]} these fractions lie elsewhere within them, so it "
            f"would not be that run. Set epochs={lengths[0]}, or leave `resume` out to train {lengths[1]} "
            "anew"
        )
