"""A schedule of fractions, and a cosine, belong to one length of a run: at another, the rates were others."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from composing import settings_of
from torch import nn

from reid.engine.checkpoint import CheckpointError
from reid.engine.compute import Compute
from reid.engine.describe import checkpoint_meta
from reid.engine.optimizers import Optimizers, build_optimizer
from reid.engine.prepare import TrainingData
from reid.engine.session import Session
from reid.models import ReidModel
from reid.models.trunk import as_backbone


def session_of(folder: Path, epochs: int, *schedule: str) -> Session:
    settings = settings_of("loss=softmax", f"epochs={epochs}", "tricks.warmup=1", *schedule)
    net = nn.Sequential(nn.Conv2d(3, 8, (8, 4)), nn.ReLU())
    model = ReidModel(as_backbone(net, "tiny", channels=8), 4)
    data = cast(TrainingData, SimpleNamespace(pids=(1, 2, 3, 4), fingerprint="t"))
    meta = checkpoint_meta(settings, data, model)
    optimizers = Optimizers(build_optimizer(model, settings.optimizer))
    return Session(folder, model, optimizers, Compute(torch.device("cpu")), meta)


def test_fractions_are_resumed_at_their_own_length(tmp_path: Path) -> None:
    killed = session_of(tmp_path, 4, "schedule.milestones=[0.5]")
    killed.epoch = 3
    killed.pause()
    session_of(tmp_path, 4, "schedule.milestones=[0.5]").resume(4)
    with pytest.raises(CheckpointError, match=r"3 epochs .* of epochs=4; .* Set epochs=4, or leave"):
        session_of(tmp_path, 8, "schedule.milestones=[0.5]").resume(8)


def test_before_the_first_of_them_a_run_may_become_longer(tmp_path: Path) -> None:
    killed = session_of(tmp_path, 4, "schedule.milestones=[0.5]")
    killed.epoch = 2
    killed.pause()
    session_of(tmp_path, 8, "schedule.milestones=[0.5]").resume(8)


def test_epochs_mean_the_same_in_a_run_of_any_length(tmp_path: Path) -> None:
    killed = session_of(tmp_path, 4, "schedule.milestones=[2]")
    killed.epoch = 4
    killed.pause()
    session_of(tmp_path, 8, "schedule.milestones=[2]").resume(8)


@pytest.mark.slow
@pytest.mark.parametrize("per", ["epoch", "iteration"])
def test_a_cosine_may_change_its_length_in_the_warm_up_alone(per: str, tmp_path: Path) -> None:
    schedule = "schedule=cosine", f"schedule.per={per}"
    killed = session_of(tmp_path, 4, *schedule)
    killed.epoch = 1
    killed.pause()
    session_of(tmp_path, 8, *schedule).resume(8)
    killed.epoch = 3
    killed.pause()
    session_of(tmp_path, 4, *schedule).resume(4)
    with pytest.raises(CheckpointError, match=r"trained for 3 epochs with the learning rates of .*epochs=4"):
        session_of(tmp_path, 8, *schedule).resume(8)
