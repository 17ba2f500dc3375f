from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from reid.losses import RankedListLoss

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "ranked_loss.npz")


def batch(pids: list[int], dim: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(pids), dim, dtype=torch.float64, generator=generator), torch.tensor(pids)


def naive(features: Tensor, pids: Tensor, alpha: float, margin: float, temperature: float) -> float:
    """The formula once more, pair by pair in Python floats."""
    unit = [[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in features.tolist()]
    labels, total = pids.tolist(), 0.0
    for i, anchor in enumerate(unit):
        pull = push = weights = 0.0
        positives = 0
        for j, other in enumerate(unit):
            if i == j:
                continue
            d = math.sqrt(max(sum((a - b) ** 2 for a, b in zip(anchor, other, strict=True)), 1e-12))
            if labels[i] == labels[j]:
                positives += 1
                pull += max(0.0, d - (alpha - margin))
            elif d < alpha:
                weight = math.exp(temperature * (alpha - d))
                weights += weight
                push += weight * (alpha - d)
        total += pull / (positives + 1e-5) + push / (weights + 1e-5)
    return total / len(unit)


@pytest.mark.parametrize("case", ["c0", "c1", "c2", "c3"])
@pytest.mark.parametrize(("dtype", "absolute", "relative"), [("float64", 1e-8, 0), ("float32", 0, 1e-5)])
def test_agrees_with_the_published_code(case: str, dtype: str, absolute: float, relative: float) -> None:
    margin, alpha, temperature = GOLDEN[f"{case}_param"].tolist()
    features = torch.from_numpy(GOLDEN[f"{case}_x"].astype(dtype)).requires_grad_()
    loss = RankedListLoss(alpha, margin, temperature)(features, torch.from_numpy(GOLDEN[f"{case}_y"]))
    loss.backward()
    assert features.grad is not None
    assert loss.item() == pytest.approx(float(GOLDEN[f"{case}_loss"]), abs=absolute, rel=relative)
    golden = torch.from_numpy(GOLDEN[f"{case}_grad"])
    bound = absolute + relative * golden.abs().max().item()
    assert (features.grad.double() - golden).abs().max() <= bound


@pytest.mark.parametrize(
    "setting", [(2.0, 1.3, 1.0), (1.2, 0.4, 10.0), (1.5, 0.5, 0.1), (1.4, 0.6, 100.0), (1.4, 0.6, 0.0)]
)
@pytest.mark.parametrize("pids", [[0, 0, 1, 1, 2, 2], [5, 5, 5, 5, 9, 7], [3, 1, 3, 1, 1, 2, 3]])
def test_agrees_with_the_double_loop(setting: tuple[float, float, float], pids: list[int]) -> None:
    features, labels = batch(pids)
    loss = RankedListLoss(*setting)(features, labels)
    assert loss.item() == pytest.approx(naive(features, labels, *setting), abs=1e-12)


@pytest.mark.parametrize("temperature", [3.0, 0.0])
def test_gradcheck(temperature: float) -> None:
    features, pids = batch([0, 0, 1, 1, 2])
    loss = RankedListLoss(alpha=1.6, margin=0.9, temperature=temperature)
    assert torch.autograd.gradcheck(lambda x: loss(x, pids), (features.requires_grad_(),))


@pytest.mark.parametrize("pids", [[0, 1, 2, 3], [0, 0, 0, 0], [0]], ids=["no positive", "no negative", "one"])
def test_empty_sets_count_nothing(pids: list[int]) -> None:
    features, labels = batch(pids)
    loss = RankedListLoss()(features.requires_grad_(), labels)
    loss.backward()
    assert loss.item() == pytest.approx(naive(features.detach(), labels, 2.0, 1.3, 1.0), abs=1e-12)
    assert features.grad is not None
    assert features.grad.isfinite().all()
    assert (loss.item() == 0) == (pids == [0])


def test_a_negative_at_exactly_alpha_is_left_alone() -> None:
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    assert RankedListLoss(alpha=2.0)(opposite, torch.tensor([0, 1])).item() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pids", [[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 2, 3]])
def test_duplicate_embeddings_give_finite_gradients(dtype: torch.dtype, pids: list[int]) -> None:
    features = batch([0], dim=32)[0].to(dtype).repeat(4, 1).requires_grad_()
    loss = RankedListLoss()(features, torch.tensor(pids))
    loss.backward()
    assert loss.isfinite()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_a_high_temperature_does_not_overflow_float32() -> None:
    features, pids = batch([0, 0, 1, 1, 2, 2])
    loss = RankedListLoss(temperature=500.0)
    single = features.float().requires_grad_()
    value = loss(single, pids)
    value.backward()
    assert value.item() == pytest.approx(loss(features, pids).item(), rel=1e-4)
    assert single.grad is not None
    assert single.grad.isfinite().all()


def test_order_and_scale_of_the_batch_do_not_matter() -> None:
    features, pids = batch([0, 0, 1, 1, 2, 2, 2])
    permutation = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    loss = RankedListLoss()
    expected = pytest.approx(loss(features, pids).item(), abs=1e-12)
    assert loss(features[permutation], pids[permutation]).item() == expected
    assert loss(3 * features, pids + 7).item() == expected


def test_autocast_computes_in_float32() -> None:
    features, pids = batch([0, 0, 1, 1, 2, 2], dim=64)
    loss, single = RankedListLoss(), features.float()
    expected = loss(single, pids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(single, pids)
        half = loss(single.bfloat16(), pids)
    assert torch.equal(inside, expected)
    assert half.dtype == torch.float32
    assert torch.equal(half, loss(single.bfloat16().float(), pids))


def test_overfits_one_batch() -> None:
    features, pids = batch([0, 0, 0, 1, 1, 1, 2, 2, 2], dim=16)
    features.requires_grad_()
    loss = RankedListLoss(alpha=1.2, margin=0.4)
    optimizer = torch.optim.SGD([features], lr=5.0)
    for _ in range(200):
        optimizer.zero_grad()
        value = loss(features, pids)
        value.backward()
        optimizer.step()
    assert value.item() < 1e-3
    assert loss.measured(features.detach(), pids)[1].item() == 0


def test_active_fraction_by_hand() -> None:
    # Unit vectors at 0, 90 and 180 degrees: distances sqrt(2), 2 and sqrt(2).
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    loss = RankedListLoss(alpha=1.6, positive_radius=1.0)
    assert loss.measured(features, torch.tensor([0, 0, 1]))[1].item() == pytest.approx(4 / 6)
    assert loss.measured(features, torch.tensor([0, 1, 0]))[1].item() == pytest.approx(1)
    assert loss.measured(features, torch.tensor([0, 1, 2]))[1].item() == pytest.approx(4 / 6)
    assert loss.measured(features[:1], torch.tensor([0]))[1].item() == 0


def test_positive_radius_replaces_margin() -> None:
    features, pids = batch([0, 0, 1, 1])
    by_radius = RankedListLoss(alpha=1.2, positive_radius=0.8)
    assert by_radius.margin == pytest.approx(0.4)
    assert by_radius(features, pids).item() == pytest.approx(
        RankedListLoss(alpha=1.2, margin=0.4)(features, pids).item(), abs=1e-12
    )


@pytest.mark.parametrize("alpha", [1.0, 1.2, 1.3])
def test_warns_when_every_positive_is_always_pulled(alpha: float) -> None:
    with pytest.warns(UserWarning, match="every positive is always pulled"):
        RankedListLoss(alpha=alpha)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"alpha": 0.0}, "alpha is 0.0; a finite number greater than 0"),
        ({"alpha": math.nan}, "alpha is nan"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"margin": math.inf}, "margin is inf"),
        ({"positive_radius": math.nan}, "positive_radius nan; finite"),
    ],
)
def test_refuses_settings(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RankedListLoss(**setting)


def test_refuses_shapes() -> None:
    with pytest.raises(ValueError, match=r"shape \(4, 8\) and pids \(3,\)"):
        RankedListLoss()(torch.zeros(4, 8), torch.zeros(3, dtype=torch.int64))
