from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from reid.losses import TripletLoss, WeightedTripletLoss


def batch(pids: list[int], dim: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(pids), dim, dtype=torch.float64, generator=generator), torch.tensor(pids)


def naive(features: Tensor, pids: Tensor) -> tuple[float, float]:
    """The formula once more, anchor by anchor in Python floats, and the share of gaps above 0."""
    rows, labels, gaps = features.tolist(), pids.tolist(), []
    for i, anchor in enumerate(rows):
        distance = {j: math.dist(anchor, other) for j, other in enumerate(rows) if i != j}
        positives = [d for j, d in distance.items() if labels[j] == labels[i]]
        negatives = [d for j, d in distance.items() if labels[j] != labels[i]]
        if positives and negatives:
            far = sum(math.exp(d) * d for d in positives) / sum(math.exp(d) for d in positives)
            near = sum(math.exp(-d) * d for d in negatives) / sum(math.exp(-d) for d in negatives)
            gaps.append(far - near)
    count = max(1, len(gaps))
    return sum(math.log1p(math.exp(gap)) for gap in gaps) / count, sum(gap > 0 for gap in gaps) / count


@pytest.mark.parametrize("pids", [[0, 0, 1, 1, 2, 2], [5, 5, 5, 5, 9, 7], [3, 1, 3, 1, 1, 2, 3]])
def test_agrees_with_the_double_loop(pids: list[int]) -> None:
    features, labels = batch(pids)
    loss, violating = naive(features, labels)
    measured = WeightedTripletLoss().measured(features, labels)
    assert measured[0].item() == pytest.approx(loss, abs=1e-12)
    assert measured[1].item() == pytest.approx(violating)
    unit = features / features.norm(dim=1, keepdim=True)
    scaled = WeightedTripletLoss(normalise=True)(features, labels)
    assert scaled.item() == pytest.approx(naive(unit, labels)[0], abs=1e-12)


def test_gradcheck() -> None:
    features, pids = batch([0, 0, 1, 1, 2])
    loss = WeightedTripletLoss()
    assert torch.autograd.gradcheck(lambda x: loss(x, pids), (features.requires_grad_(),))


@pytest.mark.parametrize("pids", [[0, 1, 2, 3], [0, 0, 0, 0], [0]], ids=["no positive", "no negative", "one"])
def test_a_batch_without_triplets_gives_nothing(pids: list[int]) -> None:
    features, labels = batch(pids)
    loss, violating = WeightedTripletLoss().measured(features.requires_grad_(), labels)
    loss.backward()
    assert (loss.item(), violating.item()) == (0, 0)
    assert features.grad is not None
    assert not features.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_duplicate_embeddings_give_finite_gradients(dtype: torch.dtype) -> None:
    features = batch([0], dim=32)[0].to(dtype).repeat(4, 1).requires_grad_()
    loss = WeightedTripletLoss()(features, torch.tensor([0, 0, 1, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2), abs=1e-2)
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_order_of_the_batch_and_names_of_the_pids_do_not_matter() -> None:
    features, pids = batch([0, 0, 1, 1, 2, 2, 2])
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    loss = WeightedTripletLoss()
    assert loss(features[order], pids[order] + 7).item() == pytest.approx(
        loss(features, pids).item(), abs=1e-12
    )


def test_far_features_weigh_the_hardest_pairs_alone() -> None:
    features, pids = batch([0, 0, 0, 1, 1, 1])
    hardest = TripletLoss(margin=None)(1000 * features, pids)
    assert WeightedTripletLoss()(1000 * features, pids).item() == pytest.approx(hardest.item(), rel=1e-6)
