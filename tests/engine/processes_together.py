"""What processes do together, checked by each of them; torchrun starts it, see test_distributed.py."""

import copy
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from least_meta import least_meta
from torch import Tensor, nn

from reid.config.schema import TeacherConfig
from reid.data.augment import Part
from reid.data.batches import Batch
from reid.engine.average import WeightAverage
from reid.engine.compute import Compute
from reid.engine.distributed import ALONE, LostProcessError, Processes, join, share_neck
from reid.engine.finite import NonFiniteError
from reid.engine.loop import EpochTotals, train_epoch
from reid.engine.objective import Objective
from reid.engine.optimizers import Optimizers, build_loss_optimizer, build_optimizer
from reid.engine.stop import Stopped, StopSignals
from reid.engine.teacher import Teacher, build_distillation
from reid.losses import ClusteredRankedListLoss, Mix, RankedListLoss, TripletCenterLoss, TripletLoss
from reid.models import Head, ReidModel, as_backbone
from reid.models.heads import BNNeck, GeM, MaxAvg, Parts

CPU = torch.device("cpu")
SGD = {
    "_target_": "torch.optim.SGD", "lr": 0.1, "weight_decay": 5e-4, "bias_lr_factor": 2.0,
    "bias_weight_decay": 0.0,
}  # fmt: skip


class Proxies(nn.Module):
    """A loss whose parameters the main optimizer moves, as that of the library's losses."""

    def __init__(self) -> None:
        super().__init__()
        self.proxies = nn.Parameter(torch.randn(4, 5))

    def forward(self, features: Tensor, pids: Tensor) -> Tensor:
        return nn.functional.cross_entropy(features @ self.proxies.T, pids)


def mixed() -> Mix:
    losses = {"first": RankedListLoss(), "second": TripletLoss()}
    return Mix(losses, {"first": 0.4, "second": 1.0}, {"first": "after", "second": "before"})


class Small(nn.Module):
    """Batch norm that keeps its statistics, between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(24, 5), nn.BatchNorm1d(5), nn.Linear(5, 4, bias=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.norm.eval()
        features = self.norm(self.first(images.flatten(1)).tanh())
        return features, self.last(features)


def batches(
    processes: Processes,
    count: int,
    poisoned: int | None = None,
    killed: int | None = None,
    lost: int | None = None,
) -> Iterator[Batch]:
    """Batches of 4 x 2 images, of which each process gets its rows."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(4).repeat_interleave(2)
    for step in range(count):
        images = torch.randn(8, 3, 4, 2, generator=generator)
        if step == poisoned:
            images[7] = torch.nan
        if step == killed and processes.number == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if step == lost and processes.number == 1:
            os._exit(0)
        yield Batch(images[Part.of(8, *processes.share).rows], labels, torch.arange(8) + 8 * step)


def trained(
    processes: Processes, metric_loss: nn.Module, steps: int = 4, stop: StopSignals | None = None,
    poisoned: int | None = None, killed: int | None = None, lost: int | None = None,
    totals: EpochTotals | None = None, **moves: Any,
) -> tuple[dict[str, Tensor], dict[str, float]]:  # fmt: skip
    """All that was learnt in one epoch, and the means that are tracked of it."""
    torch.manual_seed(0)
    model, metric_loss = Small(), copy.deepcopy(metric_loss)
    optimizer = build_optimizer(model, SGD, metric_loss)
    totals = totals or EpochTotals()
    compute = Compute(CPU, processes=processes)
    train_epoch(
        compute.network(model),
        Objective(1.0, 0.4, 0.1, metric_loss),
        batches(processes, steps, poisoned, killed, lost),
        totals,
        Optimizers(optimizer, build_loss_optimizer(metric_loss), **moves),
        compute,
        stop or StopSignals(),
    )
    clock = ("seconds", "images_per_second", "data_wait")
    means = {name: mean for name, mean in totals.means().items() if name not in clock}
    return {**model.state_dict(), **{f"loss.{k}": v for k, v in metric_loss.state_dict().items()}}, means


