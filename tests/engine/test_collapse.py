"""A collapse shows in the spread of the embeddings, as training tracks it."""

import torch

from reid.engine.collapse import collapse
from reid.losses import pair_statistics


def spread_of(features: torch.Tensor) -> dict[str, float]:
    statistics = pair_statistics(features, torch.arange(16).repeat_interleave(4))
    return {"train/embedding_std": statistics["embedding_std"].item()}


def test_features_around_one_point_have_collapsed() -> None:
    generator = torch.Generator().manual_seed(0)
    point = torch.randn(1, 128, generator=generator)
    noise = torch.randn(64, 128, generator=generator)
    assert "0.05 of 1" in (collapse(spread_of(point + 0.05 * noise)) or "")
    assert collapse(spread_of(point + 0.3 * noise)) is None
    assert collapse(spread_of(noise)) is None


def test_without_the_number_there_is_no_warning() -> None:
    assert collapse({"train/loss": 1.0}) is None
