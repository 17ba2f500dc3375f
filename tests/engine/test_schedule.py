from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reid.engine.schedule import learning_rate

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "warmup_schedule.json").read_text())
CASES = {name: case for name, case in GOLDEN.items() if isinstance(case, dict)}
RECIPE: dict[str, Any] = {
    "base_lr": 3.5e-4,
    "milestones": [40, 70],
    "gamma": 0.1,
    "warmup_epochs": 10,
    "warmup_factor": 0.01,
    "warmup_method": "linear",
}


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_published_schedule(name: str) -> None:
    case = dict(CASES[name])
    published = case.pop("lr_published")
    arguments = {key: case[key] for key in RECIPE}
    ours = [learning_rate(epoch, **arguments) for epoch in range(1, len(published) + 1)]
    assert ours == pytest.approx(published, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    ("epoch", "expected"), [(1, 3.5e-6), (11, 3.5e-4), (40, 3.5e-4), (41, 3.5e-5), (70, 3.5e-5), (71, 3.5e-6)]
)
def test_the_epochs_at_which_the_recipe_changes(epoch: int, expected: float) -> None:
    assert learning_rate(epoch, **RECIPE) == pytest.approx(expected, rel=1e-12)


def test_constant_warmup_holds_the_factor() -> None:
    rates = [learning_rate(epoch, **{**RECIPE, "warmup_method": "constant"}) for epoch in (1, 10, 11)]
    assert rates == pytest.approx([3.5e-6, 3.5e-6, 3.5e-4])


def test_without_warmup_or_milestones_the_rate_is_constant() -> None:
    flat = {**RECIPE, "warmup_epochs": 0, "milestones": []}
    assert {learning_rate(epoch, **flat) for epoch in (1, 2, 100)} == {3.5e-4}


@pytest.mark.parametrize(
    ("epoch", "change", "message"),
    [
        (0, {}, "epoch is 0; epochs count from 1"),
        (1, {"milestones": [70, 40]}, r"milestones are \[70, 40\]"),
        (1, {"milestones": [40, 40]}, r"milestones are \[40, 40\]"),
        (1, {"warmup_method": "cosine"}, "'cosine'; allowed: linear, constant"),
        (1, {"warmup_epochs": -1}, "warmup_epochs is -1"),
    ],
)
def test_refuses(epoch: int, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        learning_rate(epoch, **{**RECIPE, **change})
