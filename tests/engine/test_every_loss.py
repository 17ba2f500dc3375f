"""Every choice of conf/loss trains as any other: it overfits one batch; what it learns survives a resume."""

import copy
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from composing import settings_of
from least_meta import least_meta
from torch import nn

from reid.config.schema import TrainConfig, config_folder
from reid.data.batches import Batch
from reid.engine.checkpoint import CheckpointError
from reid.engine.compute import Compute
from reid.engine.describe import build_model
from reid.engine.finite import NonFiniteError
from reid.engine.loop import train_epoch
from reid.engine.objective import Objective, build_metric_loss
from reid.engine.optimizers import Optimizers, build_loss_optimizer, build_optimizer, set_learning_rate
from reid.engine.schedule import epoch_rates
from reid.engine.session import Session
from reid.engine.stop import StopSignals
from reid.losses import RankedListLoss, TripletLoss, clustered_ranked, pair_statistics
from reid.losses.kmeans import kmeans
from reid.models import ReidModel
from reid.models.trunk import as_backbone

COMPUTE = Compute(torch.device("cpu"), channels_last=False)
LOSSES = sorted(file.stem for file in (config_folder() / "loss").glob("*.yaml"))
#: Those with parameters of their own, and where these stand.
LEARNING = {"arcface": "W", "cosface": "W", "triplet_center": "centers"}
#: One loss that brings an optimizer, and one whose proxies the network's moves.
MIXED = "mix loss@loss.second=triplet_center +loss@loss.third=cosface"


