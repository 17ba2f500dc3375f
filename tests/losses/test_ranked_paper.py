"""conf/loss/ranked_paper.yaml: that the library's names mean what the paper's do."""

from __future__ import annotations

import math

import pytest
import torch
from composing import settings_of
from torch import Tensor

from reid.engine.objective import build_metric_loss


def paper(features: Tensor, pids: Tensor, alpha: float, m: float, temperature: float, mix: float) -> float:
    """Wang et al., arXiv 1903.03238: pair by pair, positives averaged over those that violate the radius."""
    unit = [[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in features.tolist()]
    labels, total = pids.tolist(), 0.0
    for i, anchor in enumerate(unit):
        others = [
            (math.dist(anchor, other), labels[j] == labels[i]) for j, other in enumerate(unit) if j != i
        ]
        violating = [d - (alpha - m) for d, positive in others if positive and d > alpha - m]
        near = [alpha - d for d, positive in others if not positive and d < alpha]
        weights = [math.exp(temperature * gap) for gap in near]
        pull = sum(violating) / len(violating) if violating else 0.0
        push = sum(w * gap for w, gap in zip(weights, near, strict=True)) / sum(weights) if near else 0.0
        total += (1 - mix) * pull + mix * push
    return total / len(unit)


@pytest.mark.filterwarnings("ignore:Values of Tp or Tn")
@pytest.mark.parametrize("pids", [[0, 0, 1, 1, 2, 2], [5, 5, 5, 5, 9, 7], [0, 1, 2, 3], [4, 4, 4]])
@pytest.mark.parametrize("temperature", [10, 0])
def test_is_the_loss_of_the_paper(pids: list[int], temperature: int) -> None:
    options = settings_of("loss=ranked_paper", f"loss.Tn={temperature}").loss
    loss = build_metric_loss(options, num_classes=10, embedding_size=4)
    assert loss is not None
    features = torch.randn(len(pids), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor(pids)
    expected = paper(features, labels, alpha=1.2, m=0.4, temperature=temperature, mix=0.5)
    # The library adds 1e-5 to the sum of the weights for every image of the batch.
    assert loss(features, labels).item() == pytest.approx(expected, rel=1e-3)
