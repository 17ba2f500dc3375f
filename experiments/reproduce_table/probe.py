"""How long the table will take: a few steps and a few evaluation batches, measured and multiplied."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch

from experiments.reproduce_table.plan import Planned
from reid.config.schema import TrainConfig
from reid.data.batches import Batch
from reid.engine.compute import Compute
from reid.engine.describe import build_model
from reid.engine.loop import EpochTotals, train_epoch
from reid.engine.objective import Objective, build_metric_loss
from reid.engine.optimizers import Optimizers, build_optimizer, gradient_scaler, set_learning_rate
from reid.engine.stop import StopSignals
from reid.models import ReidModel

#: Of the classifier of a model that is measured or sized: about as many as both datasets have.
IDENTITIES = 750
_STEPS = 2
#: A CPU works through a batch image by image, so that a small one has the same pace.
_CPU_IDENTITIES = 2


@dataclass(frozen=True)
class Pace:
    """Seconds for one image."""

    train: float
    embed: float


@dataclass(frozen=True)
class Counts:
    """Images of a dataset."""

    train: int
    query: int
    gallery: int

    @property
    def judged(self) -> int:
        return self.query + self.gallery


def measure(settings: TrainConfig, device: torch.device) -> Pace:
    """The pace of a recipe's network at its image size, on random images; nothing is read or written."""
    compute = Compute.set_up(str(device), settings.precision, channels_last=settings.channels_last)
    identities = settings.batch.identities if device.type == "cuda" else _CPU_IDENTITIES
    instances = settings.batch.instances
    model = compute.place(build_model(without_weights(settings), IDENTITIES))
    size = identities * instances
    images = torch.randn(size, 3, settings.image.height, settings.image.width, device=device)
    labels = torch.arange(identities, device=device).repeat_interleave(instances)
    batch = Batch(images, labels, torch.arange(size))
    return Pace(_train(model, settings, batch, compute), _embed(model, images, compute))


def _train(model: ReidModel, settings: TrainConfig, batch: Batch, compute: Compute) -> float:
    loss = build_metric_loss(settings.loss, IDENTITIES, model.embedding_size)
    device = compute.device
    optimizer = build_optimizer(model, settings.optimizer, loss, device)
    set_learning_rate(optimizer, 1e-6)  # noise teaches nothing, and must not make it diverge
    optimizers = Optimizers(optimizer, scaler=gradient_scaler(device, compute.precision))
    smoothing = settings.tricks.label_smoothing
    weights = settings.loss["id_weight"], settings.loss["metric_weight"]
    loss = None if loss is None else loss.to(device)
    objective = Objective(*weights, smoothing, loss, model.head.margin)

    def steps(count: int) -> float:
        started = time.perf_counter()
        with StopSignals() as stop:
            train_epoch(model, objective, [batch] * count, EpochTotals(), optimizers, compute, stop)
        return _since(started, device)

    steps(1)  # the first step allocates, and on a GPU chooses its algorithms
    return steps(_STEPS) / _STEPS / len(batch.labels)


def _embed(model: ReidModel, images: torch.Tensor, compute: Compute) -> float:
    model.eval()
    with torch.inference_mode(), compute.autocast():
        model(images)
        started = time.perf_counter()
        for _ in range(_STEPS):
            model(images)
        return _since(started, compute.device) / _STEPS / len(images)


def _since(started: float, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def without_weights(settings: TrainConfig) -> TrainConfig:
    """The same recipe from random weights: as fast, as large, and no file is needed."""
    return replace(settings, backbone={**settings.backbone, "weights": "none"})


def evaluations(settings: TrainConfig) -> int:
    """How often a run is judged: every `eval.period` epochs and after the last one."""
    period, epochs = settings.eval.period, settings.epochs
    due = {epochs} | (set(range(period, epochs + 1, period)) if period else set())
    return len(due) + settings.eval.at_start


def seconds(settings: TrainConfig, pace: Pace, counts: Counts) -> float:
    """What a run takes at this pace: every training image once an epoch, and all evaluations."""
    return settings.epochs * counts.train * pace.train + evaluations(settings) * counts.judged * pace.embed


def estimate(
    planned: Iterable[Planned], paces: Mapping[str, Pace], counts: Mapping[str, Counts]
) -> float | None:
    """Seconds of the cells that are not finished, one after the other; None where their data are unknown.

    paces: by backbone.  counts: by the dataset's root.
    """
    total = 0.0
    for one in planned:
        if one.finished:
            continue
        root = str(one.settings.dataset["root"])
        if root not in counts:
            return None
        total += seconds(one.settings, paces[str(one.settings.backbone["name"])], counts[root])
    return total


def duration(value: float) -> str:
    """`40 s`, `12 min`, `3 h 20 min`, `4 days 6 h`."""
    if value < 90:
        return f"{value:.0f} s"
    minutes = round(value / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} days {hours % 24} h"
