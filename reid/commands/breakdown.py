"""What an evaluation says beyond its scores: by the quality of the crops, and by groups of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reid.config.checks import ConfigError
from reid.config.schema import EvalConfig
from reid.data.files import in_threads
from reid.data.image_store import ImageStore
from reid.data.pictures import upright_size
from reid.data.table_files import read_columns
from reid.engine.compute import Compute
from reid.engine.prepare import JudgedData, matches_of
from reid.figures import GroupBar, RejectionCurve, group_differences, rejection_curves, save
from reid.judging.domains import Domain
from reid.judging.embed import embed
from reid.judging.groups import (
    GROUPINGS,
    GROUPS,
    GroupRow,
    Observations,
    compare,
    conclude,
    count_missed,
    group_table,
    of_camera_pairs,
    of_column,
    of_queries,
    thirds,
)
from reid.judging.judge import Judgement
from reid.judging.quality import KEY as QUALITY
from reid.judging.quality import Measures, QualityModel, columns, fit, folds_of, measure, out_of_fold
from reid.judging.stored_threshold import StoredThreshold, ThresholdError, feature_space
from reid.models import ReidModel
from reid.retrieval import EvaluationError
from reid.retrieval.rejection import Rejection, rejection
from reid.terminal import Table

log = logging.getLogger(__name__)

QUALITY_TABLE, GROUP_TABLE = "quality.csv", "groups.csv"
#: People that the folds of the model of quality are made of.
FOLDS = 5
#: The model of all measures, as the report calls it.
MODEL = "model of all measures"
#: Groupings that a model card shows: these say nothing of anybody in particular.
ON_CARD = ("camera_pair", "size")


@dataclass(frozen=True)
class Breakdown:
    """What was found on one dataset; `model` is fitted on all of its queries, misses are counted at
    `limit`."""

    curves: Mapping[str, Rejection] = field(default_factory=dict)
    model: QualityModel | None = None
    groups: Sequence[GroupRow] = ()
    threshold: str = ""
    limit: float | None = None


def check(domains: Sequence[Domain], keys: Sequence[Mapping[str, Any]], settings: EvalConfig) -> None:
    """Refuse a grouping that the data do not know, and too few queries for a model of quality.

    Raises:
        ConfigError: what is wrong, before anything is embedded.
        DatasetError: a table without such a column.
    """
    for domain, spec in zip(domains, keys, strict=True):
        for name in settings.groups:
            if name in GROUPINGS:
                if name == "camera_pair" and not domain.dataset.cameras:
                    raise ConfigError(
                        f"eval.groups: camera_pair needs cameras, and {domain.label} names none"
                    )
                continue
            values = column_of(domain, spec, name)
            try:
                of_column([values.get(str(crop.path), "") for crop in domain.dataset.query])
            except ValueError as error:
                raise ConfigError(f"eval.groups: {name} of {domain.label} is no grouping: {error}") from error
        if settings.quality:
            query, how = domain.dataset.query, domain.evaluation
            usable = (matches_of(query, domain.dataset.gallery, how.protocol).usable > 0).tolist()
            judged = [crop for crop, one in zip(query, usable, strict=True) if one]
            rows = {
                crop.path if crop.tracklet is None or not how.tracklets else crop.tracklet: crop.pid
                for crop in judged
            }
            try:
                folds_of(np.array(list(rows.values()), np.int64), FOLDS)
            except EvaluationError as error:
                raise ConfigError(f"eval.quality=true does not fit {domain.label}: {error}") from error


def column_of(domain: Domain, spec: Mapping[str, Any], name: str) -> dict[str, str]:
    """A column of the table of a dataset, by the path of the image.

    Raises:
        ConfigError: the dataset has no table.
        DatasetError: its table has no such column.
    """
    if spec["name"] != "table":
        raise ConfigError(
            f"eval.groups: {name!r} is none of {', '.join(GROUPINGS)}, and {domain.label} is read from "
            "no table that "
            "could have such a column (dataset=table)"
        )
    found = read_columns(Path(spec["file"]), Path(spec["root"]), [name])
    return {str(path): values[name] for path, values in found.items()}


def measures_of(
    model: ReidModel, store: ImageStore, compute: Compute, settings: EvalConfig, progress: Any
) -> list[Measures]:
    """What each image of a store is like; its feature is that of the settings, before it is normalised."""
    eval_feature = model.eval_feature
    model.eval_feature = settings.neck_feature
    try:
        raw = embed(
            model, store, compute, normalise=False, flip=settings.flip, cameras=settings.cameras,
            batch=settings.batch, progress=progress, what="query, for its quality",
        )  # fmt: skip
    finally:
        model.eval_feature = eval_feature
    norms = raw.features.double().norm(dim=1).tolist()
    with in_threads(upright_size, [crop.path for crop in store.crops]) as heads:
        sizes = list(heads)
    pixels = (np.asarray(store.pixels[row]) for row in store.rows)
    found = []
    for image, size, norm in zip(pixels, sizes, norms, strict=True):
        height, width = size or image.shape[:2]
        found.append(measure(image, height, width, norm))
    return found


def break_down(
    domain: Domain,
    spec: Mapping[str, Any],
    model: ReidModel,
    judged: JudgedData,
    judgement: Judgement,
    settings: EvalConfig,
    threshold: StoredThreshold | None,
    compute: Compute,
    progress: Any,
) -> Breakdown:
    """The quality of the queries and what it is worth, and the groups; each where the settings ask for it."""
    rows = judged.rows_of(settings)
    groups = settings.groups
    needs_measures = settings.quality or {"size", "brightness"} & set(groups)
    measures = measures_of(model, rows.query, compute, settings, progress) if needs_measures else []
    curves: dict[str, Rejection] = {}
    fitted = None
    if settings.quality:
        fitted, curves = _quality(judgement, measures, domain.label)
    found: list[GroupRow] = []
    value, words = None, ""
    if groups:
        value, words = _usable(threshold, settings, compute.precision)
        found = compare(
            [_observed(name, domain, spec, rows, judgement, measures, settings, value) for name in groups]
        )
    return Breakdown(curves, fitted, found, words, value)


def _quality(
    judgement: Judgement, measures: Sequence[Measures], label: str
) -> tuple[QualityModel, dict[str, Rejection]]:
    precision = judgement.scores.average_precision.numpy()
    valid = np.flatnonzero(~np.isnan(precision))
    values, pids = precision[valid], judgement.query.pids.cpu().numpy()[valid]
    some = [measures[row] for row in valid.tolist()]
    scores = {MODEL: out_of_fold(some, values, pids, FOLDS), **columns(some)}
    curves = {name: rejection(score, values, pids) for name, score in scores.items()}
    return fit(some, values, pids, label), curves


def _usable(
    threshold: StoredThreshold | None, settings: EvalConfig, precision: str
) -> tuple[float | None, str]:
    """The stored threshold where it holds for what was judged, and what to say of it."""
    if threshold is None:
        return None, "no threshold is stored, so no miss rates: python -m reid.threshold measures one"
    if settings.query_expansion:
        return None, "the stored threshold holds for queries without expansion, so no miss rates"
    try:
        threshold.check(feature_space(settings, precision))
    except ThresholdError as refusal:
        return None, f"no miss rates: {refusal}"
    return (
        threshold.value,
        f"miss rates at the stored threshold {threshold.value:.4f} (for {threshold.target})",
    )


def _observed(
    name: str,
    domain: Domain,
    spec: Mapping[str, Any],
    rows: JudgedData,
    judgement: Judgement,
    measures: Sequence[Measures],
    settings: EvalConfig,
    threshold: float | None,
) -> Observations:
    query, gallery, scores = judgement.query, judgement.gallery, judgement.scores
    if name == "camera_pair":
        return of_camera_pairs(query, gallery, settings.protocol, settings.metric, threshold)
    if name == "size":
        group = thirds([one.height for one in measures], ("low", "middle", "high"), " px high")
    elif name == "brightness":
        group = thirds([one.brightness for one in measures], ("dark", "middle", "bright"), " of 255")
    else:
        values = column_of(domain, spec, name)
        group = of_column([values.get(str(crop.path), "") for crop in rows.query.crops])
    pairs, missed = count_missed(query, gallery, settings.protocol, settings.metric, threshold)
    return of_queries(
        name, group, query, scores.average_precision.numpy(), scores.first_match.numpy(), pairs, missed
    )


def quality_csv(found: Mapping[str, Breakdown]) -> str:
    """Every curve of every dataset as one table of fractions."""
    lines = [
        {
            "data": label, "score": name, "set_aside": share, "mAP_left": left, "low": low, "high": high,
            "chance": curve.random, "oracle": oracle, "gain": curve.gain, "gain_low": curve.gain_interval.low,
            "gain_high": curve.gain_interval.high,
        }
        for label, one in found.items()
        for name, curve in one.curves.items()
        for share, left, (low, high), oracle in zip(
            curve.shares, curve.left, curve.intervals, curve.oracle, strict=True
        )
    ]  # fmt: skip
    return str(pd.DataFrame(lines).to_csv(index=False))


def group_csv(found: Mapping[str, Breakdown]) -> str:
    """Every group of every dataset as one table."""
    return str(group_table({label: one.groups for label, one in found.items()}).to_csv(index=False))


def draw(folder: Path, found: Breakdown, title: str) -> list[Path]:
    """Write the figures of one dataset; they show nobody."""
    written = []
    if found.curves:
        first = next(iter(found.curves.values()))
        order = sorted(found.curves, key=lambda name: (name != MODEL, -_finite(found.curves[name].gain)))
        curves = [
            RejectionCurve(
                f"{name}: gain {gain_words(found.curves[name])}",
                found.curves[name].left,
                np.array([low for low, _ in found.curves[name].intervals]),
                np.array([high for _, high in found.curves[name].intervals]),
            )
            for name in order
        ]
        figure = rejection_curves(
            first.shares, curves, first.random, first.oracle, title=f"{title}: mAP that is left"
        )
        written.append(save(figure, folder / "quality.png"))
    for score in dict.fromkeys(row.score for row in found.groups):
        bars = [
            GroupBar(
                f"{row.grouping} {row.group}", 100 * row.value, 100 * row.difference,
                100 * row.difference_interval.low, 100 * row.difference_interval.high, row.remains,
            )
            for row in found.groups
            if row.score == score
        ]  # fmt: skip
        name = f"groups_{score.replace(' ', '_')}.png"
        figure = group_differences(bars, score=score, title=f"{title}: {score} by group")
        written.append(save(figure, folder / name))
    return written


def tables(found: Breakdown, label: str) -> list[Table | str]:
    """What the terminal shows of one dataset."""
    shown: list[Table | str] = []
    if found.curves:
        table = Table(title=f"{label}: mAP of the queries that stay (%)", title_justify="left")
        for name in ("set aside by", "0 %", "10 %", "25 %", "50 %", "gain [95 %]"):
            table.add_column(name, justify="left" if name == "set aside by" else "right")
        for name, curve in found.curves.items():
            table.add_row(name, *(_left(curve, share) for share in (0, 0.1, 0.25, 0.5)), gain_words(curve))
        first = next(iter(found.curves.values()))
        oracle = [f"{100 * first.oracle[_place(first, share)]:.1f}" for share in (0, 0.1, 0.25, 0.5)]
        table.add_row("the accuracy itself (oracle)", *oracle, "1.00")
        shown.append(table)
        shown.append(
            "gain: 0 is chance, 1 the oracle. The model was fitted on other people than those it is "
            "judged on here"
        )
    for grouping in dict.fromkeys(row.grouping for row in found.groups):
        shown.append(_group_table([row for row in found.groups if row.grouping == grouping], label))
    if found.groups:
        shown += [found.threshold, conclude(found.groups)]
    return shown


def _group_table(rows: Sequence[GroupRow], label: str) -> Table:
    table = Table(title=f"{label}: by {rows[0].grouping}, and less the rest in points", title_justify="left")
    scores = list(dict.fromkeys(row.score for row in rows))
    table.add_column("group")
    for score in scores:
        table.add_column(f"{score} %", justify="right")
        table.add_column("less the rest", justify="right")
    for name in ("queries", "people"):
        table.add_column(name, justify="right")
    for group in dict.fromkeys(row.group for row in rows):
        own = {row.score: row for row in rows if row.group == group}
        cells = [cell for score in scores for cell in _cells(own[score])]
        one = next(iter(own.values()))
        table.add_row(group, *cells, f"{one.queries:,}", f"{one.people:,}")
    table.caption = "95 % intervals, people resampled; * remains after Holm's correction over all groups"
    table.caption_justify = "left"
    return table


def _cells(row: GroupRow) -> tuple[str, str]:
    if math.isnan(row.value):
        return "-", "-"
    if math.isnan(row.difference):
        return f"{100 * row.value:.1f}", "too few people"
    low, high = row.difference_interval
    star = " *" if row.remains else ""
    return (
        f"{100 * row.value:.1f}",
        f"{100 * row.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]{star}",
    )


def gain_words(curve: Rejection) -> str:
    """A gain with its interval: `0.31 [0.22, 0.40]`."""
    if math.isnan(curve.gain):
        return "not known"
    low, high = curve.gain_interval
    return f"{curve.gain:.2f}" + ("" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]")


def _left(curve: Rejection, share: float) -> str:
    place = _place(curve, share)
    low, high = curve.intervals[place]
    shown = f"{100 * curve.left[place]:.1f}"
    return shown if math.isnan(low) else f"{shown} [{100 * low:.1f}, {100 * high:.1f}]"


def _place(curve: Rejection, share: float) -> int:
    return int(np.argmin(np.abs(curve.shares - share)))


def _finite(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def for_card(found: Breakdown, dataset: str, split: str, fingerprint: str) -> dict[str, Any]:
    """What a checkpoint keeps of the groups: error rates by camera pair and size, plain data."""
    rows = [
        {
            "grouping": row.grouping, "group": row.group, "score": row.score, "value": row.value,
            "interval": None if math.isnan(row.interval.low) else list(row.interval),
            "remains": row.remains, "people": row.people,
        }
        for row in found.groups
        if row.grouping in ON_CARD and row.score in ("rank-1", "miss rate") and math.isfinite(row.value)
    ]  # fmt: skip
    return {
        "dataset": dataset, "split": split, "data_fingerprint": fingerprint,
        "threshold": found.limit, "rows": rows,
    }  # fmt: skip


def kept(
    domains: Sequence[Domain],
    found: Mapping[str, Breakdown],
    readers: Mapping[str, str],
    fingerprints: Mapping[str, str],
) -> dict[str, Any]:
    """What a checkpoint keeps: the model of quality and the groups of its own data, else of the first that
    were judged; nothing of what was not asked for."""
    if not found:
        return {}
    domain = next((one for one in domains if one.own), domains[0])
    one, more = found[domain.label], {}
    if one.model is not None:
        more[QUALITY] = one.model.as_json()
    if one.groups:
        label = domain.label
        more[GROUPS] = for_card(one, readers[label], domain.evaluation.split, fingerprints[label])
    return more
