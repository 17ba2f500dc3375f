"""One epoch of training, step by step against plain code."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from reid.data.batches import Batch
from reid.engine.compute import Compute
from reid.engine.finite import NonFiniteError
from reid.engine.loop import EpochTotals, train_epoch
from reid.engine.objective import Objective
from reid.engine.optimizers import Optimizers, build_optimizer, set_learning_rate
from reid.engine.stop import StopSignals
from reid.losses import RankedListLoss
from reid.models import ReidModel, build_backbone

CPU = torch.device("cpu")
ADAM = {
    "_target_": "torch.optim.Adam",
    "lr": 1e-3,
    "weight_decay": 5e-4,
    "bias_lr_factor": 2.0,
    "bias_weight_decay": 0.0,
    # The fused form rounds otherwise, and Adam divides a tiny gradient by its own size: what is left of one
    # differs by the CPU.  Without it the loop and plain code are equal to the bit.
    "fused": False,
}


@pytest.fixture
def model() -> ReidModel:
    torch.manual_seed(0)
    return ReidModel(build_backbone("resnet18"), num_classes=4)


def batches(count: int, poison: int | None = None) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(1)
    for step in range(count):
        images = torch.randn(8, 3, 32, 16, generator=generator)
        if step == poison:
            images[3] = torch.nan
        yield Batch(images, torch.arange(4).repeat_interleave(2), torch.arange(8) + 8 * step)


OBJECTIVE = Objective(1.0, 0.4, 0.1, RankedListLoss())


def run(
    model: ReidModel, steps: Iterator[Batch], compute: Compute | None = None, **moves: Any
) -> EpochTotals:
    totals, optimizers = EpochTotals(), Optimizers(build_optimizer(model, ADAM), **moves)
    train_epoch(model, OBJECTIVE, steps, totals, optimizers, compute or Compute(CPU), StopSignals())
    return totals


CONTIGUOUS = Compute(CPU, channels_last=False)


def plain(model: ReidModel, steps: Iterator[Batch], group: int = 1, clip: float | None = None) -> list[float]:
    """The same training written out: published groups, cross entropy + 0.4 ranked, Adam."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(
        [
            {"params": [p for n, p in named if not n.endswith("bias")], "lr": 1e-3, "weight_decay": 5e-4},
            {"params": [p for n, p in named if n.endswith("bias")], "lr": 2e-3, "weight_decay": 0.0},
        ]
    )
    # Norms are summed in the order of the optimizer's groups, which the last digit depends on.
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    model.train()
    losses = []
    for number, batch in enumerate(steps, start=1):
        features, logits = model(batch.images)
        loss = functional.cross_entropy(logits, batch.labels, label_smoothing=0.1)
        loss = loss + 0.4 * RankedListLoss()(features, batch.labels)
        (loss / group).backward()
        losses.append(loss.item())
        if number % group == 0:
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(parameters, clip)
            optimizer.step()
            optimizer.zero_grad()
    return losses


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "group", "clip"), [({}, 1, None), ({"accumulate": 2}, 2, None), ({"clip_norm": 0.5}, 1, 0.5)]
)
def test_equals_the_training_written_out(
    model: ReidModel, options: dict[str, Any], group: int, clip: float | None
) -> None:
    other = copy.deepcopy(model)
    totals = run(model, batches(4), CONTIGUOUS, **options)
    losses = plain(other, batches(4), group, clip)
    assert totals.means()["loss"] == sum(losses) / 4
    for (name, mine), theirs in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name


@pytest.mark.slow
def test_tells_what_is_tracked_each_epoch(model: ReidModel) -> None:
    means = run(model, batches(2)).means()
    expected = {"loss", "id_loss", "metric_loss", "accuracy", "hardest_positive", "hardest_negative"}
    assert (
        expected | {"active_fraction", "grad_norm", "seconds", "images_per_second", "data_wait"}
        <= means.keys()
    )
    assert means["loss"] == pytest.approx(means["id_loss"] + 0.4 * means["metric_loss"], rel=1e-5)
    assert 0 <= means["data_wait"] <= 1


