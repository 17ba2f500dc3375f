"""Training in fp16: the loop against torch's own scaler in plain code, steps that overflow, and resuming."""

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from least_meta import least_meta
from torch import nn
from torch.amp import GradScaler

from reid.data.batches import Batch
from reid.engine.compute import Compute
from reid.engine.finite import PATIENCE, FiniteGuard, NonFiniteError
from reid.engine.loop import EpochTotals, train_epoch
from reid.engine.objective import Objective
from reid.engine.optimizers import (
    SMALLEST_SCALE,
    Optimizers,
    build_loss_optimizer,
    build_optimizer,
    gradient_scaler,
)
from reid.engine.session import Session
from reid.engine.stop import StopSignals
from reid.losses import TripletCenterLoss, TripletLoss
from reid.models import ReidModel
from reid.models.trunk import Backbone

CPU = torch.device("cpu")
HALF = Compute(CPU, "fp16", channels_last=False)
ADAM = {
    "_target_": "torch.optim.Adam", "lr": 1e-3, "weight_decay": 5e-4, "bias_lr_factor": 1.0,
    "bias_weight_decay": 0.0, "fused": False,
}  # fmt: skip
#: Far above what any gradient bears: the first steps overflow until it is halved often enough.
TOO_LARGE = 2.0**26


class Small(nn.Sequential):
    """A backbone of one convolution, which autocast computes in float16."""

    channels = 8

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())


@pytest.fixture
def model() -> ReidModel:
    torch.manual_seed(0)
    backbone: Backbone = Small()  # type: ignore[assignment]
    return ReidModel(backbone, num_classes=4)


def batches(count: int, first: int = 0, poison: range = range(0)) -> Iterator[Batch]:
    for step in range(first, first + count):
        images = torch.randn(8, 3, 16, 8, generator=torch.Generator().manual_seed(step))
        if step in poison:
            images[3] = torch.inf
        yield Batch(images, torch.arange(4).repeat_interleave(2), torch.arange(8) + 8 * step)


def run(
    model: ReidModel, optimizer: torch.optim.Optimizer, scaler: GradScaler | None, steps: Iterator[Batch],
    totals: EpochTotals | None = None, **moves: Any,
) -> EpochTotals:  # fmt: skip
    totals = totals or EpochTotals()
    objective = Objective(1.0, 0.4, 0.1, TripletLoss())
    optimizers = Optimizers(optimizer, scaler=scaler, **moves)
    train_epoch(model, objective, steps, totals, optimizers, HALF, StopSignals())
    return totals


def plain(
    model: ReidModel, scaler: GradScaler, steps: list[Batch], group: int, clip: float | None
) -> tuple[list[float], int]:
    """The same as torch's documentation writes it; the norms of the steps made, and how many were skipped."""
    optimizer = build_optimizer(model, ADAM)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    objective = Objective(1.0, 0.4, 0.1, TripletLoss())
    model.train()
    norms, skipped = [], 0
    for number, batch in enumerate(steps, start=1):
        with torch.autocast("cpu", dtype=torch.float16):
            features, logits = model(batch.images)
        scaler.scale(objective(features, logits, batch.labels)["loss"] / group).backward()
        if number % group == 0:
            scaler.unscale_(optimizer)
            limit = math.inf if clip is None else clip
            norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit))
            before = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            skipped += scaler.get_scale() < before
            norms += [norm] if math.isfinite(norm) else []
    return norms, skipped


@pytest.mark.parametrize(("group", "clip"), [(1, None), (2, 0.5)])
def test_equals_plain_code_with_torchs_scaler(model: ReidModel, group: int, clip: float | None) -> None:
    other = copy.deepcopy(model)
    totals = run(
        model, build_optimizer(model, ADAM), GradScaler("cpu", init_scale=TOO_LARGE), batches(40),
        accumulate=group, clip_norm=clip,
    )  # fmt: skip
    norms, skipped = plain(other, GradScaler("cpu", init_scale=TOO_LARGE), list(batches(40)), group, clip)
    assert 0 < skipped < 40 // group
    means = totals.means()
    assert means["skipped_steps"] == skipped
    assert means["grad_norm"] == pytest.approx(sum(norms) / len(norms), rel=1e-6)
    assert math.isfinite(means["loss"])
    for (name, mine), theirs in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name


