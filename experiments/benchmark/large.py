"""What the benchmarks at MSMT17's size share: fractions of it and the whole, each in a process of its own."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from experiments.benchmark.catalogue import Setup
from experiments.benchmark.features import Scale, msmt17, size
from experiments.benchmark.growth import growth_goal
from experiments.benchmark.memory import in_child
from experiments.benchmark.outcome import Case, Goal

#: Of the images and of the people.
FRACTIONS, QUICK_FRACTIONS = (0.125, 0.25, 0.5, 1.0), (0.5, 1.0)
MOST_MIB = 8 * 1024


def scale_of(dimensions: int, fraction: float, quick: bool) -> Scale:
    """A fraction of MSMT17's test half; small where it is quick."""
    return msmt17(dimensions).part(0.01 * fraction if quick else fraction)


def large_case(
    work: Callable[..., dict[str, float]],
    setup: Setup,
    dimensions: int,
    *,
    growth: str,
    amount: Callable[[Scale], int],
    limit_seconds: Callable[[Scale], float],
    limit: str,
) -> Case:
    """Run `work(dimensions, fraction, quick)`, which returns its "seconds" and scores, at every fraction.

    Args:
        growth, amount: what time may grow with, in words and as a number.
        limit_seconds, limit: the physical limit at the whole size.
    """
    seconds: dict[str, list[float]] = {}
    peaks: dict[str, float] = {}
    facts: dict[str, float | str] = {}
    fractions = QUICK_FRACTIONS if setup.quick else FRACTIONS
    for fraction in fractions:
        scale = scale_of(dimensions, fraction, setup.quick)
        setup.say(f"{size(scale)}, {setup.repeats} times in a process of its own")
        children = [
            in_child(work, dimensions=dimensions, fraction=fraction, quick=setup.quick)
            for _ in range(setup.repeats)
        ]
        seconds[size(scale)] = [child.value["seconds"] for child in children]
        peaks[size(scale)] = max(child.peak_mib for child in children)
        facts = {name: value for name, value in children[-1].value.items() if name != "seconds"}
    scales = [scale_of(dimensions, fraction, setup.quick) for fraction in fractions]
    whole = scales[-1]
    medians = [statistics.median(values) for values in seconds.values()]
    least = limit_seconds(whole)
    return Case(
        size(whole),
        [
            Goal("peak memory, features included", peaks[size(whole)], MOST_MIB, "<=", "MiB"),
            growth_goal(growth, [amount(scale) for scale in scales], medians),
            Goal(f"time / limit ({limit})", medians[-1] / least, None, "<="),
        ],
        seconds,
        limit_seconds=least,
        limit=limit,
        peak_mib=peaks,
        facts=facts,
    )