def batches(count: int, seed: int = 0) -> Iterator[Batch]:
    """Noise: nothing but remembering each image tells the four identities apart."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        images = torch.randn(16, 3, 8, 4, generator=generator)
        yield Batch(images, torch.arange(4).repeat_interleave(4), torch.arange(16))


def settings_for(loss: str, *overrides: str) -> TrainConfig:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Values of Tp or Tn")
        return settings_of(
            *f"loss={loss}".split(), "optimizer.lr=1e-2", "optimizer.weight_decay=0", *overrides
        )


def open_session(settings: TrainConfig, folder: Path, seed: int = 0) -> tuple[Session, Objective]:
    """What reid.train builds, around a network small enough to overfit in a second."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 64, (8, 4)), nn.ReLU(), nn.Conv2d(64, 32, 1))
    backbone = as_backbone(net, "tiny", channels=32)
    model = ReidModel(backbone, 4, train_feature=settings.loss["neck_feature"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Values of Tp or Tn")
        metric_loss = build_metric_loss(settings.loss, num_classes=4, embedding_size=32)
    optimizer = build_optimizer(model, settings.optimizer, metric_loss)
    optimizers = Optimizers(optimizer, build_loss_optimizer(metric_loss))
    session = Session(folder, model, optimizers, COMPUTE, least_meta(4), metric_loss)
    objective = Objective(settings.loss["id_weight"], settings.loss["metric_weight"], 0.0, metric_loss)
    return session, objective


def run_epoch(session: Session, objective: Objective, steps: Iterator[Batch]) -> dict[str, float]:
    train_epoch(session.model, objective, steps, session.totals, session.optimizers, COMPUTE, StopSignals())
    means = session.totals.means()
    session.end_epoch(means)
    return means


def test_a_run_ends_at_no_epoch_that_it_has_left_behind(tmp_path: Path) -> None:
    session, objective = open_session(settings_for("softmax"), tmp_path)
    run_epoch(session, objective, batches(2))
    session.resume(1)
    with pytest.raises(CheckpointError, match=r"after epoch 1, beyond epochs=0,.* Set epochs=1 or more"):
        session.resume(0)
    session.totals.steps = 5  # killed within the second
    session.pause()
    session.resume(2)
    with pytest.raises(CheckpointError, match=r"epoch 1 and 5 steps of the next, .* Set epochs=2 or more"):
        session.resume(1)


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_overfits_one_batch(loss: str, tmp_path: Path) -> None:
    session, objective = open_session(settings_for(loss), tmp_path)
    (batch,) = batches(1)
    first = run_epoch(session, objective, iter([batch]))
    run_epoch(session, objective, (batch for _ in range(100)))
    last = run_epoch(session, objective, iter([batch]))
    assert last["loss"] < first["loss"]
    features, _ = session.model(batch.images)
    # Perfect retrieval: whatever the loss, each image is nearer to all of its own than to any other.
    assert TripletLoss(margin=0.0, normalise=True)(features, batch.labels).item() == 0
    if loss != "softmax":
        assert last["metric_loss"] < 0.5 * first["metric_loss"]
    assert ("accuracy" in last) == (loss not in ("arcface", "cosface"))
    assert last.get("accuracy", 1.0) == 1.0


@pytest.mark.parametrize("loss", ["clustered_ranked", *LEARNING, MIXED])
def test_resumed_after_two_epochs_it_is_the_run_of_four(loss: str, tmp_path: Path) -> None:
    settings = settings_for(loss)

    def train(session: Session, objective: Objective, epochs: range) -> None:
        for epoch in epochs:
            set_learning_rate(session.optimizers.network, 1e-3 / epoch)
            run_epoch(session, objective, batches(3, seed=epoch))

    whole, objective = open_session(settings, tmp_path)
    train(whole, objective, range(1, 5))
    killed, objective = open_session(settings, tmp_path)
    train(killed, objective, range(1, 3))
    resumed, objective = open_session(settings, tmp_path, seed=1)
    resumed.resume()
    train(resumed, objective, range(3, 5))

    for module, other in ((resumed.model, whole.model), (resumed.metric_loss, whole.metric_loss)):
        assert module is not None
        assert other is not None
        for (name, mine), theirs in zip(
            module.state_dict().items(), other.state_dict().values(), strict=True
        ):
            assert torch.equal(mine, theirs), name


def test_resumed_within_an_epoch_each_step_has_the_rate_of_the_whole_run(tmp_path: Path) -> None:
    settings = settings_for("softmax", "schedule=cosine", "tricks.warmup=1", "epochs=3")
    rates = epoch_rates(settings, 2, 5)

    def train(session: Session, objective: Objective, steps: Iterator[Batch]) -> list[float]:
        used: list[float] = []
        optimizer = session.optimizers.network
        optimizer.register_step_pre_hook(lambda *_: used.append(optimizer.param_groups[0]["lr"]))
        train_epoch(
            session.model, objective, steps, session.totals, session.optimizers, COMPUTE, StopSignals(), rates
        )
        return used

    session, objective = open_session(settings, tmp_path)
    assert train(session, objective, islice(batches(5), 2)) == rates[:2]
    session.pause()
    resumed, objective = open_session(settings, tmp_path, seed=1)
    resumed.resume()
    assert train(resumed, objective, islice(batches(5), 2, None)) == rates[2:]
    assert len(set(rates)) == 5


@pytest.mark.parametrize(
    ("loss", "name"),
    [*LEARNING.items(), (MIXED, "losses.second.centers"), (MIXED, "losses.third.W")],
)
def test_what_the_loss_learns_moves(loss: str, name: str, tmp_path: Path) -> None:
    session, objective = open_session(settings_for(loss), tmp_path)
    assert objective.metric_loss is not None
    before = objective.metric_loss.state_dict()[name].clone()
    run_epoch(session, objective, batches(2))
    assert (objective.metric_loss.state_dict()[name] != before).all()


def test_each_loss_of_a_mix_is_watched_and_weighs_what_its_keys_say(tmp_path: Path) -> None:
    weights = ["loss.metric_weight=0.5", "loss.first.metric_weight=0.2", "loss.second.metric_weight=3"]
    settings = settings_for("mix", *weights)
    session, objective = open_session(settings, tmp_path)
    (batch,) = batches(1)
    features, logits = session.model(batch.images)
    before, after = session.model.head.embed(session.model.backbone(batch.images))
    values = objective(features, logits, batch.labels)
    torch.testing.assert_close(values["first_loss"], RankedListLoss()(after, batch.labels))
    torch.testing.assert_close(values["second_loss"], TripletLoss()(before, batch.labels))
    metric_loss = 0.2 * values["first_loss"] + 3 * values["second_loss"]
    torch.testing.assert_close(values["metric_loss"], metric_loss)
    torch.testing.assert_close(values["loss"], values["id_loss"] + 0.5 * metric_loss)
    watched = objective.watch(features, logits, batch.labels)
    assert watched["hardest_positive"] == pair_statistics(after, batch.labels)["hardest_positive"]


def test_centres_keep_their_rate_and_proxies_follow_the_schedule(tmp_path: Path) -> None:
    session, _ = open_session(settings_for("triplet_center"), tmp_path)
    set_learning_rate(session.optimizers.network, 1e-5)
    assert session.optimizers.loss is not None
    assert [group["lr"] for group in session.optimizers.loss.param_groups] == [0.5]
    session, objective = open_session(settings_for("arcface"), tmp_path)
    set_learning_rate(session.optimizers.network, 1e-5)
    assert objective.metric_loss is not None
    (proxies,) = objective.metric_loss.parameters()
    (group,) = (g for g in session.optimizers.network.param_groups if any(p is proxies for p in g["params"]))
    assert group["lr"] == 1e-5
    assert session.optimizers.loss is None


def test_centres_have_no_part_in_the_norm_that_gradients_are_clipped_by(tmp_path: Path) -> None:
    session, objective = open_session(settings_for("triplet_center"), tmp_path)
    assert objective.metric_loss is not None
    with torch.no_grad():  # far away: their own gradient is larger than the network's by 1 / center_weight
        objective.metric_loss.centers.mul_(100)  # type: ignore[operator]
    before = copy.deepcopy(session.model)
    (batch,) = batches(1)
    features, logits = before(batch.images)
    objective(features, logits, batch.labels)["loss"].backward()
    own = [p.grad for p in before.parameters() if p.grad is not None]
    means = run_epoch(session, objective, iter([batch]))
    assert means["grad_norm"] == pytest.approx(torch.nn.utils.get_total_norm(own).item(), rel=1e-5)


def test_k_means_runs_once_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session, objective = open_session(settings_for("clustered_ranked"), tmp_path)
    calls = []

    def counted(distances: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        calls.append(len(distances))
        return kmeans(distances, draws)

    monkeypatch.setattr(clustered_ranked, "kmeans", counted)
    assert "active_fraction" in run_epoch(session, objective, batches(3))
    assert len(calls) == 3


def test_a_centre_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    session, objective = open_session(settings_for("triplet_center"), tmp_path)
    assert objective.metric_loss is not None
    with torch.no_grad():
        objective.metric_loss.centers[2] = torch.nan  # type: ignore[operator]
    with pytest.raises(NonFiniteError):
        run_epoch(session, objective, batches(1))


@pytest.mark.parametrize("trained", ["after", "before"])
@pytest.mark.parametrize("judged", ["after", "before"])
def test_the_features_trained_and_judged_on_are_chosen_apart(trained: str, judged: str) -> None:
    settings = settings_of(
        f"loss.neck_feature={trained}",
        f"eval.neck_feature={judged}",
        "backbone=resnet18",
        "backbone.weights=none",
    )
    torch.manual_seed(0)
    model = build_model(settings, num_classes=4)
    seen: dict[str, torch.Tensor] = {}
    model.head.bottleneck.register_forward_hook(
        lambda _, before, after: seen.update(before=before[0], after=after)
    )
    images = torch.randn(8, 3, 32, 16)
    features, logits = model(images)
    assert torch.equal(features, seen[trained])
    assert torch.equal(logits, model.head.classifier(seen["after"]))
    assert torch.equal(model.eval()(images), seen[judged])
    assert not torch.equal(seen["before"], seen["after"])


def test_a_device_that_is_full_is_no_fault_of_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for("triplet")
    session, _ = open_session(settings, tmp_path)
    session.pause()

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    again, _ = open_session(settings, tmp_path)
    monkeypatch.setattr(again.optimizers.network, "load_state_dict", full)
    with pytest.raises(torch.OutOfMemoryError):
        again.resume()