def check_training(processes: Processes) -> None:
    """Losses, gradients and all that is learnt are those of one process that has the whole batch."""
    torch.manual_seed(5)
    losses = [RankedListLoss(), ClusteredRankedListLoss(clusters=2), TripletCenterLoss(4, 5), Proxies()]
    cases: list[tuple[nn.Module, dict[str, Any]]] = [(loss, {}) for loss in losses]
    cases.append((losses[-1], {"accumulate": 2, "clip_norm": 0.05}))
    for loss, options in cases:
        (learnt, means), (wanted, expected) = (
            trained(where, loss, **options) for where in (processes, ALONE)
        )
        torch.testing.assert_close(learnt, wanted, rtol=1e-5, atol=1e-6)
        assert means == pytest.approx(expected, rel=1e-5, nan_ok=True), loss
        if not isinstance(loss, RankedListLoss | ClusteredRankedListLoss):
            name = next(name for name in learnt if name.startswith("loss."))
            assert not torch.equal(learnt[name], loss.state_dict()[name.removeprefix("loss.")])
        for others in processes.gather(learnt):
            assert all(torch.equal(learnt[name], others[name]) for name in learnt)


def check_teacher(processes: Processes) -> None:
    """What is learnt of a teacher, and the projection to it, are those of one process that has the batch."""

    def learnt(where: Processes, kind: str) -> dict[str, Tensor]:
        torch.manual_seed(0)
        student, backbone = Small(), as_backbone(nn.Sequential(nn.Conv2d(3, 7, 2), nn.Tanh()), "small", 7)
        meta = {**least_meta(4), "preprocessing": {"height": 4, "width": 2}}
        teacher = Teacher(Path("model.pt"), "ab", meta, ReidModel(backbone, 4).eval().requires_grad_(False))
        distillation = build_distillation(teacher, TeacherConfig("model.pt", kind), 5, seed=0)
        assert distillation is not None
        optimizer = build_optimizer(student, SGD, None, distillation=distillation.criterion)
        compute = Compute(CPU, processes=where)
        train_epoch(
            compute.network(student), Objective(1.0, 0.0, 0.1, None, None, distillation), batches(where, 4),
            EpochTotals(), Optimizers(optimizer), compute, StopSignals(),
        )  # fmt: skip
        return {**student.state_dict(), **distillation.criterion.state_dict()}

    for kind in ("features", "relations"):
        torch.testing.assert_close(learnt(processes, kind), learnt(ALONE, kind), rtol=1e-5, atol=1e-6)


def check_neck(processes: Processes) -> None:
    """Necks whose statistics are of all processes train as one process with the whole batch does."""

    def learnt(where: Processes, head: Head) -> dict[str, Tensor]:
        torch.manual_seed(0)
        backbone = as_backbone(nn.Sequential(nn.Conv2d(3, 5, 1), nn.Tanh()), "small", 5)
        model = ReidModel(backbone, 4, head=copy.deepcopy(head))
        share_neck(model.head, where)
        optimizer = build_optimizer(model, SGD)
        loss = mixed() if head.train_feature == "both" else RankedListLoss()
        compute, objective = Compute(CPU, processes=where), Objective(1.0, 0.4, 0.1, loss, model.head.margin)
        train_epoch(
            compute.network(model), objective, batches(where, 4), EpochTotals(), Optimizers(optimizer),
            compute, StopSignals(),
        )  # fmt: skip
        return dict(model.state_dict())

    torch.manual_seed(0)
    for head in (
        BNNeck(5, 4, classifier="arcface", scale=8.0),
        GeM(5, 4, train_feature="both", embedding=3),
        MaxAvg(5, 4, separate=True, classifier="cosface", scale=8.0),
        Parts(5, 4, stripes=2, reduction=3, classifier="circle", scale=4.0),
    ):
        together, alone = learnt(processes, head), learnt(ALONE, head)
        # Each of several layers rounds what its own sum leaves.
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
        variances = [tensor for name, tensor in alone.items() if name.endswith("running_var")]
        assert not any(torch.allclose(variance, torch.ones(1), atol=0.1) for variance in variances)


