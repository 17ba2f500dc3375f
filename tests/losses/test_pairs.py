from __future__ import annotations

import math

import pytest
import torch

from reid.losses import pair_statistics
from reid.losses.pairs import pair_masks

SQUARE = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [0.0, -1.0]])


def test_masks_leave_out_the_anchor() -> None:
    positive, negative = pair_masks(torch.tensor([4, 4, 7]))
    assert positive.int().tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert negative.int().tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 0]]


def test_statistics_by_hand() -> None:
    # Four directions 90 degrees apart; the two images of each pid lie opposite each other.
    statistics = pair_statistics(SQUARE, torch.tensor([0, 1, 0, 1]))
    assert statistics["hardest_positive"].item() == pytest.approx(2)
    assert statistics["hardest_negative"].item() == pytest.approx(math.sqrt(2))
    assert statistics["embedding_std"].item() == pytest.approx(1)


def test_anchors_without_a_positive_are_left_out_of_the_mean() -> None:
    statistics = pair_statistics(SQUARE, torch.tensor([0, 0, 1, 2]))
    assert statistics["hardest_positive"].item() == pytest.approx(math.sqrt(2))


def test_nan_where_there_is_no_such_pair() -> None:
    assert pair_statistics(SQUARE, torch.arange(4))["hardest_positive"].isnan()
    assert pair_statistics(SQUARE, torch.zeros(4))["hardest_negative"].isnan()


def test_collapsed_embeddings_have_no_spread() -> None:
    statistics = pair_statistics(SQUARE[:1].repeat(4, 1), torch.tensor([0, 0, 1, 1]))
    assert statistics["embedding_std"].item() == pytest.approx(0, abs=1e-6)


def test_carries_no_gradient() -> None:
    statistics = pair_statistics(SQUARE.clone().requires_grad_(), torch.tensor([0, 0, 1, 1]))
    assert not any(value.requires_grad or value.ndim for value in statistics.values())


def test_refuses_an_empty_batch() -> None:
    with pytest.raises(ValueError, match="same N > 0"):
        pair_statistics(torch.zeros(0, 4), torch.zeros(0))
