"""The report of `sweep=leave_one_out`: what was trained on, what was left out and judged on, and how good
that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reid.retrieval import Difference, Interval, difference, level
from reid.sweeps.outcome import Setting, SweptRun
from reid.words import as_markdown

#: The key that a sweep goes through to leave each part out in turn.
KEY = "dataset.left_out"
_ARROW = " -> "


@dataclass(frozen=True)
class Cell:
    """One setting judged on one part that it was not trained on; `less`: from the setting of reference
    there."""

    sources: str
    target: str
    setting: Setting
    interval: Interval
    less: Difference | None


def is_left_out(keys: Sequence[str]) -> bool:
    """Whether a sweep over these keys left parts out."""
    return KEY in keys


def names_of(runs: Sequence[SweptRun], place: str) -> tuple[str, str]:
    """What was trained on and what was left out where the part at this place was.

    Of parts with one name the place stands behind it. The place alone where no run says more, since none got
    as far as its data.
    """
    found = {
        run.values[KEY]: run.data_name.rpartition(_ARROW)[::2]
        for run in reversed(runs)
        if KEY in run.values and _ARROW in run.data_name
    }
    if place not in found:
        return "the other parts", f"part {place}"
    sources, target = found[place]
    twin = sum(other == target for _, other in found.values()) > 1
    return sources, f"{target} ({place})" if twin else target


def cells_of(settings: Sequence[Setting], runs: Sequence[SweptRun]) -> list[Cell]:
    """A cell for each setting and part: the parts in their order, within one the settings, best first.

    A setting is compared with the first one of the sweep, at the same part: the queries are then the same.
    """
    cells = []
    first = _others(runs[0].values) if runs else {}
    for place in sorted({one.values[KEY] for one in settings}, key=_number):
        of_part = [one for one in settings if one.values[KEY] == place]
        usual = next((one for one in of_part if _others(one.values) == first and one.done), None)
        sources, target = names_of(runs, place)
        for one in of_part:
            compared = usual is not None and one is not usual and bool(one.done)
            less = difference(one.measured, usual.measured) if compared and usual is not None else None
            nothing = Interval(math.nan, math.nan)
            cells.append(Cell(sources, target, one, level(one.measured) if one.done else nothing, less))
    return cells


def table(cells: Sequence[Cell], keys: Sequence[str], split: str) -> str:
    """The table in Markdown: a row for each part that was left out and each setting."""
    others = [key for key in keys if key != KEY]
    head = ["trained on", "left out, judged on", *others, f"mAP on {split} (%) [95 %]", "rank-1 (%)", "seeds"]
    head += ["mAP less that of the first setting, points [95 %]"] if others else []
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for cell in cells:
        done, every = len(cell.setting.done), len(cell.setting.runs)
        row = [as_markdown(cell.sources), as_markdown(cell.target)]
        row += [as_markdown(cell.setting.values[key] or "-") for key in others]
        row += [
            _score(cell.setting, f"{split}/mAP") + _within(cell.interval),
            _score(cell.setting, f"{split}/rank-1"),
            str(done) if done == every else f"{done} of {every}",
        ]
        row += [_points(cell.less)] if others else []
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def conclude(cells: Sequence[Cell], split: str) -> str:
    """What a reader came for: how good a model is on what it has not seen, and what of the keys helps
    there."""
    done = [cell for cell in cells if cell.setting.done]
    if not done:
        return "No cell finished: there is no score to report."
    score = f"{split}/mAP"
    plain = [cell for cell in done if cell.less is None]
    ordered = sorted(plain or done, key=lambda cell: cell.setting.mean(score))
    named = ", ".join(
        f"{100 * cell.setting.mean(score):.1f} % on {as_markdown(cell.target)}{_within(cell.interval)}"
        for cell in ordered
    )
    sentences = [f"Left out and judged on, mAP is {named}."]
    by_setting: dict[str, list[Cell]] = {}
    for cell in done:
        if cell.less is not None:
            name = ", ".join(f"{key}={value}" for key, value in _others(cell.setting.values).items() if value)
            by_setting.setdefault(name, []).append(cell)
    for name, some in by_setting.items():
        values = [cell.less.value for cell in some if cell.less is not None]
        sure = sum(cell.less.exceeds_noise for cell in some if cell.less is not None)
        sentences.append(
            f"{as_markdown(name)} changes it by {100 * float(np.mean(values)):+.1f} points on average over "
            f"{len(values)} parts; in {sure} of them that exceeds the noise."
        )
    return " ".join(sentences)


def mean_score(settings: Sequence[Setting], score: str) -> float:
    """The mean over the parts of the best setting's mean; NaN where no setting has finished on all parts."""
    by_setting: dict[tuple[tuple[str, str], ...], list[float]] = {}
    for one in settings:
        by_setting.setdefault(tuple(_others(one.values).items()), []).append(one.mean(score))
    means = [float(np.mean(values)) for values in by_setting.values()]
    return max((mean for mean in means if not math.isnan(mean)), default=math.nan)


def _others(values: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in values.items() if key != KEY}


def _number(place: str) -> tuple[int, str]:
    return (int(place), "") if place.isdigit() else (10**9, place)


def _score(setting: Setting, name: str) -> str:
    mean, spread = setting.mean(name), setting.deviation(name)
    if math.isnan(mean):
        return "-"
    return f"{100 * mean:.1f}" + ("" if math.isnan(spread) else f" ± {100 * spread:.1f}")


def _within(interval: Interval) -> str:
    return "" if math.isnan(interval.low) else f" [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _points(less: Difference | None) -> str:
    if less is None:
        return "-"
    low, high = less.interval
    interval = "" if math.isnan(low) else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{100 * less.value:+.1f}{interval}"
