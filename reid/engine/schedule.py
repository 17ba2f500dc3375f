"""The learning rate as a pure function of the epoch."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from reid.config.schema import TrainConfig

WARMUP_METHODS = ("linear", "constant")


def scheduled_rate(epoch: int, settings: TrainConfig) -> float:
    """The learning rate of one epoch, counted from 1, as a config asks for it."""
    schedule = settings.schedule
    return learning_rate(
        epoch,
        settings.optimizer["lr"],
        schedule.milestone_epochs(settings.epochs),
        schedule.gamma,
        settings.tricks.warmup,
        schedule.warmup_factor,
        schedule.warmup_method,
    )


def learning_rate(
    epoch: int,
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
        epoch: 1 for the first epoch.
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
    warmup = 1.0
    if index < warmup_epochs:
        progress = index / warmup_epochs if warmup_method == "linear" else 0.0
        warmup = warmup_factor * (1 - progress) + progress
    return float(base_lr * warmup * gamma ** bisect_right(milestones, index))
