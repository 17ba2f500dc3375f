"""The teacher of a run: a trained model that is frozen, and whose features the student learns from."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reid.config.schema import TeacherConfig, TrainConfig
from reid.data import Crop
from reid.engine.card import seen_data
from reid.engine.checkpoint import load_checkpoint
from reid.engine.checkpoint_source import find_checkpoint
from reid.engine.compute import Compute
from reid.engine.describe import rebuild_model
from reid.losses import FeatureDistillation, RelationalDistillation
from reid.models import ReidModel
from reid.models.weights import file_sha256
from reid.normalisation import Normalisation

log = logging.getLogger(__name__)


@dataclass
class Teacher:
    """The trained model of `teacher.checkpoint`, in evaluation mode; nothing of it learns.

    It sees the images that the student sees, after their augmentation, brought to the size and the
    normalisation that it was trained with, and gives the feature that it is judged by.

    path, sha256: of its file. meta: what the file says of itself.
    """

    path: Path
    sha256: str
    meta: Mapping[str, Any]
    model: ReidModel
    _scale: Tensor | None = field(default=None, init=False)
    _shift: Tensor | None = field(default=None, init=False)
    _spent: float = field(default=0.0, init=False)
    _timed: list[tuple["torch.cuda.Event", "torch.cuda.Event"]] = field(default_factory=list, init=False)

    def place(self, compute: Compute, student: Normalisation) -> None:
        """Bring it to the device, with what turns images normalised for the student into its own."""
        compute.place(self.model)
        theirs = self.model.normalisation
        if theirs != student:
            scale, shift = (torch.tensor(one)[:, None, None] for one in theirs.from_other(student))
            self._scale, self._shift = scale.to(compute.device), shift.to(compute.device)

    @torch.no_grad()
    def __call__(self, images: Tensor, compute: Compute, camids: Tensor | None = None) -> Tensor:
        """(B, 3, H, W), as the student's network takes them -> (B, E) in float32 or more.

        camids: (B,), for a teacher that has learnt cameras.
        """
        began = self._now(images.device)
        with compute.autocast():
            features: Tensor = self.model(self._prepared(images), camids)
        ended = self._now(images.device)
        if isinstance(began, float) and isinstance(ended, float):
            self._spent += ended - began
        elif not isinstance(began, float) and not isinstance(ended, float):
            self._timed.append((began, ended))
        return features.float()

    def take_seconds(self) -> float:
        """How long it has computed since this was asked last; on a GPU, as far as that is done by now."""
        timed, self._timed = self._timed, []
        done: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        for pair in timed:  # each is asked once: it may end between two questions
            (done if pair[1].query() else self._timed).append(pair)
        seconds = self._spent + sum(began.elapsed_time(ended) for began, ended in done) / 1000
        self._spent = 0.0
        return seconds

    def facts(self) -> dict[str, object]:
        """What the tracker shows of it."""
        run = self.meta.get("run_id")
        return {
            "reid.teacher": f"{self.path.parent.name}/{self.path.name}",
            "reid.teacher.sha256": self.sha256,
            "reid.teacher.trained_on": ", ".join(seen_data(self.meta)),
            **({"reid.teacher.run_id": run} if run else {}),
        }

    def description(self) -> dict[str, Any]:
        """What the student's checkpoint says of it, as plain JSON data."""
        return {
            "backbone": self.meta["model"]["backbone"]["name"],
            "sha256": self.sha256,
            "run_id": self.meta.get("run_id"),
            "trained_on": seen_data(self.meta),
        }

    def warn_of_judged(self, options: Mapping[str, Any], query: Sequence[Crop]) -> None:
        """Warn where the teacher was trained on people of a student's `query`, read with these `options`."""
        theirs = self.meta["dataset"]
        same = all(theirs.get(key) == options.get(key) for key in ("name", "root"))
        known = {crop.pid for crop in query} & set(self.meta["pids"])
        if same and known:
            log.warning(
                "the teacher was trained on %d of the people that this run is judged by, so its score is too "
                "high. Train the teacher with the same eval.split, eval.val_identities and eval.val_seed",
                len(known),
            )

    def _prepared(self, images: Tensor) -> Tensor:
        if self._scale is not None and self._shift is not None:
            images = images * self._scale + self._shift
        wanted = (self.meta["preprocessing"]["height"], self.meta["preprocessing"]["width"])
        if tuple(images.shape[2:]) != wanted:
            images = functional.interpolate(images, wanted, mode="bilinear", antialias=True)
        return images

    def _now(self, device: torch.device) -> "float | torch.cuda.Event":
        """The time on the host, or the moment that a GPU's stream comes to: nothing waits for it."""
        if device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(device))
        return event


@dataclass(frozen=True)
class Distillation:
    """What is added to the loss of a run that has a teacher: weight * criterion(student's, teacher's).

    `criterion` maps the features (N, D) of the student and the features (N, E) of the teacher to a scalar.
    Those of the student are the ones that its metric loss sees, of a mix those after the neck. What it
    learns, such as a projection, belongs to the run alone.
    """

    teacher: Teacher
    criterion: nn.Module
    weight: float


def open_teacher(settings: TrainConfig) -> Teacher | None:
    """Read the teacher of a run, before any work is done; None where it has none. Draws no random number.

    Raises:
        CheckpointError, TrackingError: there is no such file, it is no checkpoint, or cannot be rebuilt.
    """
    if settings.teacher.checkpoint is None:
        return None
    path = find_checkpoint(settings.teacher.checkpoint, settings.tracking.uri, "teacher.checkpoint")
    checkpoint = load_checkpoint(path)
    with torch.random.fork_rng(devices=[]):
        model = rebuild_model(checkpoint)
    model.eval_feature = checkpoint.meta["eval"]["neck_feature"]
    model.eval().requires_grad_(False)
    return Teacher(path, file_sha256(path), checkpoint.meta, model)


def build_distillation(
    teacher: Teacher | None, settings: TeacherConfig, student_size: int, seed: int
) -> Distillation | None:
    """What a student whose features have `student_size` numbers learns from its teacher; None without one.

    A projection is drawn from `seed` by itself, so the student begins with the weights of a run without a
    teacher.
    """
    if teacher is None:
        return None
    if settings.kind == "relations":
        return Distillation(teacher, RelationalDistillation(), settings.weight)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        criterion = FeatureDistillation(student_size, teacher.model.embedding_size)
    return Distillation(teacher, criterion, settings.weight)
