"""The numbers of a config reach the training: what the loop gets, epoch by epoch.

A trick that a run names and tracks, and that nothing applies, would show in no score of the tiny set.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from composing import settings_of
from omegaconf import OmegaConf
from rich.console import Console
from torch import nn

from reid.commands import train as command
from reid.config.checks import ConfigError
from reid.data.augment import Augmentation
from reid.data.batches import Batch, TrainingBatches
from reid.data.blur import RandomBlur
from reid.data.colour import RandomColour
from reid.data.policies import RandomPolicy
from reid.data.random_patch import RandomPatch
from reid.engine import compute as compute_module
from reid.engine.compute import Compute
from reid.engine.describe import build_model
from reid.engine.finite import DivergedError
from reid.engine.loop import EpochTotals, train_epoch
from reid.engine.objective import Objective
from reid.engine.optimizers import Optimizers
from reid.engine.stop import StopSignals
from reid.jobs.job import Job
from reid.losses import RankedListLoss
from reid.models import ReidModel
from reid.models.heads import Parts
from reid.normalisation import Normalisation
from reid.retrieval import NonFiniteFeaturesError
from reid.tracking import SilentTracker, Tracker

pytestmark = [pytest.mark.usefixtures("own_home"), pytest.mark.slow]

#: `conftest.TINY`, and nothing of what these tests set.
SMALL = (
    "dataset=synthetic", "dataset.preset=tiny", "backbone=resnet18", "backbone.weights=none", "device=cpu",
    "image.height=32", "image.width=16", "batch.identities=4", "eval.period=0",
)  # fmt: skip

#: Of the tiny set: what it has to train on.
IDENTITIES, CROPS = 12, 69

#: A tensor that stands for all that a network begins with.
FIRST = "backbone.conv1.weight"


@dataclass
class Epoch:
    """What the loop got for one epoch, with what it took of it."""

    objective: Objective
    optimizers: Optimizers
    compute: Compute
    rates: list[float]  # of each step
    layouts: set[torch.memory_format]  # of the network's weights and of the images
    sizes: set[tuple[int, ...]] = field(default_factory=set)  # of the images
    values: list[float] = field(default_factory=list)  # the least and the largest of each batch
    crops: set[int] = field(default_factory=set)
    # Learning rate and weight decay, at the end of the epoch: of the weights, of the biases.
    groups: list[tuple[float, float]] = field(default_factory=list)


@dataclass
class Seen:
    """What a run was trained with; `start` is `FIRST` before the first step."""

    model: ReidModel
    start: torch.Tensor
    batches: TrainingBatches
    epochs: list[Epoch]
    history: pd.DataFrame
    tags: list[dict[str, object]]


class NotedTags(SilentTracker):
    def __init__(self, noted: list[dict[str, object]]) -> None:
        super().__init__()
        self.noted = noted

    def tags(self, values: Mapping[str, object]) -> None:
        self.noted.append(dict(values))


class Untracked(Job):
    """Keeps what is tagged while it trains."""

    def track(self, *_: object) -> Tracker:
        self.noted: list[dict[str, object]] = []
        self.tracker = NotedTags(self.noted)
        return self.tracker


def layout(tensor: torch.Tensor) -> torch.memory_format:
    last = tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_data: Path) -> Callable[..., Seen]:
    """Runs `train` with these overrides in this process; nothing is tracked or drawn."""
    models: list[ReidModel] = []
    starts: list[torch.Tensor] = []
    sources: list[TrainingBatches] = []
    epochs: list[Epoch] = []

    def watched_epoch(
        network: nn.Module,
        objective: Objective,
        batches: Iterable[Batch],
        totals: EpochTotals,
        optimizers: Optimizers,
        compute: Compute,
        stop: StopSignals,
        rates: Sequence[float],
    ) -> None:
        assert isinstance(network, ReidModel)
        weights = network.state_dict()[FIRST]
        models.append(network)
        starts.append(weights.clone())
        epoch = Epoch(objective, optimizers, compute, list(rates), {layout(weights)})
        epochs.append(epoch)

        def noted() -> Iterator[Batch]:
            for batch in batches:
                epoch.crops.update(batch.indices.tolist())
                epoch.sizes.add(tuple(batch.images.shape[2:]))
                epoch.values += [batch.images.min().item(), batch.images.max().item()]
                yield batch

        with network.register_forward_pre_hook(lambda _, arguments: epoch.layouts.add(layout(arguments[0]))):
            train_epoch(network, objective, noted(), totals, optimizers, compute, stop, rates)
        epoch.groups = [(group["lr"], group["weight_decay"]) for group in optimizers.network.param_groups]

    def watched_batches(*arguments: Any) -> TrainingBatches:
        sources.append(TrainingBatches(*arguments))
        return sources[-1]

    def run(*overrides: str) -> Seen:
        settings = settings_of(*SMALL, f"data.root={tiny_data}", *overrides)
        job = Untracked(OmegaConf.create({}), tmp_path, [], Console(quiet=True), StopSignals())
        command.train(job, settings)
        history = pd.read_csv(tmp_path / "history.csv")
        return Seen(models[-1], starts[0], sources[-1], epochs, history, job.noted)

    monkeypatch.setattr(command, "TrainingBatches", watched_batches)
    monkeypatch.setattr(command, "train_epoch", watched_epoch)
    monkeypatch.setattr(compute_module, "set_up_backend", lambda *_: None)  # it would outlive the test
    monkeypatch.setattr(command.run_figures, "draw", lambda *_: [])
    return run


def map_of(model: ReidModel) -> tuple[int, ...]:
    """Height and width of the last feature map of a 32 x 16 image."""
    with torch.no_grad():
        return tuple(model.backbone.eval()(torch.zeros(1, 3, 32, 16)).shape[2:])


def rates(seen: Seen) -> list[float]:
    """The learning rate of the weights in each epoch; the history must tell the same."""
    used = [epoch.groups[0][0] for epoch in seen.epochs]
    assert seen.history["train/lr"].tolist() == used
    assert [set(epoch.rates) for epoch in seen.epochs] == [{rate} for rate in used]
    return used


def test_every_trick_and_the_schedule_reach_the_training(trained: Callable[..., Seen]) -> None:
    seen = trained("epochs=3", "schedule.warmup_epochs=2", "schedule.milestones=[2]")
    # From 1 % of 3.5e-4 halfway up, then a tenth of it after the milestone.
    assert rates(seen) == pytest.approx([3.5e-6, 1.7675e-4, 3.5e-5])
    assert seen.batches.recipe.augmentation == Augmentation(
        flip=0.5, padding=10, erasing=0.5, fill="published"
    )
    objective = seen.epochs[-1].objective
    assert (objective.id_weight, objective.metric_weight, objective.label_smoothing) == (1.0, 0.4, 0.1)
    assert isinstance(seen.model.head.bottleneck, nn.BatchNorm1d)
    assert map_of(seen.model) == (2, 1)
    assert seen.epochs[-1].layouts == {torch.channels_last}


def test_a_cosine_and_another_head_reach_the_training(trained: Callable[..., Seen]) -> None:
    seen = trained(
        "epochs=2", "tricks.warmup=1", "schedule=cosine", "schedule.floor=0", "schedule.warmup_factor=0",
        "head=parts", "head.stripes=2", "head.reduction=4",
    )  # fmt: skip
    # Three steps an epoch: up by thirds, then cos of 0, 60 and 120 degrees; the history has the last of each.
    assert [epoch.rates for epoch in seen.epochs] == [
        pytest.approx([0, 3.5e-4 / 3, 7e-4 / 3]),
        pytest.approx([3.5e-4, 2.625e-4, 0.875e-4]),
    ]
    assert [epoch.groups[0][0] for epoch in seen.epochs] == [epoch.rates[-1] for epoch in seen.epochs]
    assert seen.history["train/lr"].tolist() == [epoch.rates[-1] for epoch in seen.epochs]
    assert isinstance(seen.model.head, Parts)
    assert seen.model.embedding_size == 8


def test_sizes_and_a_normalisation_reach_the_training(trained: Callable[..., Seen]) -> None:
    seen = trained(
        "epochs=3", "image.sizes=[16x16@1,32x16]", "image.mean=[0.5,0.5,0.5]", "image.std=[0.5,0.5,0.5]",
        "tricks.random_erasing=0",
    )  # fmt: skip
    assert [epoch.sizes for epoch in seen.epochs] == [{(16, 16)}, {(32, 16)}, {(32, 16)}]
    assert [size.padding for size in seen.batches.recipe.sizes] == [5, 10, 10]
    assert seen.history["train/image_height"].tolist() == [16, 32, 32]
    assert seen.history["train/image_width"].tolist() == [16, 16, 16]
    # Black is the padding, so that each batch has it; white is the lightest that there can be.
    values = torch.tensor(seen.epochs[1].values)
    assert (values.min(), values.max() <= 1) == (pytest.approx(-1), True)
    assert seen.model.normalisation == Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_operations_of_the_augmentation_reach_the_training(trained: Callable[..., Seen]) -> None:
    plain = trained("epochs=1", "image.flip=0", "image.padding=0", "tricks.random_erasing=0")
    seen = trained(
        "epochs=1", "image.flip=0", "image.padding=0", "tricks.random_erasing=0", "augment.random_patch=0.3",
        "augment.policy=randaugment", "augment.policy_probability=0.6", "augment.operations=1",
        "augment.magnitude=12", "augment.colour=0.4", "augment.brightness=0.3", "augment.contrast=0.2",
        "augment.saturation=0.6", "augment.hue=0.05", "augment.grey=0.1", "augment.blur=0.5",
        "augment.blur_sigma=1.5", "augment.draw=batch",
    )  # fmt: skip
    augmentation = seen.batches.recipe.augmentation
    assert augmentation.first == (
        RandomPatch(0.3, for_each=False), RandomPolicy("randaugment", 0.6, 1, 12, for_each=False),
    )  # fmt: skip
    assert augmentation.coloured == (
        RandomColour(0.4, 0.3, 0.2, 0.6, 0.05, 0.1, for_each=False), RandomBlur(0.5, 1.5, for_each=False),
    )  # fmt: skip
    assert seen.epochs[-1].values != plain.epochs[0].values
    assert seen.history["train/loss"].tolist() != plain.history["train/loss"].tolist()


def test_without_tricks_none_of_them_does(trained: Callable[..., Seen]) -> None:
    seen = trained("epochs=1", "tricks=none", "loss=softmax")
    assert rates(seen) == pytest.approx([3.5e-4])
    # Flips and crops are no tricks.
    assert seen.batches.recipe.augmentation == Augmentation(
        flip=0.5, padding=10, erasing=0.0, fill="published"
    )
    assert seen.epochs[0].objective == Objective(1.0, 0.0, 0.0, None)
    assert isinstance(seen.model.head.bottleneck, nn.Identity)
    assert map_of(seen.model) == (1, 1)


def test_scores_come_every_period_and_re_ranking_at_the_end_alone(
    trained: Callable[..., Seen],
) -> None:
    seen = trained("epochs=3", "eval.period=2", "eval.rerank=true", "eval.rerank_k1=4", "eval.rerank_k2=2")
    judged = seen.history.set_index("epoch").notna()
    assert judged["test/mAP"].to_dict() == {1: False, 2: True, 3: True}
    assert judged["test/rerank/mAP"].to_dict() == {1: False, 2: False, 3: True}


def test_a_collapse_is_reported_once_and_not_within_the_warm_up(
    trained: Callable[..., Seen], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(command, "collapse", lambda _: "all features are one point")
    seen = trained("epochs=3", "tricks.warmup=1")
    assert [tags for tags in seen.tags if "reid.collapsed" in tags] == [{"reid.collapsed": "since epoch 2"}]
    assert caplog.messages.count("epoch 2: all features are one point") == 1


def test_features_that_are_not_finite_end_a_training(
    trained: Callable[..., Seen], monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(*_: object) -> None:
        raise NonFiniteFeaturesError("4 of 4 feature rows hold NaN.")

    monkeypatch.setattr(command, "judge", judge)
    with pytest.raises(DivergedError, match=r"hold NaN\. A training resumed from here ends .*holds epoch 0"):
        trained("epochs=1", "eval.at_start=true")


def test_an_epoch_shorter_than_an_accumulation_is_refused(trained: Callable[..., Seen]) -> None:
    with pytest.raises(ConfigError, match="accumulate=4: an epoch has only 3 batches"):
        trained("epochs=1", "accumulate=4")


def test_what_is_typed_reaches_the_training_and_no_default_stands_in(trained: Callable[..., Seen]) -> None:
    seen = trained(
        "epochs=2", "seed=5", "precision=bf16", "channels_last=false", "clip_norm=3", "accumulate=2",
        "batch.identities=2", "batch.instances=6", "image.flip=0.3", "image.padding=3",
        "tricks.random_erasing=0.4", "tricks.erasing_fill=zero", "tricks.label_smoothing=0.2",
        "tricks.warmup=2", "schedule.milestones=[1]", "schedule.gamma=0.5", "schedule.warmup_factor=0.2",
        "schedule.warmup_method=constant", "optimizer=adamw", "optimizer.lr=1e-3",
        "optimizer.bias_lr_factor=2", "optimizer.weight_decay=0.02", "optimizer.bias_weight_decay=0.01",
        "loss.id_weight=0.7", "loss.metric_weight=0.9", "loss.alpha=1.8", "loss.margin=1.2",
        "loss.temperature=3",
    )  # fmt: skip
    assert rates(seen) == pytest.approx([2e-4, 1e-4])
    last = seen.epochs[-1]
    assert type(last.optimizers.network).__name__ == "AdamW"
    assert last.groups == [pytest.approx((1e-4, 0.02)), pytest.approx((2e-4, 0.01))]
    assert seen.batches.recipe.augmentation == Augmentation(flip=0.3, padding=3, erasing=0.4, fill="zero")
    objective = last.objective
    assert (objective.id_weight, objective.metric_weight, objective.label_smoothing) == (0.7, 0.9, 0.2)
    loss = objective.metric_loss
    assert isinstance(loss, RankedListLoss)
    assert (loss.alpha, loss.positive_radius, loss.temperature) == pytest.approx((1.8, 0.6, 3.0))
    assert (last.compute.precision, last.compute.channels_last) == ("bf16", False)
    assert (last.optimizers.clip_norm, last.optimizers.accumulate) == (3.0, 2)
    assert last.layouts == {torch.contiguous_format}

    assert seen.batches.recipe.seed == 5
    torch.manual_seed(5)
    untrained = build_model(settings_of(*SMALL), IDENTITIES)
    assert torch.equal(seen.start, untrained.state_dict()[FIRST])

    # Some identities have fewer than six crops: those stand in a batch more than once, and count once.
    assert len(seen.batches.labels) == CROPS
    drawn = [len(epoch.crops) for epoch in seen.epochs]
    assert seen.history["train/coverage"].tolist() == pytest.approx([count / CROPS for count in drawn])
    assert max(drawn) < sum(len(batch) for batch in seen.batches.plan(1))


def test_the_cameras_of_a_batch_are_balanced_where_that_is_wanted(trained: Callable[..., Seen]) -> None:
    batches = trained("epochs=1", "batch.cameras=balanced").batches
    by_chance = TrainingBatches(
        batches.store, batches.labels, replace(batches.recipe, balanced=False), batches.device
    )

    def cameras(plan: list[torch.Tensor]) -> list[int]:
        """How many cameras saw the four images of each person in a batch."""
        return [len(batches.store.camids[images].unique()) for images in torch.cat(plan).view(-1, 4)]

    balanced, plain = cameras(batches.plan(1)), cameras(by_chance.plan(1))
    assert len(balanced) == len(plain)
    assert sum(balanced) > sum(plain)