def test_two_and_two_epochs_are_four(model: ReidModel, tmp_path: Path) -> None:
    """The scale, and how long it has held, are in the checkpoint: it is doubled every third step here."""

    def session(name: str, model: ReidModel) -> Session:
        (tmp_path / name).mkdir(exist_ok=True)
        scaler = GradScaler("cpu", init_scale=TOO_LARGE, growth_interval=3)
        optimizers = Optimizers(build_optimizer(model, ADAM), scaler=scaler)
        return Session(tmp_path / name, model, optimizers, HALF, least_meta(4))

    def train(session: Session, epochs: range) -> None:
        for epoch in epochs:
            optimizers = session.optimizers
            steps = batches(11, 11 * epoch)
            run(session.model, optimizers.network, optimizers.scaler, steps, session.totals)
            session.end_epoch({})

    whole, first = session("whole", copy.deepcopy(model)), session("halves", copy.deepcopy(model))
    train(whole, range(4))
    train(first, range(2))
    second = session("halves", copy.deepcopy(model))
    second.resume()
    assert second.optimizers.scaler is not None
    assert second.optimizers.scaler.get_scale() < TOO_LARGE
    train(second, range(2, 4))
    for (name, one), other in zip(
        whole.model.state_dict().items(), second.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    assert whole.optimizers.scaler is not None
    assert second.optimizers.scaler.state_dict() == whole.optimizers.scaler.state_dict()


def test_one_batch_that_overflows_is_skipped_and_no_mean_holds_it(model: ReidModel) -> None:
    model.freeze_bn = True  # its statistics would hold the infinity
    steps = batches(6, poison=range(2, 3))
    means = run(model, build_optimizer(model, ADAM), GradScaler("cpu", init_scale=2.0**8), steps).means()
    assert means["skipped_steps"] == 1
    assert math.isfinite(means["loss"])
    assert math.isfinite(means["grad_norm"])
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def test_a_loss_that_stays_infinite_has_diverged(model: ReidModel) -> None:
    model.freeze_bn = True
    with pytest.raises(NonFiniteError, match="the loss was not finite for 20 steps in a row") as stopped:
        run(
            model, build_optimizer(model, ADAM), GradScaler("cpu"),
            batches(PATIENCE + 9, poison=range(5, PATIENCE + 9)),
        )  # fmt: skip
    assert stopped.value.step == 4 + PATIENCE


def test_a_scale_that_has_collapsed_has_diverged() -> None:
    guard, indices, loss = FiniteGuard(), torch.arange(3), torch.tensor(1.0)
    guard.watch_scaled(0, indices, loss, torch.tensor(SMALLEST_SCALE))
    guard.watch_scaled(1, indices, loss, None)
    with pytest.raises(NonFiniteError, match="the gradient overflowed at every scale at step 2"):
        guard.watch_scaled(2, indices, loss, torch.tensor(SMALLEST_SCALE / 2))


def test_what_a_loss_learns_is_unscaled_too(model: ReidModel) -> None:
    """The centres move by plain SGD: with the scale left in, they would be thousands of times farther."""
    loss = TripletCenterLoss(num_classes=4, embedding_size=8)
    before = loss.centers.detach().clone()
    own = build_loss_optimizer(loss)
    objective = Objective(1.0, 0.4, 0.1, loss)
    train_epoch(
        model,
        objective,
        batches(1),
        EpochTotals(),
        Optimizers(build_optimizer(model, ADAM, loss), own, GradScaler("cpu")),
        Compute(CPU, "fp16"),
        StopSignals(),
    )
    assert 0 < float((loss.centers.detach() - before).abs().max()) < 1


def test_other_precisions_have_no_scaler() -> None:
    assert [gradient_scaler(CPU, name) for name in ("float32", "tf32", "bf16")] == [None] * 3
