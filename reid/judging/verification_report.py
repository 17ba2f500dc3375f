"""What `reid.threshold` shows: its table, its figures, its JSON."""

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from reid.figures import Rate, hardest_bands, pair_distances, save, verification_roc
from reid.judging.stored_threshold import FeatureSpace, StoredThreshold
from reid.retrieval import TARGETS, Intervals, PairCounts, Verification
from reid.retrieval.verify import FAR_TARGETS
from reid.terminal import Table

#: What the author's own figures show, for unit-length features and the Euclidean distance.
PUBLISHED = {"published hardest positives": (0.4, 1.3), "published hardest negatives": (1.1, 1.35)}
UNIT_EUCLIDEAN = FeatureSpace("euclidean", True, "after")
#: What each target is called.
NAMES = {**{name: f"FAR {name.removeprefix('far_')}" for name in FAR_TARGETS}, "eer": "EER", "f1": "best F1"}


def table(measured: Verification, sure: Intervals, header: str) -> Table:
    """One row a target; rates in percent, each with its 95 % interval over identities."""
    shown = Table(title=header, title_justify="left", title_style="dim")
    shown.caption = (
        f"95 % intervals: {sure.replicates:,} bootstrap replicates over {sure.identities:,} identities"
        + (f" in {sure.groups} groups" if sure.groups < sure.identities else "")
        + "; FAR and FRR are those of the threshold as it stands. F1 at this set's ratio of pairs"
    )
    shown.caption_justify = "left"
    for name in ("target", "score", "threshold", "FAR %", "FRR %", "F1 %"):
        shown.add_column(name, justify="left" if name == "target" else "right")
    for name in TARGETS:
        point, label = measured.points[name], NAMES[name] + (" (chosen)" if name == measured.target else "")
        if not math.isfinite(point.threshold):
            needed = round(1 / FAR_TARGETS[name])
            shown.add_row(label, f"too few impostor pairs: {needed:,} are needed", *4 * ["-"])
            continue
        far, tar = sure.far[name], sure.tar[name]
        shown.add_row(
            label,
            _score(name, measured, sure),
            f"{point.threshold:.4f}",
            f"{_rate(point.far)} [{_rate(far.low)}, {_rate(far.high)}]",
            f"{100 * point.frr:.1f} [{100 * (1 - tar.high):.1f}, {100 * (1 - tar.low):.1f}]",
            f"{100 * point.f1:.1f}",
            style="bold" if name == measured.target else None,
        )
    return shown


def _score(name: str, measured: Verification, sure: Intervals) -> str:
    if name == "eer":
        return f"EER {100 * measured.eer:.2f} [{100 * sure.eer.low:.2f}, {100 * sure.eer.high:.2f}] %"
    if name == "f1":
        return _f1(measured, sure)
    rate, interval = measured.tar_at_far[FAR_TARGETS[name]], sure.tar_at_far[FAR_TARGETS[name]]
    return f"TAR {100 * rate:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}] %"


def _f1(measured: Verification, sure: Intervals) -> str:
    low, high = sure.best_f1
    return f"F1 {100 * measured.best_f1:.1f} [{100 * low:.1f}, {100 * high:.1f}] %"


def _rate(fraction: float) -> str:
    return f"{100 * fraction:.3g}"


def verdict(chosen: StoredThreshold) -> str:
    """The one sentence that a user came for."""
    low, high = chosen.far_interval
    return (
        f"same person: {chosen.metric} distance of at most {chosen.value:.4f}. Expect {_rate(chosen.far)} % "
        f"[{_rate(low)}, {_rate(high)}] of pairs of two people to be called the same, and "
        f"{100 * (1 - chosen.tar):.1f} % [{100 * (1 - chosen.tar_interval[1]):.1f}, "
        f"{100 * (1 - chosen.tar_interval[0]):.1f}] of pairs of one person to be missed, on data like "
        f"{chosen.dataset}"
    )


def draw(
    folder: Path,
    counts: PairCounts,
    measured: Verification,
    sure: Intervals,
    hardest: tuple[torch.Tensor, torch.Tensor],
    space: FeatureSpace,
    title: str,
) -> list[Path]:
    """Write the three figures to `folder`."""
    distance = f"{space.metric.capitalize()} distance"
    published = PUBLISHED if replace(space, precision=UNIT_EUCLIDEAN.precision) == UNIT_EUCLIDEAN else None
    positive, negative = (kind.numpy() for kind in hardest)
    bands = hardest_bands(
        positive, negative, distance_label=distance, published=published,
        title=f"{title}: hardest pairs of each anchor, batches of {positive.shape[1]}",
    )  # fmt: skip
    distances = pair_distances(
        counts.thresholds, counts.genuine, counts.impostor, measured.threshold, distance_label=distance,
        threshold_label=f"threshold for {NAMES[measured.target]}", title=f"{title}: distances of all pairs",
    )  # fmt: skip
    rates = [
        Rate(
            f"{NAMES[name]} (d ≤ {point.threshold:.3f})",
            point.far,
            point.tar,
            sure.tar_at_far[FAR_TARGETS[name]] if name in FAR_TARGETS else sure.tar[name],
            name == measured.target,
        )
        for name, point in measured.points.items()
        if math.isfinite(point.threshold)
    ]
    roc = verification_roc(
        measured.far, measured.tar, rates, impostor_pairs=measured.impostor, title=f"{title}: ROC",
        legend_title=(
            f"EER {100 * measured.eer:.2f} % [{100 * sure.eer.low:.2f}, {100 * sure.eer.high:.2f}]; best "
            f"{_f1(measured, sure)}"
        ),
        note=f"In brackets: 95 % intervals over {sure.identities:,} identities",
    )  # fmt: skip
    return [
        save(bands, folder / "hardest_pairs.png"),
        save(distances, folder / "pair_distances.png"),
        save(roc, folder / "roc.png"),
    ]


def values(measured: Verification) -> dict[str, float]:
    """The rates that there are, as fractions, by name."""
    rates = {f"TAR@{NAMES[name].replace(' ', '-')}": measured.points[name].tar for name in FAR_TARGETS}
    numbers = {"threshold": measured.threshold, "EER": measured.eer, "best-F1": measured.best_f1, **rates}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def as_json(measured: Verification, sure: Intervals) -> dict[str, Any]:
    """All that was measured, but for the curve; a rate that there are too few pairs for is null."""
    return {
        "eer": measured.eer,
        "best_f1": measured.best_f1,
        "points": {
            name: asdict(point) if math.isfinite(point.threshold) else None
            for name, point in measured.points.items()
        },
        "genuine_pairs": measured.genuine,
        "impostor_pairs": measured.impostor,
        "intervals": {
            **asdict(sure),
            "tar_at_far": {f"{wanted:.0e}": interval for wanted, interval in sure.tar_at_far.items()},
        },
    }
