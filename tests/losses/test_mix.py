from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from reid.losses import Mix, RankedListLoss, TripletCenterLoss, TripletLoss


def mixed(**losses: nn.Module) -> Mix:
    """The first sees the feature after the neck, at 0.4, the others the one before it, at 1."""
    names = list(losses)
    return Mix(
        losses,
        {name: 0.4 if name == names[0] else 1.0 for name in names},
        {name: "after" if name == names[0] else "before" for name in names},
    )


def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    before, after = torch.randn(2, 6, 5, dtype=torch.float64, generator=generator)
    return before, after, torch.tensor([0, 0, 1, 1, 2, 2])


def test_it_is_the_weighted_sum_each_on_the_feature_that_it_sees() -> None:
    before, after, pids = batch()
    ranked, triplet = RankedListLoss(), TripletLoss(margin=None)
    loss = mixed(ranked=ranked, triplet=triplet)
    both = torch.cat([before, after], dim=1)
    expected = 0.4 * ranked(after, pids) + triplet(before, pids)
    assert loss(both, pids).item() == pytest.approx(expected.item(), abs=1e-12)
    terms = loss.terms(both, pids)
    assert terms["ranked"].item() == pytest.approx(ranked(after, pids).item(), abs=1e-12)
    assert terms["triplet"].item() == pytest.approx(triplet(before, pids).item(), abs=1e-12)
    assert torch.equal(loss.seen(both)["after"], after)


def test_gradcheck() -> None:
    before, after, pids = batch()
    loss = mixed(ranked=RankedListLoss(), triplet=TripletLoss())
    both = torch.cat([before, after], dim=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, pids), (both,))


def test_the_order_in_which_they_are_listed_does_not_matter() -> None:
    before, after, pids = batch()
    both = torch.cat([before, after], dim=1)
    losses = {"b": TripletLoss(), "a": RankedListLoss()}
    weights, features = {"a": 0.3, "b": 0.7}, {"a": "after", "b": "after"}
    turned = Mix(dict(reversed(losses.items())), weights, features)
    assert torch.equal(Mix(losses, weights, features)(both, pids), turned(both, pids))


def test_the_optimizer_that_a_loss_brings_moves_its_parameters_alone() -> None:
    loss = mixed(triplet=TripletLoss(), center=TripletCenterLoss(3, 5))
    optimizer = loss.own_optimizer()
    assert optimizer is not None
    (group,) = optimizer.param_groups
    assert [parameter.shape for parameter in group["params"]] == [(3, 5)]
    assert mixed(triplet=TripletLoss(), ranked=RankedListLoss()).own_optimizer() is None


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ({"first": TripletLoss()}, "a mix takes two losses or more, not 1"),
        ({"id": TripletLoss(), "second": TripletLoss()}, "'id' cannot name a loss of a mix"),
        ({"items": TripletLoss(), "second": TripletLoss()}, "'items' cannot name a loss of a mix"),
        ({"a": TripletCenterLoss(3, 5), "b": TripletCenterLoss(3, 5)}, "a and b both bring an optimizer"),
    ],
)
def test_refuses_losses(losses: dict[str, nn.Module], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        mixed(**losses)
