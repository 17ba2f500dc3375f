"""What a run learns from its teacher: the step with one written out, what it sees, and what is refused."""

import copy
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from composing import settings_of
from least_meta import least_meta
from torch import nn
from torch.nn import functional

from reid.config.identity import config_hash, resume_hash
from reid.config.schema import TeacherConfig
from reid.data import Crop
from reid.data.batches import Batch
from reid.engine.card import model_card
from reid.engine.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from reid.engine.compute import Compute
from reid.engine.loop import EpochTotals, train_epoch
from reid.engine.objective import Objective
from reid.engine.optimizers import Optimizers, build_optimizer
from reid.engine.session import Session
from reid.engine.stop import StopSignals
from reid.engine.teacher import Distillation, Teacher, build_distillation, open_teacher
from reid.models import ReidModel
from reid.models.trunk import as_backbone
from reid.normalisation import IMAGENET, Normalisation

COMPUTE = Compute(torch.device("cpu"), channels_last=False)
ADAM = {
    "_target_": "torch.optim.Adam", "lr": 1e-3, "weight_decay": 5e-4, "bias_lr_factor": 1.0,
    "bias_weight_decay": 5e-4, "fused": False,
}  # fmt: skip


def net(channels: int, seed: int) -> ReidModel:
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Conv2d(3, channels, (8, 4), stride=(8, 4)), nn.ReLU())
    return ReidModel(as_backbone(layers, "tiny", channels), 4)


def teacher(channels: int = 6, **size: Any) -> Teacher:
    meta = {**least_meta(4), "preprocessing": {"height": 8, "width": 4, **size}}
    made = Teacher(Path("people/model.pt"), "ab" * 32, meta, net(channels, 1).eval().requires_grad_(False))
    made.place(COMPUTE, IMAGENET)
    return made


def batches(count: int = 3) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(0)
    for step in range(count):
        images = torch.randn(8, 3, 8, 4, generator=generator)
        yield Batch(images, torch.arange(4).repeat_interleave(2), torch.arange(8) + 8 * step)


def trained(distillation: Distillation | None, student: ReidModel) -> dict[str, float]:
    criterion = None if distillation is None else distillation.criterion
    optimizers = Optimizers(build_optimizer(student, ADAM, None, distillation=criterion))
    totals = EpochTotals()
    objective = Objective(1.0, 0.4, 0.1, None, None, distillation)
    train_epoch(student, objective, batches(), totals, optimizers, COMPUTE, StopSignals())
    return totals.means()


@pytest.mark.parametrize("kind", ["features", "relations"])
def test_a_step_is_that_of_plain_code_and_the_teacher_stays_as_it_is(kind: str) -> None:
    student, theirs = net(5, 0), teacher()
    before = copy.deepcopy(theirs.model.state_dict())
    plain = copy.deepcopy(student)
    distillation = build_distillation(theirs, TeacherConfig("x", kind, 2.0), 5, seed=3)
    assert distillation is not None
    criterion = copy.deepcopy(distillation.criterion)
    values = trained(distillation, student)

    learnt = [p for p in [*plain.parameters(), *criterion.parameters()] if p.requires_grad]
    optimizer = torch.optim.Adam(learnt, lr=1e-3, weight_decay=5e-4)
    losses = []
    for batch in batches():
        features, logits = plain(batch.images)
        taught = criterion(features, theirs.model(batch.images))
        losses.append(taught.item())
        loss = functional.cross_entropy(logits, batch.labels, label_smoothing=0.1) + 2 * taught
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert values["teacher_loss"] == pytest.approx(sum(losses) / 3)
    assert 0 < values["teacher_share"] < 1
    torch.testing.assert_close(student.state_dict(), plain.state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in theirs.model.state_dict().items())
    assert not theirs.model.training


