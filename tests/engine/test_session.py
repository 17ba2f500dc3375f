"""The moments at which a run is saved: what a kill after each of them leaves to go on from."""

from pathlib import Path

import pytest
import torch
from least_meta import least_meta
from torch import nn

from reid.engine import session as module
from reid.engine.checkpoint import load_checkpoint
from reid.engine.compute import Compute
from reid.engine.distributed import Processes
from reid.engine.finite import DivergedError
from reid.engine.optimizers import Optimizers
from reid.engine.session import Session
from reid.models import ReidModel
from reid.models.trunk import as_backbone

COMPUTE = Compute(torch.device("cpu"))


def session_in(folder: Path, accumulate: int = 1, compute: Compute = COMPUTE) -> Session:
    net = nn.Sequential(nn.Conv2d(3, 8, (8, 4)), nn.ReLU())
    model = ReidModel(as_backbone(net, "tiny", channels=8), 4)
    optimizers = Optimizers(torch.optim.SGD(model.parameters(), 0.1), accumulate=accumulate)
    return Session(folder, model, optimizers, compute, least_meta(4))


def resumed(folder: Path) -> Session:
    session = session_in(folder)
    session.resume()
    return session


def test_each_moment_is_one_to_go_on_from(tmp_path: Path) -> None:
    session = session_in(tmp_path)
    session.start()
    assert (resumed(tmp_path).epoch, resumed(tmp_path).history) == (0, [])

    session.attach(tmp_path, "id", "key", resumed=False)
    assert load_checkpoint(tmp_path / "last.pt").meta["run_id"] == "id"

    session.totals.add({"loss": torch.tensor(2.0)}, 8)
    session.pause()
    assert (resumed(tmp_path).epoch, resumed(tmp_path).totals.steps) == (0, 1)

    session.end_epoch({"train/loss": 2.0})
    after = resumed(tmp_path)
    assert (after.epoch, after.totals.steps, after.judged) == (1, 0, False)
    assert after.history == [{"epoch": 1, "train/loss": 2.0}]

    session.add_score({"test/mAP": 0.5})
    after = resumed(tmp_path)
    assert after.judged
    assert after.history == [{"epoch": 1, "train/loss": 2.0, "test/mAP": 0.5}]
    assert (tmp_path / "history.csv").read_text() == "epoch,train/loss,test/mAP\n1,2.0,0.5\n"

    session.end_epoch({"train/loss": 1.0}, last=True)
    assert not resumed(tmp_path).judged
    assert load_checkpoint(session.finish()).training == {}


def test_a_resumed_run_is_not_saved_before_it_goes_on(tmp_path: Path) -> None:
    session_in(tmp_path).start()
    before = (tmp_path / "last.pt").read_bytes()
    resumed(tmp_path).attach(tmp_path, "id", "key", resumed=True)
    assert (tmp_path / "last.pt").read_bytes() == before


def test_half_an_accumulation_is_not_kept(tmp_path: Path) -> None:
    session = session_in(tmp_path, accumulate=2)
    session.start()
    session.totals.add({"loss": torch.tensor(2.0)}, 8)
    session.pause()
    assert resumed(tmp_path).totals.steps == 0


def test_what_has_diverged_is_not_saved(tmp_path: Path) -> None:
    session = session_in(tmp_path)
    session.start()
    with torch.no_grad():
        next(session.model.parameters()).fill_(torch.nan)
    with pytest.raises(DivergedError):
        session.end_epoch({"train/loss": 1.0})
    assert resumed(tmp_path).epoch == 0


def test_a_full_disk_ends_a_run_at_its_last_epoch_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    session = session_in(tmp_path)
    monkeypatch.setattr(module, "save_checkpoint", full)
    session.end_epoch({"train/loss": 1.0})
    assert "the checkpoint of epoch 1 could not be written" in caplog.text
    with pytest.raises(OSError, match="No space left"):
        session.end_epoch({"train/loss": 1.0}, last=True)


def test_of_several_processes_the_first_one_writes_and_all_draws_are_saved(tmp_path: Path) -> None:
    class Two(Processes):
        def gather(self, value: object) -> list[object]:  # type: ignore[override]
            return [value, value]

        def largest(self, value: int) -> int:
            return value

    for number in (1, 0):
        session = session_in(tmp_path, compute=Compute(torch.device("cpu"), processes=Two(number, 2)))
        session.start()
        session.add_score(None if number else {"test/mAP": 0.5})
        assert session.judged
        assert (tmp_path / "last.pt").exists() == (number == 0)
    assert len(load_checkpoint(tmp_path / "last.pt").training["rng_of_others"]) == 1