@pytest.mark.slow
def test_the_frozen_bias_of_the_neck_does_not_move(model: ReidModel) -> None:
    run(model, batches(2))
    assert isinstance(model.head.bottleneck, nn.BatchNorm1d)
    assert torch.equal(model.head.bottleneck.bias, torch.zeros(512))


@pytest.mark.slow
def test_a_number_that_is_none_stops_before_the_optimizer_moves(model: ReidModel) -> None:
    clean = copy.deepcopy(model)
    run(clean, batches(1))
    with pytest.raises(NonFiniteError) as stopped:
        run(model, batches(3, poison=1))
    assert stopped.value.step == 1
    assert stopped.value.indices.tolist() == list(range(8, 16))
    for mine, theirs in zip(model.parameters(), clean.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.slow
def test_overfits_one_batch(model: ReidModel) -> None:
    batch = next(batches(1))
    first = run(copy.deepcopy(model), iter([batch])).means()
    run(model, (batch for _ in range(20)))
    last = run(model, iter([batch])).means()
    assert last["accuracy"] == 1.0
    assert last["loss"] < 0.5 * first["loss"]


@pytest.mark.slow
def test_bf16_autocast_trains_with_float32_losses(model: ReidModel) -> None:
    """Compared at the first step: what it leads to is another training, and more so on another CPU."""
    means = run(copy.deepcopy(model), batches(1), Compute(CPU, "bf16")).means()
    reference = run(model, batches(1)).means()
    for loss in ("loss", "id_loss", "metric_loss"):
        assert means[loss] == pytest.approx(reference[loss], rel=0.01)  # bfloat16 keeps two or three digits
        assert means[loss] != reference[loss]


def test_biases_follow_with_their_own_factor(model: ReidModel) -> None:
    optimizer = build_optimizer(model, ADAM)
    set_learning_rate(optimizer, 1e-4)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-4, 2e-4]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [5e-4, 0.0]


def test_totals_survive_a_checkpoint() -> None:
    totals = EpochTotals()
    totals.add({"loss": torch.tensor(1.5)}, 8)
    back = EpochTotals.from_state(totals.state(), CPU)
    back.add({"loss": torch.tensor(2.5)}, 8)
    assert back.means()["loss"] == 2.0
    assert back.images == 16


@pytest.mark.slow
@pytest.mark.parametrize("group", [1, 2])
def test_the_recorded_norm_is_what_the_optimizer_moves_by(model: ReidModel, group: int) -> None:
    other = copy.deepcopy(model)
    means = run(model, batches(4), CONTIGUOUS, accumulate=group).means()
    optimizer, norms = build_optimizer(other, ADAM), []
    other.train()
    for number, batch in enumerate(batches(4), start=1):
        features, logits = other(batch.images)
        (OBJECTIVE(features, logits, batch.labels)["loss"] / group).backward()
        if number % group == 0:
            gradients = [p.grad.double().flatten() for p in other.parameters() if p.grad is not None]
            norms.append(float(torch.linalg.vector_norm(torch.cat(gradients))))
            optimizer.step()
            optimizer.zero_grad()
    assert means["grad_norm"] == pytest.approx(sum(norms) / len(norms), rel=1e-5)


def test_totals_of_an_older_checkpoint_go_on() -> None:
    """It does not say how often the optimizer moved: it was written where that was at every step."""
    sums = {name: torch.tensor(value, dtype=torch.float64) for name, value in (("loss", 6), ("grad_norm", 3))}
    state = {"sums": sums, "steps": 3, "images": 12, "seconds": 1.0, "waited": 0.0}
    totals = EpochTotals.from_state(state, CPU)
    totals.add({"loss": torch.tensor(2.0)}, 4)
    totals.add_move(torch.tensor(5.0))
    means = totals.means()
    assert (means["loss"], means["grad_norm"]) == (2.0, 2.0)