def test_without_one_nothing_is_added_and_with_one_the_student_begins_the_same() -> None:
    theirs, plain, taught = teacher(), net(5, 0), net(5, 0)
    assert build_distillation(None, TeacherConfig(), 5, seed=0) is None
    state = torch.get_rng_state()
    distillation = build_distillation(theirs, TeacherConfig("x"), 5, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    values = trained(None, plain)
    assert not [name for name in values if name.startswith("teacher")]
    trained(distillation, taught)
    assert not torch.equal(plain.head.classifier.weight, taught.head.classifier.weight)


def test_it_sees_the_students_images_in_its_own_size_and_normalisation() -> None:
    pixels = torch.rand(2, 3, 8, 4, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    theirs = teacher(height=16, width=8)
    theirs.model.normalisation = Normalisation((0.5, 0.5, 0.5), (0.5, 0.25, 0.5))
    theirs.place(COMPUTE, IMAGENET)
    seen: list[torch.Tensor] = []
    theirs.model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    assert theirs((pixels - mean) / std, COMPUTE).shape == (2, 6)
    wanted = (pixels - 0.5) / torch.tensor([0.5, 0.25, 0.5])[:, None, None]
    wanted = functional.interpolate(wanted, (16, 8), mode="bilinear", antialias=True)
    torch.testing.assert_close(seen[0], wanted)


def test_its_projection_is_resumed_and_another_teacher_is_refused(tmp_path: Path) -> None:
    def session(digest: str | None = "ab" * 32) -> Session:
        student = net(5, 0)
        distillation = build_distillation(teacher(), TeacherConfig("x"), 5, seed=0)
        criterion = None if distillation is None or digest is None else distillation.criterion
        meta = least_meta(4)
        if digest is not None:
            meta["teacher"] = {**teacher().description(), "sha256": digest}
        optimizers = Optimizers(build_optimizer(student, ADAM, None, distillation=criterion))
        return Session(tmp_path, student, optimizers, COMPUTE, meta, None, criterion)

    first = session()
    assert first.distillation is not None
    nn.init.constant_(first.distillation.projection.weight, 0.25)  # type: ignore[arg-type, union-attr]
    first.start()
    again = session()
    again.resume()
    assert again.distillation is not None
    assert torch.equal(
        again.distillation.state_dict()["projection.weight"],
        first.distillation.state_dict()["projection.weight"],
    )
    with pytest.raises(CheckpointError, match=r"teacher with sha256 abab.* a file with cdcd"):
        session("cd" * 32).resume()
    with pytest.raises(CheckpointError, match=r"teacher with sha256 abab"):
        session(None).resume()


@pytest.mark.slow
def test_the_file_is_read_or_refused_in_words(tmp_path: Path, tiny_checkpoint: Path) -> None:
    settings = settings_of(f"teacher.checkpoint={tiny_checkpoint}")
    state = torch.get_rng_state()
    opened = open_teacher(settings)
    assert opened is not None
    assert torch.equal(torch.get_rng_state(), state)
    assert not opened.model.training
    assert not any(parameter.requires_grad for parameter in opened.model.parameters())
    assert opened.facts()["reid.teacher.trained_on"] == "synthetic"
    assert open_teacher(settings_of()) is None

    (tmp_path / "model.pt").write_bytes(b"no checkpoint")
    for name, words in (
        (tmp_path, "is not a checkpoint of this suite"),
        (tmp_path / "no.pt", "no such file"),
    ):
        with pytest.raises(CheckpointError, match=words):
            open_teacher(settings_of(f"teacher.checkpoint={name}"))
    other = load_checkpoint(tiny_checkpoint)
    save_checkpoint(
        tmp_path / "model.pt", Checkpoint({**other.model, "more": torch.zeros(1)}, other.meta, {})
    )
    with pytest.raises(CheckpointError, match="does not fit the model that it names"):
        open_teacher(settings_of(f"teacher.checkpoint={tmp_path}"))


def test_the_time_of_a_batch_that_a_gpu_ends_meanwhile_is_not_lost() -> None:
    class Event:
        """It is over when it is asked for the second time."""

        def __init__(self) -> None:
            self.asked = 0

        def query(self) -> bool:
            self.asked += 1
            return self.asked > 1

        def elapsed_time(self, _: "Event") -> float:
            return 2000.0

    theirs = teacher()
    events: list[Any] = [(Event(), Event()) for _ in range(3)]
    theirs._timed.extend(events)
    assert theirs.take_seconds() == 0
    assert theirs.take_seconds() == pytest.approx(6)
    assert theirs.take_seconds() == 0


def test_people_that_the_teacher_knows_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    theirs = teacher()
    theirs.meta = {**theirs.meta, "dataset": {"name": "market", "root": "/crops"}, "pids": [1, 2, 3]}
    query = [Crop(Path("a.jpg"), pid, 0) for pid in (3, 4)]
    with caplog.at_level(logging.WARNING):
        theirs.warn_of_judged({"name": "market", "root": "/other"}, query)
        theirs.warn_of_judged({"name": "market", "root": "/crops"}, query[1:])
        assert not caplog.messages
        theirs.warn_of_judged({"name": "market", "root": "/crops"}, query)
    assert "trained on 1 of the people" in caplog.text


@pytest.mark.slow
def test_a_teacher_is_another_experiment_wherever_it_lies() -> None:
    plain, here, there = (
        settings_of(*words)
        for words in ([], ["teacher.checkpoint=a/model.pt"], ["teacher.checkpoint=b/model.pt"])
    )
    assert here.teacher.checkpoint == str(Path("a/model.pt").absolute())
    assert config_hash(here) != config_hash(plain)
    assert resume_hash(here) == resume_hash(there) != resume_hash(plain)
    assert resume_hash(settings_of("teacher.checkpoint=a/model.pt", "teacher.kind=relations")) != resume_hash(
        here
    )


def test_the_card_names_the_teacher_and_the_terms_of_its_data() -> None:
    meta = {**least_meta(4), "teacher": {**teacher().description(), "trained_on": ["duke"]}}
    meta["config"] = {"teacher.kind": "relations", "teacher.weight": 25.0, "epochs": 3}
    card = model_card(meta)
    assert "- teacher: tiny, sha256 abababababababab; its relations, weight 25.0" in card
    assert "It learnt from a model trained on duke, whose terms hold too: DukeMTMC-reID" in card
