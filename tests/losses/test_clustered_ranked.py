from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from reid.losses import ClusteredRankedListLoss, RankedListLoss

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "clustered_ranked_loss.npz")

PIDS = [0, 0, 0, 1, 1, 2, 2, 2, 2, 3]
CLUSTERS = [0, 0, 1, 0, 1, 0, 1, 1, 2, 2]  # of 4, 4 and 2 members: the last one is too small to count


def batch(pids: list[int], dim: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(pids), dim, dtype=torch.float64, generator=generator), torch.tensor(pids)


def naive(
    features: Tensor, pids: list[int], clusters: list[int], setting: tuple[float, float, float], mean: bool
) -> float:
    """The formula once more, group by group and pair by pair in Python floats."""
    alpha, margin, temperature = setting
    unit = [[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in features.tolist()]

    def d(i: int, j: int) -> float:
        return math.sqrt(max(sum((a - b) ** 2 for a, b in zip(unit[i], unit[j], strict=True)), 1e-12))

    pulls, pushes = [], []
    for pid in set(pids):
        group = [i for i, other in enumerate(pids) if other == pid]
        terms = [
            sum(max(0.0, d(i, j) - (alpha - margin)) for j in group) / (len(group) + 1e-5) for i in group
        ]
        pulls.append(sum(terms) / len(group))
    for cluster in set(clusters):
        group = [i for i, other in enumerate(clusters) if other == cluster]
        if len(group) > 3:
            total = 0.0
            for i in group:
                near = [d(i, j) for j in group if pids[i] != pids[j] and d(i, j) < alpha]
                weights = [math.exp(temperature * (alpha - distance)) for distance in near]
                push = sum(w * (alpha - distance) for w, distance in zip(weights, near, strict=True))
                total += push / (sum(weights) + 1e-5)
            pushes.append(total / len(group))
    if mean:
        return sum(pulls) / len(pulls) + sum(pushes) / max(1, len(pushes))
    return sum(pulls) + sum(pushes)


@pytest.mark.parametrize("case", ["c0", "c1", "c2"])
@pytest.mark.parametrize(("dtype", "absolute", "relative"), [("float64", 1e-8, 0), ("float32", 0, 1e-5)])
@pytest.mark.filterwarnings("ignore:the positive radius")
def test_agrees_with_the_published_code(case: str, dtype: str, absolute: float, relative: float) -> None:
    margin, alpha, temperature = GOLDEN[f"{case}_param"].tolist()
    features = torch.from_numpy(GOLDEN[f"{case}_x"].astype(dtype)).requires_grad_()
    pids, assignment = (torch.from_numpy(GOLDEN[f"{case}_{name}"]) for name in ("y", "cluster"))
    loss = ClusteredRankedListLoss(alpha, margin, temperature)(features, pids, assignment)
    loss.backward()
    assert features.grad is not None
    assert loss.item() == pytest.approx(float(GOLDEN[f"{case}_loss"]), abs=absolute, rel=relative)
    golden = torch.from_numpy(GOLDEN[f"{case}_grad"])
    bound = absolute + relative * golden.abs().max().item()
    assert (features.grad.double() - golden).abs().max() <= bound


@pytest.mark.parametrize(
    "setting", [(2.0, 1.3, 1.0), (1.2, 0.4, 10.0), (1.0, 1.3, 1.0), (1.4, 0.6, 100.0), (1.4, 0.6, 0.0)]
)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.filterwarnings("ignore:the positive radius")
def test_agrees_with_the_double_loop(setting: tuple[float, float, float], reduction: Any) -> None:
    features, pids = batch(PIDS)
    loss = ClusteredRankedListLoss(*setting, reduction=reduction)(features, pids, torch.tensor(CLUSTERS))
    expected = naive(features, PIDS, CLUSTERS, setting, reduction == "mean")
    assert loss.item() == pytest.approx(expected, abs=1e-12)


def test_one_cluster_pushes_as_the_plain_loss() -> None:
    """With k = 1 and one image a pid only L_N is left, over the whole batch: known from the plain loss."""
    features, pids = batch(list(range(6)))
    clustered = ClusteredRankedListLoss(clusters=1)(features, pids)
    assert clustered.item() == pytest.approx(RankedListLoss()(features, pids).item(), abs=1e-12)


@pytest.mark.parametrize("temperature", [3.0, 0.0])
def test_gradcheck(temperature: float) -> None:
    features, pids = batch(PIDS)
    loss = ClusteredRankedListLoss(alpha=1.6, margin=0.9, temperature=temperature)
    assignment = torch.tensor(CLUSTERS)
    assert torch.autograd.gradcheck(lambda x: loss(x, pids, assignment), (features.requires_grad_(),))


@pytest.mark.parametrize("pids", [[0, 1, 2, 3], [0, 0, 0, 0], [0]], ids=["no positive", "no negative", "one"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_empty_sets_count_nothing(pids: list[int], reduction: Any) -> None:
    features, labels = batch(pids)
    loss = ClusteredRankedListLoss(clusters=1, reduction=reduction)(features.requires_grad_(), labels)
    loss.backward()
    expected = naive(features.detach(), pids, [0] * len(pids), (2.0, 1.3, 1.0), reduction == "mean")
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    assert features.grad is not None
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pids", [[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 2, 3]])
@pytest.mark.filterwarnings("ignore:the positive radius")
def test_duplicate_embeddings_give_finite_gradients(dtype: torch.dtype, pids: list[int]) -> None:
    features = batch([0], dim=32)[0].to(dtype).repeat(4, 1).requires_grad_()
    loss = ClusteredRankedListLoss(alpha=1.0)(features, torch.tensor(pids))
    loss.backward()
    assert loss.isfinite()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_order_and_scale_of_the_batch_do_not_matter() -> None:
    features, pids = batch(PIDS)
    assignment = torch.tensor(CLUSTERS)
    order = torch.randperm(len(PIDS), generator=torch.Generator().manual_seed(1))
    loss = ClusteredRankedListLoss()
    expected = pytest.approx(loss(features, pids, assignment).item(), abs=1e-12)
    assert loss(features[order], pids[order], assignment[order]).item() == expected
    assert loss(3 * features, pids + 7, assignment + 2).item() == expected


def test_a_function_of_the_batch_and_the_seed_alone() -> None:
    """So a resumed run goes on with the same numbers; what was computed in between does not count."""
    features, pids = batch(list(range(16)) * 4, dim=32)
    loss = ClusteredRankedListLoss(restarts=1)
    first = loss(features, pids)
    loss(batch(PIDS)[0], batch(PIDS)[1])
    torch.rand(3)
    assert torch.equal(loss(features, pids), first)
    assert torch.equal(ClusteredRankedListLoss(restarts=1)(features, pids), first)
    others = [ClusteredRankedListLoss(restarts=1, seed=seed)(features, pids) for seed in range(1, 4)]
    assert any(not torch.equal(other, first) for other in others)


def test_nothing_of_it_is_saved_or_trained() -> None:
    loss = ClusteredRankedListLoss()
    assert not loss.state_dict()
    assert not list(loss.parameters())


def test_active_fraction_by_hand() -> None:
    # Unit vectors at 0, 90, 180 and 270 degrees, each pid twice at right angles, one cluster of four.
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    loss = ClusteredRankedListLoss(alpha=1.6, positive_radius=1.0, clusters=1)
    pids = torch.tensor([0, 0, 1, 1])
    assert loss.measured(features, pids)[1].item() == pytest.approx(8 / 12)
    apart = torch.tensor([0, 1, 0, 1])  # two clusters of two: too small, so nothing is pushed
    assert loss.measured(features, pids, apart)[1].item() == pytest.approx(4 / 12)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"clusters": 0}, "clusters is 0, restarts 10; 1 or more"),
        ({"restarts": 0}, "restarts 0; 1 or more"),
        ({"reduction": "max"}, "reduction is 'max'; sum or mean"),
    ],
)
def test_refuses_settings(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClusteredRankedListLoss(**setting)


def test_refuses_shapes() -> None:
    with pytest.raises(ValueError, match=r"shape \(4, 8\) and pids \(3,\)"):
        ClusteredRankedListLoss()(torch.zeros(4, 8), torch.zeros(3, dtype=torch.int64))


def test_autocast_computes_in_float32() -> None:
    features, pids = batch(PIDS, dim=64)
    loss, single = ClusteredRankedListLoss(clusters=2), features.float()
    expected = loss(single, pids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(single, pids), expected)
        assert loss(single.bfloat16(), pids).dtype == torch.float32
