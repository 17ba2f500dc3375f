"""The learning rate as a pure function of how much of the training is done.

A schedule is a function and a file of conf/schedule/ that names it by `_target_`. It is called by name with
what it takes of

    elapsed: epochs that are done, 0 at the start; within an epoch a fraction, where `schedule.per=iteration`
    epochs: of the whole run
    base_lr: `optimizer.lr`
    warmup_epochs: `tricks.warmup`
    milestones, gamma, floor, restarts, rise, warmup_factor, warmup_method: the keys of the group; milestones
        in epochs

and returns the learning rate of the next step. So a run that is resumed within an epoch has the same rates.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from reid.config.checks import parameter_names, trusted_target
from reid.config.schema import ScheduleConfig, TrainConfig

WARMUP_METHODS = ("linear", "constant")


def epoch_rates(settings: TrainConfig, epoch: int, steps: int) -> list[float]:
    """The learning rate of each of the steps of an epoch, which counts from 1."""
    return [scheduled_rate(settings, epoch, step, steps) for step in range(steps)]


def scheduled_rate(settings: TrainConfig, epoch: int, step: int = 0, steps: int = 1) -> float:
    """The learning rate of a config in step `step`, counted from 0, of the `steps` of an epoch, from 1."""
    schedule = settings.schedule
    elapsed = epoch - 1 + step / steps if schedule.per == "iteration" else epoch - 1
    return _rate(schedule, elapsed, settings.epochs, settings.optimizer["lr"], settings.tricks.warmup)


def same_rates(config: Mapping[str, Any], lengths: tuple[int, int], trained: int) -> bool:
    """Whether runs of both lengths, in epochs, have the same rates in the epochs that are `trained`.

    config: of both, by dotted keys.
    """
    keys = {
        key.removeprefix("schedule."): value for key, value in config.items() if key.startswith("schedule.")
    }
    schedule = ScheduleConfig(**keys)
    places = [half / 2 for half in range(2 * trained)] if schedule.per == "iteration" else range(trained)
    first, second = (
        [_rate(schedule, place, epochs, 1.0, config["tricks.warmup"]) for place in places]
        for epochs in lengths
    )
    return first == second


def _rate(schedule: ScheduleConfig, elapsed: float, epochs: int, base_lr: float, warmup: int) -> float:
    function = trusted_target("schedule", schedule._target_)
    parameters = parameter_names(function)
    values = {
        **vars(schedule),
        "elapsed": elapsed,
        "epochs": epochs,
        "base_lr": base_lr,
        "milestones": schedule.milestone_epochs(epochs),
        "warmup_epochs": warmup,
    }
    return float(function(**{name: value for name, value in values.items() if name in parameters}))


def step(
    elapsed: float,
    base_lr: float,
    milestones: Sequence[float],
    gamma: float,
    warmup_epochs: int,
    warmup_factor: float,
    warmup_method: str,
) -> float:
    """The published schedule: warm-up, then a step down after each milestone; see `learning_rate`."""
    return learning_rate(elapsed + 1, base_lr, milestones, gamma, warmup_epochs, warmup_factor, warmup_method)


def cosine(
    elapsed: float,
    epochs: int,
    base_lr: float,
    floor: float,
    warmup_epochs: int,
    warmup_factor: float,
    warmup_method: str,
    restarts: int = 0,
) -> float:
    """Warm-up, then half a cosine down to `floor`, once or several times (SGDR, arXiv 1608.03983, eq. 5).

    With n = elapsed, N = epochs and W = warmup_epochs, the warm-up is that of `learning_rate`; from n = W on

        lr = base_lr * (floor + (1 - floor) * (1 + cos(pi * (n - W) / (N - W))) / 2)

    The floor is reached at n = N, where the run ends: the last epoch, or step, lies just above it. With R
    restarts there are R + 1 such cosines, one after another and of equal length, (N - W) / (R + 1).

    floor: the share of base_lr to end at, 0 to 1.
    """
    if elapsed < warmup_epochs:
        return base_lr * _warmup(elapsed, warmup_epochs, warmup_factor, warmup_method)
    done = (elapsed - warmup_epochs) / (epochs - warmup_epochs)
    if restarts and elapsed < epochs:  # Multiplied first: a whole number stays one, and none is missed.
        done = (elapsed - warmup_epochs) * (restarts + 1) / (epochs - warmup_epochs) % 1
    return base_lr * (floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2)


def one_cycle(
    elapsed: float, epochs: int, base_lr: float, floor: float, rise: float, warmup_factor: float
) -> float:
    """Half a cosine up to base_lr and half a cosine down (Smith and Topin, arXiv 1708.07120, section 3).

    With s = elapsed / epochs and c(a, b, x) = b + (a - b) (1 + cos(pi x)) / 2, which leads from a to b,

        lr = base_lr * c(warmup_factor, 1, s / rise)                  while s < rise
        lr = base_lr * c(1, floor, (s - rise) / (1 - rise))           from there on

    These are the rates of torch's OneCycleLR for step s * N of N + 1, if warmup_factor = 1 / div_factor,
    floor = warmup_factor / final_div_factor and its rise ends with step rise * N (torch's own ends about a
    step earlier). Its momentum falls and rises against the rate; here it stays.

    rise: the share of the run in which the rate rises, 0 to 1.
    """
    done = elapsed / epochs
    if done < rise:
        first, last, along = warmup_factor, 1.0, done / rise
    else:
        first, last, along = 1.0, floor, (done - rise) / (1 - rise) if rise < 1 else 0.0
    return base_lr * (last + (first - last) * (1 + math.cos(math.pi * along)) / 2)


def learning_rate(
    epoch: float,
    base_lr: float,
    milestones: Sequence[float],
    gamma: float,
    warmup_epochs: int,
    warmup_factor: float,
    warmup_method: str,
) -> float:
    """Learning rate of one epoch: warm-up, then a step down after each milestone.

    With n = epoch - 1 (the index that the published runs used),

        lr = base_lr * w(n) * gamma ** (number of milestones <= n)

    where w(n) = 1 from n = warmup_epochs on; before that, w(n) is warmup_factor (constant) or
    warmup_factor (1 - a) + a with a = n / warmup_epochs (linear). So with milestones (40, 70) and ten
    epochs of warm-up, epoch 11 is the first at base_lr, epoch 41 the first after the first step.
    Source: the strong baseline of Luo et al., CVPRW 2019 (arXiv 1903.07071), section 3.1.

    Args:
        epoch: 1 for the first epoch; between two whole numbers within one.
        base_lr: learning rate after the warm-up.
        milestones: numbers of epochs, in increasing order; between two of them the later one counts.
        gamma: factor of each step.
        warmup_epochs: length of the warm-up; 0 for none.
        warmup_factor: share of base_lr at which the warm-up starts.
        warmup_method: "linear" or "constant".

    Raises:
        ValueError: epoch < 1, warmup_epochs < 0, milestones not in increasing order, unknown method.
    """
    if epoch < 1:
        raise ValueError(f"epoch is {epoch}; epochs count from 1")
    if list(milestones) != sorted(set(milestones)):
        raise ValueError(f"milestones are {list(milestones)}; they must increase, e.g. [40, 70]")
    if warmup_epochs < 0:
        raise ValueError(f"warmup_epochs is {warmup_epochs}; it must be 0 (no warm-up) or more")
    if warmup_method not in WARMUP_METHODS:
        raise ValueError(f"warmup_method is {warmup_method!r}; allowed: {', '.join(WARMUP_METHODS)}")

    index = epoch - 1
    warmup = _warmup(index, warmup_epochs, warmup_factor, warmup_method)
    return float(base_lr * warmup * gamma ** bisect_right(milestones, index))


def _warmup(elapsed: float, epochs: int, factor: float, method: str) -> float:
    """The share of the learning rate after so many epochs, of a warm-up of `epochs`."""
    if elapsed >= epochs:
        return 1.0
    progress = elapsed / epochs if method == "linear" else 0.0
    return factor * (1 - progress) + progress
