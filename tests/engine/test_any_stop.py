"""A training that is stopped anywhere, once or several times, ends as one that was not: equal bit for bit."""

import os
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn import examples
from hypothesis import given
from hypothesis import strategies as st
from least_meta import least_meta
from torch import nn

from reid.data.batches import Batch
from reid.engine import schedule
from reid.engine.average import WeightAverage
from reid.engine.compute import Compute
from reid.engine.loop import train_epoch
from reid.engine.objective import Objective
from reid.engine.optimizers import Optimizers, build_optimizer
from reid.engine.session import Session
from reid.engine.stop import Stopped, StopSignals
from reid.losses import RankedListLoss
from reid.models import ReidModel
from reid.models.trunk import as_backbone

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
GROUPS = {"lr": 0.05, "weight_decay": 5e-4, "bias_lr_factor": 2.0, "bias_weight_decay": 0.0}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"_target_": "torch.optim.SGD", **GROUPS, "momentum": 0.9, "nesterov": True},
    "adam": {"_target_": "torch.optim.Adam", **GROUPS},
    "adamw": {"_target_": "torch.optim.AdamW", **GROUPS, "amsgrad": True},
}


@dataclass(frozen=True)
class Recipe:
    """What is trained, and how."""

    epochs: int
    steps: int
    optimizer: str
    accumulate: int
    ema: float | None
    clip: float | None
    schedule: str

    def rates(self, epoch: int) -> list[float]:
        """Of the steps of an epoch, by one of the suite's functions."""
        places = [epoch - 1 + step / self.steps for step in range(self.steps)]
        if self.schedule == "cosine":
            return [schedule.cosine(p, self.epochs, 0.05, 0.0, 1, 0.1, "linear") for p in places]
        return [schedule.step(p, 0.05, [1, 2.5], 0.1, 1, 0.1, "linear") for p in places]


def session_in(folder: Path, recipe: Recipe, seed: int) -> Session:
    """A session before its first step, whose weights are drawn by the seed."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 6, (4, 2), bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.3))
    model = ReidModel(as_backbone(net, "tiny", channels=6), 3)
    optimizers = Optimizers(
        build_optimizer(model, OPTIMIZERS[recipe.optimizer]),
        clip_norm=recipe.clip,
        accumulate=recipe.accumulate,
    )
    if recipe.ema is not None:
        optimizers.average = WeightAverage(model, recipe.ema)
    return Session(folder, model, optimizers, Compute(CPU), least_meta(3))


def batches(recipe: Recipe, epoch: int, first: int, stop_at: int | None) -> Iterator[Batch]:
    """Those of an epoch from one on; with batch `stop_at` a signal comes."""
    generator = torch.Generator().manual_seed(epoch)
    for step in range(recipe.steps):
        images = torch.randn(6, 3, 8, 4, generator=generator)
        if step < first:
            continue
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        yield Batch(images, torch.arange(3).repeat_interleave(2), torch.arange(6))


def go_on(session: Session, recipe: Recipe, stop: int | None) -> None:
    """Train to the end, or until the step `stop` of the whole run; as `reid.commands.train` does."""
    objective = Objective(1.0, 0.4, 0.1, RankedListLoss())
    with StopSignals() as signals:
        while session.epoch < recipe.epochs:
            number = session.epoch + 1
            at = stop - (number - 1) * recipe.steps if stop is not None else None
            left = batches(recipe, number, session.totals.steps, at)
            try:
                train_epoch(
                    session.model,
                    objective,
                    left,
                    session.totals,
                    session.optimizers,
                    session.compute,
                    signals,
                    recipe.rates(number),
                )
            except Stopped as stopped:
                if stopped.clean:
                    session.pause()
                raise
            means = session.totals.means()
            session.end_epoch({"train/loss": means["loss"], "train/grad_norm": means.get("grad_norm", 0.0)})


def everything(session: Session) -> dict[str, Any]:
    state = session.optimizers.network.state_dict()
    found: dict[str, Any] = {f"model.{name}": value for name, value in session.model.state_dict().items()}
    found |= {f"result.{name}": value for name, value in session.result.state_dict().items()}
    for key, values in state["state"].items():
        found |= {f"optimizer.{key}.{name}": value for name, value in values.items()}
    found["rng"] = torch.get_rng_state()
    found["history"] = session.history
    found["rates"] = [group["lr"] for group in state["param_groups"]]
    return found


RECIPES = st.builds(
    Recipe,
    epochs=st.integers(1, 4),
    steps=st.integers(1, 5),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    accumulate=st.sampled_from([1, 1, 2, 3]),
    ema=st.sampled_from([None, 0.9]),
    clip=st.sampled_from([None, 0.5]),
    schedule=st.sampled_from(["step", "cosine"]),
)


@examples(25)
@given(recipe=RECIPES, data=st.data())
def test_stopped_anywhere_and_resumed_it_is_the_same_run(recipe: Recipe, data: st.DataObject) -> None:
    every = recipe.epochs * recipe.steps
    stops = data.draw(st.lists(st.integers(0, every - 1), min_size=1, max_size=3, unique=True).map(sorted))
    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as name:
        whole, cut = Path(name, "whole"), Path(name, "cut")
        whole.mkdir()
        cut.mkdir()
        undisturbed = session_in(whole, recipe, seed=1)
        undisturbed.start()
        go_on(undisturbed, recipe, None)
        expected = everything(undisturbed)

        session = session_in(cut, recipe, seed=1)
        session.start()
        for stop in stops:
            try:
                go_on(session, recipe, stop)
            except Stopped:
                pass
            else:
                raise AssertionError(f"step {stop} was never reached")
            session = session_in(cut, recipe, seed=data.draw(st.integers(2, 9)))
            session.resume(recipe.epochs)
            assert session.epoch * recipe.steps + session.totals.steps <= stop + 1
        go_on(session, recipe, None)
        found = everything(session)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        same = torch.equal(found[key], value) if isinstance(value, torch.Tensor) else found[key] == value
        assert same, f"{key} differs"
