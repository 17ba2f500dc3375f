"""The same person or another: the distances of all pairs of images, and what a threshold says of them."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from reid.commands.camera_choice import NO_CAMERA_SAID, choose_camera
from reid.engine.compute import Compute
from reid.inference import TrainedModel, load_model, shape_problem
from reid.judging.stored_calibration import StoredCalibration, usable_calibration
from reid.judging.stored_threshold import StoredThreshold, ThresholdError
from reid.terminal import Table, Terminal
from reid.words import chance

#: Pairs in a picture, nearest first, and in the list of verdicts.
MOST_PAIRS = 24


@dataclass(frozen=True)
class Comparison:
    """The distances of all pairs and the verdicts, None where there is no threshold to apply.

    calibration: what makes a probability of a distance, at `prior` (None: the stored one), or None.
    """

    images: list[str]
    distances: list[list[float]]
    threshold: StoredThreshold | None
    note: str
    calibration: StoredCalibration | None = None
    prior: float | None = None

    def probability(self, distance: float) -> float | None:
        """That two images at this distance show one person; None without a calibration."""
        if self.calibration is None:
            return None
        return float(self.calibration.probability(distance, self.prior))

    def pairs(self) -> list[tuple[int, int, float, bool | None]]:
        """(first, second, distance, same), nearest first."""
        limit = self.threshold.value if self.threshold else None
        found = [
            (i, j, self.distances[i][j], None if limit is None else self.distances[i][j] <= limit)
            for i, j in itertools.combinations(range(len(self.images)), 2)
        ]
        return sorted(found, key=lambda pair: pair[2])


def compare(
    model: TrainedModel,
    images: Sequence[Path],
    camids: Sequence[int | None] | None = None,
    prior: float | None = None,
) -> Comparison:
    """The distances between all images, and what the model's threshold and calibration say of them.

    camids: as `embed` takes them. prior: the share of pairs of one person; None for the stored one.
    """
    distances = model.distances(model.embed(images, camids=camids))
    # An image is at distance 0 from itself, which rounding and the floor of the square root hide.
    distances.fill_diagonal_(0)
    threshold = model.threshold
    if threshold is None:
        note = (
            f"{model.name} carries no threshold, so these are distances alone. To get one: "
            f"python -m reid.threshold checkpoint={model.name}"
        )
    else:
        try:
            threshold.check(model.space)
            note = expectation(threshold)
        except ThresholdError as refusal:
            threshold, note = None, f"distances alone: {refusal}"
    calibration, why = usable_calibration(model.meta, model.space)
    if calibration is not None:
        why = calibration.expectation(prior)
    note += f". {why[:1].upper()}{why[1:]}" if why else ""
    names = [str(image) for image in images]
    return Comparison(names, distances.tolist(), threshold, note, calibration, prior)


def expectation(threshold: StoredThreshold) -> str:
    """The error rates to expect of a threshold, in words."""
    false_accept = " to ".join(f"{100 * rate:.3g}" for rate in threshold.far_interval)
    false_reject = " to ".join(f"{100 * (1 - rate):.1f}" for rate in reversed(threshold.tar_interval))
    return (
        f"same person: {threshold.metric} distance of at most {threshold.value:.4f} (for {threshold.target}"
        f"). Measured on {threshold.dataset}, {threshold.split} split, {threshold.identities} people: "
        f"{100 * threshold.far:.3g} % of pairs of two people are called the same (95 %: {false_accept}), "
        f"{100 * (1 - threshold.tar):.1f} % of pairs of one person are missed (95 %: {false_reject}). "
        "Other cameras or people may give other rates"
    )


def as_json(model: TrainedModel, comparison: Comparison, warnings: list[str]) -> dict[str, Any]:
    """Everything that was found, as plain data."""
    threshold = comparison.threshold
    return {
        "checkpoint": model.name,
        **asdict(model.space),
        "images": comparison.images,
        "distances": comparison.distances,
        "pairs": [
            {
                "first": comparison.images[first],
                "second": comparison.images[second],
                "distance": distance,
                "same": same,
                **({"probability": comparison.probability(distance)} if comparison.calibration else {}),
            }
            for first, second, distance, same in comparison.pairs()
        ],
        "threshold": asdict(threshold) if threshold else None,
        "expected": {"far": threshold.far, "frr": 1 - threshold.tar} if threshold else None,
        **(
            {"prior": comparison.calibration.prior if comparison.prior is None else comparison.prior}
            if comparison.calibration
            else {}
        ),
        "note": comparison.note,
        "warnings": warnings,
    }


def show(console: Console, model: TrainedModel, comparison: Comparison) -> None:
    """The distance matrix and the verdicts."""
    names = [f"{number}: {Path(image).name}" for number, image in enumerate(comparison.images, 1)]
    console.print(model.space.describe(), highlight=False, soft_wrap=True)
    table = Table()
    table.add_column("")
    for number in range(1, len(names) + 1):
        table.add_column(str(number), justify="right")
    for name, row in zip(names, comparison.distances, strict=True):
        table.add_row(name, *(f"{distance:.3f}" for distance in row))
    console.print(table)
    pairs = comparison.pairs()
    judged = comparison.threshold is not None or comparison.calibration is not None
    for first, second, distance, same in pairs[:MOST_PAIRS] if judged else []:
        sure = comparison.probability(distance)
        words: list[str | tuple[str, str]] = [f"{first + 1} and {second + 1}: "]
        if same is not None:
            words.append(("same person", "green") if same else ("another person", "red"))
            words.append(f" ({distance:.3f})")
        if sure is not None:
            words.append(f"{', ' if same is not None else ''}one person with {chance(sure)}")
        console.print(Text.assemble(*words))
    if judged and len(pairs) > MOST_PAIRS:
        console.print(f"… and {len(pairs) - MOST_PAIRS} pairs that are further apart; all of them: --json")
    console.print(comparison.note, highlight=False, soft_wrap=True)


def draw(comparison: Comparison, images: Sequence[Path], path: Path) -> Path:
    """The picture of the pairs, nearest first."""
    from reid.figures import Pair, compared_pairs, save  # matplotlib, which most comparisons do without

    found = comparison.pairs()
    pairs = [
        Pair(images[first], images[second], images[first].name, images[second].name, distance, same)
        for first, second, distance, same in found[:MOST_PAIRS]
    ]
    title = "Same person or another"
    if len(found) > MOST_PAIRS:
        title += f": the {MOST_PAIRS} nearest of {len(found)} pairs"
    return save(compared_pairs(pairs, title=title, note=comparison.note), path)


def run(options: argparse.Namespace) -> int:
    """What `python -m reid.compare` does with its options, whose images can be read; the exit code.

    Raises:
        UsageError, OSError: the checkpoint cannot be used, or the picture not be written.
    """
    images: list[Path] = options.images
    Compute.set_up(options.device)
    model = load_model(
        options.checkpoint,
        options.device,
        metric=options.metric,
        feature_norm=options.feature_norm,
        neck_feature=options.neck_feature,
    )
    choice = choose_camera(model, options.camera, NO_CAMERA_SAID)
    problems = [shape_problem(image, model.height, model.width) for image in images]
    warnings = [problem for problem in problems if problem]
    comparison = compare(model, images, choice.camids([None] * len(images)), options.prior)
    if options.output is not None:
        draw(comparison, images, options.output)
    errors, console = Terminal(stderr=True, soft_wrap=True), Terminal()
    for warning in warnings:
        errors.print(f"warning: {warning}", highlight=False)
    if options.json:
        print(json.dumps(as_json(model, comparison, warnings), indent=2))
        return 0
    console.print(f"checkpoint: {model.name}", highlight=False, soft_wrap=True)
    show(console, model, comparison)
    if options.output is not None:
        console.print(f"picture: {options.output}", highlight=False, soft_wrap=True)
    return 0
