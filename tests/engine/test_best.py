"""The model of the best epoch: which one it is, what a kill leaves of it, and what ends up in `model.pt`."""

from pathlib import Path

import pytest
import torch
from least_meta import least_meta
from torch import nn

from reid.engine.best import BestModel
from reid.engine.card import model_card
from reid.engine.checkpoint import CheckpointError, load_checkpoint
from reid.engine.compute import Compute
from reid.engine.describe import how_far
from reid.engine.optimizers import Optimizers
from reid.engine.session import Session
from reid.models import ReidModel
from reid.models.trunk import as_backbone

COMPUTE = Compute(torch.device("cpu"))
SCORE = "val/mAP"


def session_in(folder: Path, channels: int = 8, best: bool = True) -> Session:
    net = nn.Sequential(nn.Conv2d(3, channels, (8, 4)), nn.BatchNorm2d(channels), nn.ReLU())
    model = ReidModel(as_backbone(net, "tiny", channels=channels), 4)
    optimizers = Optimizers(torch.optim.SGD(model.parameters(), 0.1))
    kept = BestModel(SCORE) if best else None
    return Session(folder, model, optimizers, COMPUTE, least_meta(4), best=kept)


def epoch(session: Session, score: float) -> dict[str, torch.Tensor]:
    """Another epoch with other weights, judged; the weights."""
    with torch.no_grad():
        for tensor in session.model.state_dict().values():
            tensor.copy_(torch.full_like(tensor, session.epoch + 1))
    session.end_epoch({"train/loss": 1.0})
    session.add_score({SCORE: score})
    return {name: tensor.clone() for name, tensor in session.model.state_dict().items()}


def test_the_first_of_the_best_epochs_is_kept(tmp_path: Path) -> None:
    session = session_in(tmp_path)
    session.add_score({SCORE: 0.9})  # before the training
    epochs = [epoch(session, score) for score in (0.3, 0.5, 0.5, 0.4)]
    assert session.kept_epoch == 2
    model = load_checkpoint(session.finish())
    assert all(torch.equal(model.model[name], epochs[1][name]) for name in model.model)
    assert model.meta["progress"] == {"epoch": 2}
    assert model.meta["selected"] == {"epoch": 2, "of_epochs": 4, "score": SCORE, "value": 0.5}
    assert how_far(model.meta) == "the model of epoch 2 of 4, the best by val/mAP"


def test_every_moment_holds_the_best_so_far(tmp_path: Path) -> None:
    session = session_in(tmp_path)
    session.start()
    best = epoch(session, 0.5)
    epoch(session, 0.2)
    session.end_epoch({"train/loss": 1.0})  # killed before it was judged
    again = session_in(tmp_path)
    again.resume()
    assert again.best is not None
    assert (again.epoch, again.kept_epoch, again.best.value) == (3, 1, 0.5)
    epoch(again, 0.4)
    model = load_checkpoint(again.finish()).model
    assert all(torch.equal(model[name], best[name]) for name in model)
    # What goes on is the last epoch, not the best one.
    assert not torch.equal(
        load_checkpoint(tmp_path / "last.pt").model["classifier.weight"], model["classifier.weight"]
    )


def test_an_epoch_that_is_judged_once_more_is_not_an_older_one(tmp_path: Path) -> None:
    session = session_in(tmp_path)
    epoch(session, 0.5)
    session.add_score({SCORE: 0.49})  # a GPU may round otherwise
    assert session.best is not None
    assert (session.best.epoch, session.best.value) == (1, 0.49)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    session = session_in(tmp_path)
    epoch(session, 0.5)
    assert session.best is not None
    session.best.model = session_in(tmp_path, channels=16).model.state_dict()
    session.end_epoch({"train/loss": 1.0})
    with pytest.raises(CheckpointError, match="best epoch are those of another network"):
        session_in(tmp_path).resume()


def test_without_it_nothing_more_is_saved(tmp_path: Path) -> None:
    session = session_in(tmp_path, best=False)
    epoch(session, 0.5)
    epoch(session, 0.2)
    last = load_checkpoint(tmp_path / "last.pt")
    assert "best_model" not in last.training
    assert "best" not in last.meta["progress"]
    model = load_checkpoint(session.finish())
    assert model.meta["progress"] == {"epoch": 2}
    assert "selected" not in model.meta


def test_the_card_says_which_epoch_it_is_and_that_it_was_chosen(tmp_path: Path) -> None:
    session = session_in(tmp_path)
    epoch(session, 0.5)
    epoch(session, 0.2)
    row = {
        "dataset": "market", "split": "val", "protocol": "cross_camera", "data_fingerprint": "f", "own": True,
        "reranked": False, "queries": 9, "people": 4, "gallery": 9, "values": {"mAP": 0.5}, "intervals": {},
    }  # fmt: skip
    config = {"epochs": 2, "batch.identities": 4, "batch.instances": 4}
    card = model_card({**session.meta_of_result(), "scores": [row], "config": config})
    assert "The model is that of epoch 1 of 2, the one with the best val/mAP" in card
    assert "chosen by them" in card
    assert "2 epochs, of which the model of epoch 1 was kept" in card
    assert "nothing was chosen" not in card