def check_average(processes: Processes) -> None:
    """The average of the weights is that of one process, the same in each of them."""

    def averaged(where: Processes) -> dict[str, Tensor]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Tanh())
        model = ReidModel(as_backbone(net, "small", 5), 4, neck="none")
        optimizers = Optimizers(build_optimizer(model, SGD), average=WeightAverage(model, 0.9))
        compute, objective = Compute(CPU, processes=where), Objective(1.0, 0.4, 0.1, RankedListLoss())
        train_epoch(
            compute.network(model), objective, batches(where, 4), EpochTotals(), optimizers, compute,
            StopSignals(),
        )  # fmt: skip
        assert optimizers.average is not None
        return dict(optimizers.average.model.state_dict())

    together, alone = averaged(processes), averaged(ALONE)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    for others in processes.gather(together):
        assert all(torch.equal(together[name], others[name]) for name in together)


def check_frozen(processes: Processes) -> None:
    """A backbone that is frozen at first learns afterwards as it does in one process."""

    def learnt(where: Processes) -> list[dict[str, Tensor]]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Tanh())
        model = ReidModel(as_backbone(net, "small", 5), 4, neck="none")
        optimizers = Optimizers(build_optimizer(model, SGD))
        compute, objective = Compute(CPU, processes=where), Objective(1.0, 0.4, 0.1, RankedListLoss())
        states = []
        for frozen in (True, False):
            model.freeze_backbone(frozen)
            train_epoch(
                compute.network(model), objective, batches(where, 3), EpochTotals(), optimizers, compute,
                StopSignals(),
            )  # fmt: skip
            states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return states

    together, alone = learnt(processes), learnt(ALONE)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    first, second = together
    assert not torch.equal(first["classifier.weight"], second["classifier.weight"])
    assert not torch.equal(first["backbone.0.weight"], second["backbone.0.weight"])


def check_talk(processes: Processes, folder: Path) -> None:
    assert processes.broadcast(f"number {processes.number}") == "number 0"
    assert processes.gather(processes.number) == [0, 1]
    assert processes.largest(5 * processes.number) == 5
    with processes.first_ahead():
        if processes.first:
            (folder / "built").touch()
        assert (folder / "built").exists()
    tensor = torch.full((2,), float(processes.number))
    processes.broadcast_tensors([tensor])
    assert tensor.tolist() == [0, 0]


def check_collect(processes: Processes) -> None:
    for count, batch in ((11, 2), (4, 2), (3, 5)):  # the second process has less, as much, nothing
        dealt = torch.arange(count).split(batch)[processes.number :: processes.count]
        mine = torch.cat([torch.arange(0), *dealt]).float().unsqueeze(1)
        assert processes.collect(mine, count, batch).flatten().tolist() == list(range(count))


def check_ends(processes: Processes) -> None:
    """A signal or a NaN that one process alone meets ends all of them after the same step."""
    totals = EpochTotals()
    with StopSignals(once=True) as stop, pytest.raises(Stopped) as stopped:
        trained(processes, RankedListLoss(), 50, stop, killed=3, totals=totals)
    assert (stopped.value.exit_code, stopped.value.clean) == (143, True)
    assert processes.gather(totals.steps) == [4, 4]

    with pytest.raises(NonFiniteError) as found:
        trained(processes, RankedListLoss(), poisoned=2)
    assert (
        processes.gather((found.value.step, found.value.indices.tolist())) == [(2, list(range(16, 24)))] * 2
    )


def check_loss_of_a_process(processes: Processes) -> None:
    with StopSignals(once=True) as stop, pytest.raises(LostProcessError, match="resume=auto"):
        trained(processes, RankedListLoss(), stop=stop, lost=2)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    with pytest.raises(LostProcessError):
        processes.wait()


if __name__ == "__main__":
    ours = join()
    assert ours.count == 2
    check_talk(ours, Path(sys.argv[1]))
    check_collect(ours)
    check_training(ours)
    check_teacher(ours)
    check_neck(ours)
    check_average(ours)
    check_frozen(ours)
    check_ends(ours)
    check_loss_of_a_process(ours)
    print("all is well", flush=True)
    # What gloo still has open to the lost process would abort this one at times, once Python lets go of it.
    os._exit(0)
