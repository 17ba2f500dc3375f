from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from reid.losses import TripletCenterLoss, TripletLoss


def batch(pids: list[int], dim: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(pids), dim, dtype=torch.float64, generator=generator), torch.tensor(pids)


def build(**setting: Any) -> TripletCenterLoss:
    torch.manual_seed(1)
    return TripletCenterLoss(num_classes=3, embedding_size=8, **setting).double()


def naive_center(features: Tensor, pids: Tensor, centers: Tensor) -> float:
    """Mean squared distance to the own centre, number by number."""
    rows, all_centers, total = features.tolist(), centers.tolist(), 0.0
    for row, pid in zip(rows, pids.tolist(), strict=True):
        total += sum((a - b) ** 2 for a, b in zip(row, all_centers[pid], strict=True))
    return total / len(rows)


@pytest.mark.parametrize("pids", [[0, 0, 1, 1, 2], [2, 2, 2], [0, 1, 2], [1]])
def test_agrees_with_the_double_loop(pids: list[int]) -> None:
    features, labels = batch(pids)
    loss = build(margin=0.5, center_weight=0.01)
    expected = TripletLoss(0.5)(features, labels).item() + 0.01 * naive_center(features, labels, loss.centers)
    assert loss(features, labels).item() == pytest.approx(expected, abs=1e-12)
    assert torch.equal(loss.measured(features, labels)[1], TripletLoss(0.5).measured(features, labels)[1])


def test_gradcheck() -> None:
    features, pids = batch([0, 0, 1, 1, 2])
    loss = build(margin=2.0, center_weight=0.1)
    assert torch.autograd.gradcheck(lambda x: loss(x, pids), (features.requires_grad_(),))


@pytest.mark.parametrize("weight", [5e-4, 1.0])
def test_the_centres_gradient_is_the_one_without_the_weight(weight: float) -> None:
    """As in the strong baseline, which goes backward and then divides what the centres got by the weight."""
    features, pids = batch([0, 0, 0, 2])
    loss = build(center_weight=weight)
    loss(features, pids).backward()
    assert loss.centers.grad is not None
    for pid, count in ((0, 3), (1, 0), (2, 1)):
        expected = 2 / 4 * (count * loss.centers[pid] - features[pids == pid].sum(dim=0))
        torch.testing.assert_close(loss.centers.grad[pid], expected)


def test_the_centres_go_to_the_means_of_their_pids() -> None:
    features, pids = batch([0, 0, 0, 1, 1, 1])
    loss = build()
    alone = loss.centers[2].clone()
    optimizer = loss.own_optimizer()
    for _ in range(200):
        optimizer.zero_grad()
        loss(features, pids).backward()
        optimizer.step()
    torch.testing.assert_close(loss.centers[0], features[:3].mean(dim=0))
    torch.testing.assert_close(loss.centers[1], features[3:].mean(dim=0))
    assert torch.equal(loss.centers[2], alone)


def test_features_that_lie_on_their_centre_and_on_each_other_give_finite_gradients() -> None:
    loss = build()
    pids = torch.tensor([0, 0, 0, 0])
    features = loss.centers[pids].detach().requires_grad_()
    value = loss(features, pids)
    value.backward()
    assert value.item() == 0
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_order_of_the_batch_does_not_matter() -> None:
    features, pids = batch([0, 0, 1, 1, 2, 2, 2])
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    loss = build()
    expected = pytest.approx(loss(features, pids).item(), abs=1e-12)
    assert loss(features[order], pids[order]).item() == expected


def test_without_weight_it_is_the_triplet_loss_and_without_rate_the_centres_stay() -> None:
    features, pids = batch([0, 0, 1, 1])
    loss = build(center_weight=0.0, center_lr=0.0)
    before = loss.centers.detach().clone()
    features.requires_grad_()
    value = loss(features, pids)
    assert value.item() == pytest.approx(TripletLoss()(features, pids).item(), abs=1e-12)
    value.backward()
    wanted = torch.autograd.grad(TripletLoss()(features, pids), features)[0]
    torch.testing.assert_close(features.grad, wanted)
    loss.own_optimizer().step()
    assert torch.equal(loss.centers, before)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"center_weight": -0.1}, "center_weight is -0.1; a finite number from 0 on"),
        ({"center_lr": -1.0}, "center_lr is -1.0"),
        ({"margin": -1.0}, "margin is -1.0"),
    ],
)
def test_refuses_settings(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**setting)


def test_refuses_shapes() -> None:
    with pytest.raises(ValueError, match=r"shape \(4, 8\) and pids \(3,\)"):
        build()(torch.zeros(4, 8), torch.zeros(3, dtype=torch.int64))
