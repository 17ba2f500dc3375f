from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from composing import settings_of

from reid.config.checks import ConfigError
from reid.engine.schedule import epoch_rates, learning_rate, scheduled_rate

pytestmark = pytest.mark.usefixtures("own_home")

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


# ---- what a config asks for


def rates(*overrides: str, epochs: int, steps: int = 1) -> list[float]:
    settings = settings_of(f"epochs={epochs}", "optimizer.lr=1.0", "backbone.weights=none", *overrides)
    return [rate for epoch in range(1, epochs + 1) for rate in epoch_rates(settings, epoch, steps)]


def test_the_config_without_an_override_has_the_published_rates() -> None:
    settings = settings_of("backbone.weights=none")
    for epoch in range(1, 121):
        assert epoch_rates(settings, epoch, 3) == 3 * [learning_rate(epoch, **RECIPE)]


@pytest.mark.slow
def test_cosine_by_hand() -> None:
    # Half of the way up, then cos of 0, 60 and 120 degrees: shares 1, 3/4, 1/4 of what lies above the floor.
    warm = ("schedule=cosine", "schedule.per=epoch", "tricks.warmup=2", "schedule.warmup_factor=0")
    assert rates(*warm, "schedule.floor=0", epochs=5) == pytest.approx([0, 0.5, 1, 0.75, 0.25])
    assert rates(*warm, "schedule.floor=0.2", epochs=5) == pytest.approx([0, 0.5, 1, 0.8, 0.4])
    held = ("schedule.warmup_method=constant", "schedule.warmup_factor=0.1", "schedule.floor=0.2")
    assert rates(*warm, *held, epochs=5) == pytest.approx([0.1, 0.1, 1, 0.8, 0.4])
    plain = ("schedule=cosine", "schedule.per=epoch", "tricks.warmup=0", "schedule.floor=0")
    assert rates(*plain, epochs=4) == pytest.approx([1, 0.5 + 0.125**0.5, 0.5, 0.5 - 0.125**0.5])


def test_a_rate_a_step_rises_and_falls_within_an_epoch() -> None:
    # Two steps of warm-up, then cos of 0, 45, 90 and 135 degrees.
    words = ("schedule=cosine", "tricks.warmup=1", "schedule.warmup_factor=0", "schedule.floor=0")
    share = 0.125**0.5
    expected = [0, 0.5, 1, 0.5 + share, 0.5, 0.5 - share]
    assert rates(*words, epochs=3, steps=2) == pytest.approx(expected)
    stepped = (
        "schedule.per=iteration",
        "tricks.warmup=1",
        "schedule.warmup_factor=0.5",
        "schedule.milestones=[2]",
    )
    assert rates(*stepped, epochs=3, steps=2) == pytest.approx([0.5, 0.75, 1, 1, 0.1, 0.1])


def test_the_rates_that_are_left_of_an_epoch_are_those_of_the_whole_one() -> None:
    """A run that is resumed in mid-epoch asks for its step again: nothing is counted beside it."""
    settings = settings_of("schedule=cosine", "epochs=20", "backbone.weights=none")
    whole = epoch_rates(settings, 15, 7)
    assert whole[4:] == [scheduled_rate(settings, 15, step, 7) for step in range(4, 7)]
    assert len(set(whole)) == 7
    assert whole == sorted(whole, reverse=True)


def test_a_run_that_ends_within_its_warm_up_has_no_cosine() -> None:
    with pytest.warns(UserWarning, match="ends within its warm-up"):
        found = rates("schedule=cosine", "tricks.warmup=4", "schedule.warmup_factor=0", epochs=3)
    assert found == pytest.approx([0, 0.25, 0.5])


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        (("schedule=cosine", "schedule.milestones=[9,12]"), r"schedule.milestones=\[9, 12\] does nothing"),
        (("schedule=cosine", "schedule.gamma=0.5"), "schedule.gamma=0.5 does nothing"),
        (("schedule.floor=0.1",), "schedule.floor=0.1 does nothing: reid.engine.schedule.step"),
    ],
)
def test_a_key_that_the_schedule_does_not_take_is_warned_of(typed: tuple[str, ...], key: str) -> None:
    with pytest.warns(UserWarning, match=key):
        settings_of("backbone.weights=none", *typed)


def test_a_schedule_from_elsewhere_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"schedule\._target_=math\.sin is refused: .*reid\.engine\.schedule"
    ):
        settings_of("schedule._target_=math.sin")


def test_a_function_that_takes_something_else_is_no_schedule() -> None:
    with pytest.raises(ConfigError, match="is no schedule: it takes epoch, and is given base_lr"):
        settings_of("schedule._target_=reid.engine.schedule.learning_rate")


def test_one_cycle_has_the_rates_of_torch() -> None:
    """Torch reaches its end in the last step, ours after it: so its cycle has one step more."""
    words = ("schedule=one_cycle", "schedule.warmup_factor=0.1", "schedule.floor=0.001")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    torchs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, total_steps=41, pct_start=12 / 40 + 1 / 41, div_factor=10, final_div_factor=100
    )
    # Its rise ends with step pct_start * total_steps - 1.
    torchs._schedule_phases[0]["end_step"] = 12
    wanted = []
    for _ in range(40):
        wanted.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        torchs.step()
    found = rates(*words, epochs=8, steps=5)
    assert found == pytest.approx(wanted)
    assert (found[0], max(found)) == (pytest.approx(0.1), found[12])


@pytest.mark.parametrize(("rise", "expected"), [(0, [1, 0.75, 0.25]), (1, [0, 0.25, 0.75])])
def test_one_cycle_may_only_fall_or_only_rise(rise: int, expected: list[float]) -> None:
    words = ("schedule=one_cycle", "schedule.warmup_factor=0", "schedule.floor=0", "schedule.per=epoch")
    assert rates(*words, f"schedule.rise={rise}", epochs=3) == pytest.approx(expected)


def test_a_cosine_with_a_restart_in_each_epoch_misses_none() -> None:
    words = ("schedule=cosine", "tricks.warmup=0", "schedule.restarts=21", "schedule.per=epoch")
    assert set(rates(*words, epochs=22)) == {1.0}


def test_a_cosine_that_restarts_is_the_shorter_one_again() -> None:
    words = ("schedule=cosine", "tricks.warmup=1", "schedule.floor=0.1")
    once = rates(*words, epochs=3, steps=4)
    twice = rates(*words, "schedule.restarts=1", epochs=5, steps=4)
    assert twice == pytest.approx(once + once[4:])
    with pytest.raises(ConfigError, match=r"restarts=4 makes 5 cosines.* the 4 epochs .*restarts=3 or fewer"):
        settings_of(*words, "epochs=5", "schedule.restarts=4")
