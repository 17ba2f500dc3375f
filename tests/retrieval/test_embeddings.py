from __future__ import annotations

import pytest
import torch
from torch import Tensor

from reid.retrieval import Embeddings

IDS = torch.tensor([3, 4, 5])


def test_selects_moves_and_normalises() -> None:
    embeddings = Embeddings(torch.tensor([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]]), IDS, IDS - 3)
    assert len(embeddings) == 3
    picked = embeddings.select(torch.tensor([2, 0]))
    assert (picked.pids.tolist(), picked.camids.tolist()) == ([5, 3], [2, 0])
    assert len(embeddings.select(IDS > 3)) == 2
    assert torch.equal(embeddings.to("cpu").features, embeddings.features)
    assert embeddings.normalised().features.norm(dim=1).tolist() == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_names_the_rows_that_are_not_finite(value: float) -> None:
    features = torch.zeros(3, 4)
    features[1, 2] = value
    with pytest.raises(ValueError, match=r"1 of 3 feature rows hold NaN, infinity.*: rows 1\."):
        Embeddings(features, IDS, IDS)


def test_large_float16_features_are_finite() -> None:
    assert len(Embeddings(torch.full((3, 64), 6e4, dtype=torch.float16), IDS, IDS)) == 3


@pytest.mark.parametrize(
    ("features", "pids", "camids", "message"),
    [
        (torch.zeros(3), IDS, IDS, r"shape \(3,\); expected floats"),
        (torch.zeros(3, 2, dtype=torch.int64), IDS, IDS, "features are torch.int64"),
        (torch.zeros(3, 2), IDS[:2], IDS, r"pids are torch.int64 of shape \(2,\)"),
        (torch.zeros(3, 2), IDS, IDS.int(), "camids are torch.int32"),
        (torch.zeros(3, 2), IDS.to("meta"), IDS, "pids are on meta"),
    ],
)
def test_refuses(features: Tensor, pids: Tensor, camids: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Embeddings(features, pids, camids)
