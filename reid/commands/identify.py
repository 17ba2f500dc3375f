"""Who is it, or nobody: an open-set threshold, fixed on some people and tested on others.

Some people are enrolled, others are strangers. On the calibration people the threshold for the wanted FPIR is
chosen and written down; only then the test people are embedded, and what the threshold does to them is
measured, drawn, and written into the checkpoint, for `reid.search` and whoever else applies it.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from reid.commands.held_out import Part, Trained, evaluation_of, open_held_out, open_trained
from reid.config.schema import EvalConfig, IdentifyConfig
from reid.config.settings import identify_settings
from reid.engine.compute import Compute
from reid.jobs.job import Job
from reid.judging.judge import describe
from reid.judging.open_set import (
    OpenSetScores,
    Roles,
    WeighedImages,
    embed_weighed,
    open_set_scores,
    open_set_values,
    roles,
    searches,
)
from reid.judging.open_set_report import as_json, draw_open_set, label, rates_table, sizes_table
from reid.judging.stored_open_set import StoredOpenSet, store_open_set
from reid.judging.stored_threshold import FeatureSpace
from reid.retrieval import Searches
from reid.retrieval.open_set import (
    FPIR_TARGETS,
    FUSIONS,
    open_set_intervals,
    outcomes,
    require_strangers,
    threshold_for,
)
from reid.tracking.journal import replace_text

log = logging.getLogger(__name__)


def identify(job: Job, settings: IdentifyConfig) -> dict[str, float]:
    """Open-set rates (fractions) of a checkpoint; writes figures, identify.json and the checkpoint."""
    compute = Compute.set_up(settings.device, settings.precision)
    trained = open_trained(job, settings, settings.checkpoint, settings.output, compute)
    own = None
    if settings.enrolled is not None and settings.probes is not None:
        own = Path(settings.enrolled), Path(settings.probes)
    evaluation = evaluation_of(trained, settings, job)
    held_out = open_held_out(job, settings, trained, evaluation, own)
    evaluation = held_out.evaluation
    space = trained.space(evaluation, settings.precision)

    part, tested = (_roles(images, settings, own is None) for images in (held_out.calibration, held_out.test))
    require_strangers(FPIR_TARGETS[settings.target], _strangers(held_out.calibration, part))
    first = _embedded(job, trained, held_out.calibration, evaluation)
    fixed: dict[str, dict[str, Any]] = {}
    crops = len(part.enrolled) / len(_people(held_out.calibration, part))
    for fusion in FUSIONS:
        found = outcomes(searches(first, part, space, fusion, evaluation.protocol))
        wanted = FPIR_TARGETS[settings.target]
        limit = threshold_for(found, wanted)
        sure = open_set_intervals(found, limit, [wanted], settings.replicates, settings.seed)
        fixed[fusion] = {
            "threshold": limit,
            "interval": sure.threshold_at[wanted],
            "enrolled": found.enrolled,
            "strangers": sure.strangers,
            "stranger_searches": len(found.stranger),
        }
    chosen = fixed[settings.fusion]
    record: dict[str, Any] = {
        "target": settings.target,
        "space": asdict(space),
        "seed": settings.seed,
        "fixed": fixed,
    }
    replace_text(job.folder / "fixed.json", json.dumps(record, indent=2) + "\n")
    log.info(
        "fixed: threshold %.4f for %s, fusion %s, on %d enrolled people and %d strangers (%s of %s); "
        "written to fixed.json",
        chosen["threshold"], settings.target, settings.fusion, chosen["enrolled"], chosen["strangers"],
        held_out.calibration.split, held_out.measured_on,
    )  # fmt: skip

    second = _embedded(job, trained, held_out.test, evaluation)
    scores: dict[str, OpenSetScores] = {}
    for fusion in (settings.fusion, *(name for name in FUSIONS if name != settings.fusion)):
        done = searches(second, tested, space, fusion, evaluation.protocol)
        scores[fusion] = _scores(done, fixed[fusion]["threshold"], settings)
    ours = scores[settings.fusion]
    log.info(
        "tested: FPIR %.3g %%, DIR %.1f %% on %d other enrolled people and %d other strangers (%s)",
        100 * ours.fpir, 100 * ours.dir, ours.sure.enrolled, ours.sure.strangers, held_out.test.split,
    )  # fmt: skip

    stored = _stored(settings, space, evaluation, ours, chosen, crops, held_out.measured_on, held_out.test)
    title = f"{trained.checkpoint.meta['dataset']['name']} -> {held_out.measured_on}"
    with job.stop.in_one_piece():  # what is raised below matplotlib's C++ arrives as a ValueError
        figures = draw_open_set(job.folder / "figures", scores, title, settings.target)
    record |= {
        "checkpoint": settings.checkpoint,
        "config_hash": trained.checkpoint.meta["config_hash"],
        "eval": asdict(evaluation),
        "open_set": asdict(stored),
        "tested": {fusion: as_json(each) for fusion, each in scores.items()},
    }
    (job.folder / "identify.json").write_text(json.dumps(record, indent=2) + "\n")
    written = trained.written(store_open_set(trained.source, trained.target, stored))

    header = (
        f"{describe(evaluation, held_out.measured_on)}: {ours.found.mated_searches:,} searches of "
        f"{ours.sure.enrolled:,} enrolled people and {ours.stranger_searches:,} of {ours.sure.strangers:,} "
        f"strangers. Thresholds for FPIR {label(settings.target)} were fixed on other people"
    )
    job.console.print(rates_table(scores, settings.fusion, header))
    job.console.print(sizes_table(ours, settings.target))
    for line in (
        stored.expectation(ours.sure.enrolled),
        written,
        f"fixed.json, identify.json and figures/ ({', '.join(path.name for path in figures)}) are in "
        f"{job.folder}",
    ):
        job.console.print(line, highlight=False, soft_wrap=True)
    values = {**open_set_values(ours), "FPIR": ours.fpir, "DIR": ours.dir, "threshold": ours.threshold}
    return {f"open_set/{name}": value for name, value in values.items()}


def _roles(images: Part, settings: IdentifyConfig, drawn: bool) -> Roles:
    """Who of a part is enrolled: drawn at random, or as the user says."""
    return roles(
        images.store.pids.numpy(), images.store.camids.numpy(), images.gallery,
        share=settings.share if drawn else None, most=settings.enrolled_crops,
        together=settings.probe_crops, seed=settings.seed,
    )  # fmt: skip


def _strangers(images: Part, part: Roles) -> int:
    """How many probes are of strangers."""
    away = ~np.isin(images.store.pids.numpy()[part.probes], _people(images, part))
    return len(np.unique(part.probe[away]))


def _embedded(job: Job, trained: Trained, images: Part, evaluation: EvalConfig) -> WeighedImages:
    log.info("embedding %s", images.describe())
    return embed_weighed(trained.model, images.store, trained.compute, evaluation, job.progress)


def _people(images: Part, part: Roles) -> np.ndarray:
    return np.unique(images.store.pids.numpy()[part.enrolled])


def _scores(done: Searches, limit: float, settings: IdentifyConfig) -> OpenSetScores:
    return open_set_scores(
        done, limit, settings.target, settings.sizes, settings.draws, settings.replicates, settings.seed
    )


def _stored(
    settings: IdentifyConfig, space: FeatureSpace, evaluation: EvalConfig, scores: OpenSetScores,
    fixed: dict[str, Any], crops: float, dataset: str, test: Part,
) -> StoredOpenSet:  # fmt: skip
    ends = fixed["interval"]
    return StoredOpenSet(
        value=scores.threshold,
        value_interval=(float(ends[0]), float(ends[1])),
        target=settings.target,
        fusion=settings.fusion,
        crops=crops,
        **asdict(space),
        protocol=evaluation.protocol,
        dataset=dataset,
        split=test.split,
        data_fingerprint=test.fingerprint,
        calibrated_enrolled=fixed["enrolled"],
        calibrated_strangers=fixed["strangers"],
        enrolled=scores.sure.enrolled,
        strangers=scores.sure.strangers,
        fpir=scores.fpir,
        fpir_interval=(*scores.sure.fpir,),
        dir=scores.dir,
        dir_interval=(*scores.sure.dir,),
        false_match_rate=scores.false_match_rate,
        sizes=tuple((row.enrolled, row.fpir) for row in scores.sizes),
    )


def run(job: Job) -> dict[str, float]:
    """The job of the command, from its composed config on."""
    return identify(job, identify_settings(job.config))
