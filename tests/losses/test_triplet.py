from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from reid.losses import TripletLoss


def batch(pids: list[int], dim: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(pids), dim, dtype=torch.float64, generator=generator), torch.tensor(pids)


def naive(features: Tensor, pids: Tensor, margin: float | None) -> float:
    """The formula once more, anchor by anchor in Python floats."""
    rows, labels, terms = features.tolist(), pids.tolist(), []
    for i, anchor in enumerate(rows):
        distance = {j: math.dist(anchor, other) for j, other in enumerate(rows) if i != j}
        positives = [d for j, d in distance.items() if labels[j] == labels[i]]
        negatives = [d for j, d in distance.items() if labels[j] != labels[i]]
        if positives and negatives:
            gap = max(positives) - min(negatives)
            terms.append(math.log1p(math.exp(gap)) if margin is None else max(0.0, margin + gap))
    return sum(terms) / max(1, len(terms))


@pytest.mark.parametrize("margin", [0.3, 0.0, 5.0, None])
@pytest.mark.parametrize("pids", [[0, 0, 1, 1, 2, 2], [5, 5, 5, 5, 9, 7], [3, 1, 3, 1, 1, 2, 3]])
def test_agrees_with_the_double_loop(margin: float | None, pids: list[int]) -> None:
    features, labels = batch(pids)
    loss = TripletLoss(margin)
    assert loss(features, labels).item() == pytest.approx(naive(features, labels, margin), abs=1e-12)
    unit = features / features.norm(dim=1, keepdim=True)
    scaled = TripletLoss(margin, normalise=True)(features, labels)
    assert scaled.item() == pytest.approx(naive(unit, labels, margin), abs=1e-12)


@pytest.mark.parametrize("margin", [2.0, None])
def test_gradcheck(margin: float | None) -> None:
    features, pids = batch([0, 0, 1, 1, 2])
    loss = TripletLoss(margin)
    assert torch.autograd.gradcheck(lambda x: loss(x, pids), (features.requires_grad_(),))


@pytest.mark.parametrize("pids", [[0, 1, 2, 3], [0, 0, 0, 0], [0]], ids=["no positive", "no negative", "one"])
@pytest.mark.parametrize("margin", [0.3, None])
def test_a_batch_without_triplets_gives_nothing(pids: list[int], margin: float | None) -> None:
    features, labels = batch(pids)
    loss = TripletLoss(margin)(features.requires_grad_(), labels)
    loss.backward()
    assert loss.item() == 0
    assert features.grad is not None
    assert not features.grad.any()
    assert TripletLoss(margin).measured(features, labels)[1].item() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("margin", [0.3, None])
def test_duplicate_embeddings_give_finite_gradients(dtype: torch.dtype, margin: float | None) -> None:
    features = batch([0], dim=32)[0].to(dtype).repeat(4, 1).requires_grad_()
    loss = TripletLoss(margin)(features, torch.tensor([0, 0, 1, 1]))
    loss.backward()
    # Rounding leaves float32 distances of equal rows somewhat above the clamp.
    assert loss.item() == pytest.approx(0.3 if margin else math.log(2), abs=1e-2)
    assert features.grad is not None
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("margin", [0.3, None])
def test_order_of_the_batch_and_names_of_the_pids_do_not_matter(margin: float | None) -> None:
    features, pids = batch([0, 0, 1, 1, 2, 2, 2])
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    loss = TripletLoss(margin)
    assert loss(features[order], pids[order] + 7).item() == pytest.approx(
        loss(features, pids).item(), abs=1e-12
    )


def test_by_hand() -> None:
    # On a line: 0 and 1 of one pid, 3 and 3.5 of another. Gaps 1 - 3, 1 - 2, 0.5 - 2, 0.5 - 2.5.
    features, pids = torch.tensor([[0.0], [1.0], [3.0], [3.5]]), torch.tensor([0, 0, 1, 1])
    assert TripletLoss(margin=1.8)(features, pids).item() == pytest.approx((0.8 + 0.3) / 4, abs=1e-6)
    assert TripletLoss(margin=1.8).measured(features, pids)[1].item() == 0.5
    assert TripletLoss(margin=0.3)(features, pids).item() == 0
    assert TripletLoss(margin=None).measured(features, pids)[1].item() == 0


@pytest.mark.parametrize("setting", [{"margin": -0.1}, {"margin": math.nan}, {"margin": math.inf}])
def test_refuses_settings(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"margin is .*; a finite number from 0 on"):
        TripletLoss(**setting)


def test_refuses_shapes() -> None:
    with pytest.raises(ValueError, match=r"shape \(4, 8\) and pids \(3,\)"):
        TripletLoss()(torch.zeros(4, 8), torch.zeros(3, dtype=torch.int64))
