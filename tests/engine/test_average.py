"""The moving average of the weights: its formula, and what of it a checkpoint and a resume hold."""

from pathlib import Path
from typing import Any

import pytest
import torch
from composing import settings_of
from least_meta import least_meta
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from reid.config.checks import ConfigError
from reid.config.identity import config_hash, resume_hash
from reid.data.batches import Batch
from reid.engine.average import WeightAverage
from reid.engine.card import model_card
from reid.engine.checkpoint import CheckpointError, load_checkpoint
from reid.engine.compute import Compute
from reid.engine.describe import build_model
from reid.engine.loop import train_epoch
from reid.engine.objective import Objective
from reid.engine.optimizers import Optimizers
from reid.engine.session import Session
from reid.engine.stop import StopSignals
from reid.losses import RankedListLoss
from reid.models import ReidModel
from reid.models.trunk import as_backbone

COMPUTE = Compute(torch.device("cpu"))


def small() -> ReidModel:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, (8, 4)), nn.BatchNorm2d(8), nn.ReLU())
    return ReidModel(as_backbone(net, "tiny", channels=8), 4)


def batch(step: int) -> Batch:
    images = torch.randn(8, 3, 16, 8, generator=torch.Generator().manual_seed(step))
    return Batch(images, torch.arange(4).repeat_interleave(2), torch.arange(8))


def session_in(folder: Path, decay: float | None = 0.9, **moves: Any) -> Session:
    model = COMPUTE.place(small())
    optimizers = Optimizers(torch.optim.Adam(model.parameters(), 0.01), **moves)
    if decay is not None:
        optimizers.average = WeightAverage(model, decay)
    return Session(folder, model, optimizers, COMPUTE, least_meta(4))


def train(session: Session, steps: range) -> None:
    objective = Objective(1.0, 0.4, 0.1, RankedListLoss())
    train_epoch(
        session.model,
        objective,
        map(batch, steps),
        session.totals,
        session.optimizers,
        COMPUTE,
        StopSignals(),
    )


def move(model: nn.Module, generator: torch.Generator) -> None:
    """Other numbers in all that a checkpoint holds."""
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        else:
            tensor.add_(1)


def test_without_a_warm_up_it_is_torchs_to_the_bit() -> None:
    model, generator = small(), torch.Generator().manual_seed(0)
    ours = WeightAverage(model, 0.75, warmup=False)
    torchs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.75), use_buffers=True)
    for _ in range(5):
        move(model, generator)
        ours.update()
        torchs.update_parameters(model)
    wanted = torchs.module.state_dict()
    for name, tensor in ours.model.state_dict().items():
        if tensor.is_floating_point():
            assert torch.equal(tensor, wanted[name]), name
            assert not torch.equal(tensor, model.state_dict()[name])
        else:
            assert torch.equal(tensor, model.state_dict()[name]), name


def test_the_first_moves_have_a_smaller_decay() -> None:
    model, generator = small(), torch.Generator().manual_seed(0)
    average, expected = WeightAverage(model, 0.4), None
    weight = model.state_dict()["classifier.weight"]
    for number in range(8):
        move(model, generator)
        average.update()
        share = min(0.4, (1 + number) / (10 + number))
        new = weight.double()
        expected = new if expected is None else share * expected + (1 - share) * new
    torch.testing.assert_close(average.model.state_dict()["classifier.weight"].double(), expected)


def test_tensors_that_two_layers_share_are_averaged_once() -> None:
    model = small()
    model.backbone.twin = model.backbone[0]  # type: ignore[index]
    average = WeightAverage(model, 0.5, warmup=False)
    weight = model.state_dict()["backbone.twin.weight"]
    for value in (1.0, 3.0):
        weight.fill_(value)
        average.update()
    assert average.model.state_dict()["backbone.twin.weight"].unique().tolist() == [2.0]


def test_the_average_is_taken_after_each_move_of_the_optimizer(tmp_path: Path) -> None:
    session = session_in(tmp_path, accumulate=2)
    train(session, range(5))
    average = session.optimizers.average
    assert average is not None
    assert average.moves == session.totals.moves == 2


@pytest.mark.slow
def test_stopped_within_an_epoch_it_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """The training itself is the one without an average, and what is saved as the model is the average."""
    (tmp_path / "cut").mkdir()
    whole, plain = session_in(tmp_path), session_in(tmp_path, decay=None)
    for session in (whole, plain):
        train(session, range(6))
    wanted = plain.model.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in whole.model.state_dict().items())
    averaged = load_checkpoint(whole.finish()).model
    assert not torch.equal(averaged["classifier.weight"], wanted["classifier.weight"])
    assert not torch.equal(averaged["backbone.1.running_var"], wanted["backbone.1.running_var"])

    cut = session_in(tmp_path / "cut")
    train(cut, range(4))
    cut.pause()
    saved = load_checkpoint(tmp_path / "cut" / "last.pt")
    assert saved.training["averaged_moves"] == 4
    resumed = session_in(tmp_path / "cut")
    resumed.resume()
    assert all(torch.equal(saved.model[name], t) for name, t in resumed.result.state_dict().items())
    train(resumed, range(4, 6))
    assert all(torch.equal(averaged[name], t) for name, t in resumed.result.state_dict().items())
    assert all(torch.equal(wanted[name], t) for name, t in resumed.model.state_dict().items())
    # Of the memory format that the model computes in, also after the resume.
    convolution = resumed.result.state_dict()["backbone.0.weight"]
    assert convolution.is_contiguous(memory_format=torch.channels_last)


def test_a_checkpoint_without_an_average_is_not_taken_for_one(tmp_path: Path) -> None:
    session_in(tmp_path, decay=None).start()
    with pytest.raises(CheckpointError, match="averaged_moves"):
        session_in(tmp_path).resume()


def test_another_decay_is_another_experiment_and_judging_the_raw_weights_is_no_other_training() -> None:
    plain, averaged, judged_too, slower = (
        settings_of(*words)
        for words in ([], ["ema.decay=0.99"], ["ema.decay=0.99", "ema.raw=true"], ["ema.decay=0.999"])
    )
    assert resume_hash(averaged) == resume_hash(judged_too)
    hashes = [config_hash(settings) for settings in (plain, averaged, judged_too, slower)]
    assert len(set(hashes)) == 4
    assert len({resume_hash(settings) for settings in (plain, averaged, slower)}) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ema.decay=1"], r"ema\.decay=1.* above 0 and below 1"),
        (["ema.decay=0"], r"ema\.decay=0.* above 0 and below 1"),
        (["ema.raw=true"], r"ema\.raw=true has no moving average"),
        (["ema.warmup=false"], r"ema\.warmup=false has no moving average"),
    ],
)
def test_refuses(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings_of(*words)


def test_the_card_says_that_it_is_an_average() -> None:
    assert "moving average" not in model_card({**least_meta(4), "config": {"epochs": 1}})
    card = model_card({**least_meta(4), "config": {"epochs": 1, "ema.decay": 0.999}})
    assert "- weights: a moving average over the training, with a decay of 0.999" in card


@pytest.mark.slow
def test_every_network_can_be_copied(own_home: Path) -> None:
    """Timm's have hooks, and a class that is made when they are built."""
    settings = settings_of(
        "backbone=timm", "backbone.name=vit_tiny_patch16_224", "backbone.weights=none", "image.height=32",
        "image.width=16",
    )  # fmt: skip
    model = build_model(settings, 4)
    average = WeightAverage(model, 0.9)
    average.update()
    images = torch.zeros(1, 3, 32, 16)
    assert torch.equal(average.model.eval()(images), model.eval()(images))
