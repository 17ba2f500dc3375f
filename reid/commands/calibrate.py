"""How sure: a distance as the probability of one person, fitted on some people and tested on others.

On the calibration people a curve from distance to log-likelihood ratio is fitted and written down; only then
the test people are embedded. What similarity taken for a probability does there, and what the calibration
does, is measured, drawn, and written into the checkpoint, for `reid.compare`, `reid.search` and
`model.probability`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from matplotlib.figure import Figure

from reid.commands.held_out import Part, Trained, evaluation_of, open_held_out, open_trained
from reid.config.schema import CalibrateConfig, EvalConfig
from reid.config.settings import calibrate_settings
from reid.engine.compute import Compute
from reid.figures import ReliabilityPoints, reliability_diagrams, save
from reid.jobs.job import Job
from reid.judging.embed import embed
from reid.judging.judge import describe
from reid.judging.stored_calibration import StoredCalibration, StoredPair, plain, store_calibration
from reid.judging.stored_threshold import FeatureSpace
from reid.retrieval import Embeddings
from reid.retrieval.calibration import (
    METHODS,
    Calibration,
    Reliability,
    Scorer,
    calibrated,
    fit_calibration,
    naive,
    reliability,
    score_pairs,
)
from reid.terminal import Table
from reid.tracking.journal import replace_text
from reid.words import chance

log = logging.getLogger(__name__)

BEFORE = "similarity itself"
BY_CAMERA = "by camera pair"


def calibrate(job: Job, settings: CalibrateConfig) -> dict[str, float]:
    """Calibration errors (fractions) of a checkpoint; writes figures, calibration.json and the checkpoint."""
    compute = Compute.set_up(settings.device, settings.precision)
    trained = open_trained(job, settings, settings.checkpoint, settings.output, compute)
    held_out = open_held_out(job, settings, trained, evaluation_of(trained, settings, job))
    evaluation = held_out.evaluation
    space = trained.space(evaluation, settings.precision)

    images = embedded(job, trained, held_out.calibration, evaluation, space)
    fitted = {
        method: fit_calibration(images, space.metric, evaluation.protocol, method, camera_pairs=False)
        for method in METHODS
    }
    chosen = fitted[settings.method]
    if settings.camera_pairs:
        chosen = fit_calibration(images, space.metric, evaluation.protocol, settings.method)
    record: dict[str, Any] = {
        "method": settings.method,
        "seed": settings.seed,
        "space": asdict(space),
        "fixed": {method: asdict(calibration.pooled) for method, calibration in fitted.items()},
        "camera_pairs": [
            {"cameras": list(cameras), "people": pair.people, "weight": pair.weight, **asdict(pair.curve)}
            for cameras, pair in chosen.pairs.items()
        ],
    }
    replace_text(job.folder / "fixed.json", json.dumps(record, indent=2) + "\n")
    log.info(
        "fixed: a %s calibration on %d pairs of one person and %d pairs of two people, of %d people (%s of "
        "%s), %d camera pairs with curves of their own; written to fixed.json",
        settings.method, chosen.genuine, chosen.impostor, chosen.people, held_out.calibration.split,
        held_out.measured_on, len(chosen.pairs),
    )  # fmt: skip

    others = embedded(job, trained, held_out.test, evaluation, space)
    scorers = {method: calibrated(calibration, others) for method, calibration in fitted.items()}
    best = settings.method
    if chosen.pairs:
        best = f"{settings.method}, {BY_CAMERA}"
        scorers[best] = calibrated(chosen, others)
    measured = {BEFORE: _measured(others, space, evaluation, naive(others, space.metric), settings, False)}
    for name, scorer in scorers.items():
        measured[name] = _measured(others, space, evaluation, scorer, settings, True)
    ours, before = measured[best], measured[BEFORE]
    log.info(
        "tested: expected calibration error %.2f %%, before %.2f %%, on %d other people (%s)",
        100 * ours.corrected, 100 * before.corrected, held_out.test.people, held_out.test.split,
    )  # fmt: skip

    stored = _stored(settings, space, evaluation, chosen, ours, before, held_out.measured_on, held_out.test)
    title = f"{trained.checkpoint.meta['dataset']['name']} -> {held_out.measured_on}"
    with job.stop.in_one_piece():  # what is raised below matplotlib's C++ arrives as a ValueError
        figure = draw({BEFORE: before, best: ours}, settings.prior, title)
        path = save(figure, job.folder / "figures" / "reliability.png")
    record |= {
        "checkpoint": settings.checkpoint,
        "config_hash": trained.checkpoint.meta["config_hash"],
        "eval": asdict(evaluation),
        "prior": settings.prior,
        "calibration": plain(stored),
        "tested": {name: asdict(each) for name, each in measured.items()},
    }
    (job.folder / "calibration.json").write_text(json.dumps(record, indent=2) + "\n")
    written = trained.written(store_calibration(trained.source, trained.target, stored))

    header = (
        f"{describe(evaluation, held_out.measured_on)}: fitted on {chosen.people:,} people, tested on "
        f"{held_out.test.people:,} others, at a prior of {chance(settings.prior)}"
    )
    job.console.print(table(measured, best, header, held_out.test.people))
    for line in (
        stored.expectation(),
        written,
        f"fixed.json, calibration.json and figures/ ({path.name}) are in {job.folder}",
    ):
        job.console.print(line, highlight=False, soft_wrap=True)
    return {
        "calibration/ECE": ours.corrected,
        "calibration/ECE-before": before.corrected,
        "calibration/Cllr": ours.cllr,
        "calibration/Cllr-before": before.cllr,
    }


def embedded(
    job: Job, trained: Trained, images: Part, evaluation: EvalConfig, space: FeatureSpace
) -> Embeddings:
    """The embeddings of a part."""
    log.info("embedding %s", images.describe())
    return embed(
        trained.model, images.store, trained.compute, normalise=space.feature_norm, flip=space.flip,
        cameras=evaluation.cameras, batch=evaluation.batch, progress=job.progress, what="images",
    )  # fmt: skip


def _measured(
    images: Embeddings, space: FeatureSpace, evaluation: EvalConfig, scorer: Scorer,
    settings: CalibrateConfig, shifted: bool,
) -> Reliability:  # fmt: skip
    scored = score_pairs(
        images, space.metric, evaluation.protocol, scorer, settings.prior, settings.seed, shifted
    )
    return reliability(scored, settings.bins, settings.replicates, settings.seed)


def table(measured: Mapping[str, Reliability], chosen: str, header: str, people: int) -> Table:
    """One row for each way to get probabilities."""
    shown = Table(title=header, title_justify="left", title_style="dim")
    one = next(iter(measured.values()))
    shown.caption = (
        f"ECE: expected calibration error, in bins of equal width; few pairs make it too large, and its bias "
        "over the bootstrap is taken off in the corrected one. Cllr: cost in bits, 1 of a score that says "
        f"nothing. 95 % intervals: {one.replicates:,} bootstrap replicates over {people:,} people. "
        f"{BEFORE.capitalize()} is (1 + cosine) / 2, or 1 - distance / the largest of features of any length"
    )
    shown.caption_justify = "left"
    shown.add_column("probability from")
    for name in ("ECE %", "corrected %", "Cllr"):
        shown.add_column(name, justify="right")
    for name, each in measured.items():
        low, high = (100 * end for end in each.ece_interval)
        shown.add_row(
            name + (" (chosen)" if name == chosen else ""),
            f"{100 * each.ece:.2f}",
            f"{100 * each.corrected:.2f} [{low:.2f}, {high:.2f}]",
            f"{each.cllr:.3f} [{each.cllr_interval.low:.3f}, {each.cllr_interval.high:.3f}]",
            style="bold" if name == chosen else None,
        )
    return shown


def draw(measured: Mapping[str, Reliability], prior: float, title: str) -> Figure:
    """The reliability diagrams, as a figure."""
    diagrams = [
        ReliabilityPoints(
            name,
            [one.predicted for one in each.bins],
            [one.observed for one in each.bins],
            [one.interval for one in each.bins],
            [one.mass for one in each.bins],
        )
        for name, each in measured.items()
    ]
    note = f"At a prior of {chance(prior)}; bars: 95 % intervals over people"
    return reliability_diagrams(diagrams, note=note, title=f"{title}: how far probabilities hold")


def _stored(
    settings: CalibrateConfig, space: FeatureSpace, evaluation: EvalConfig, fitted: Calibration,
    after: Reliability, before: Reliability, dataset: str, test: Part,
) -> StoredCalibration:  # fmt: skip
    return StoredCalibration(
        method=settings.method,
        distances=fitted.pooled.distances,
        llrs=fitted.pooled.llrs,
        pairs=tuple(
            StoredPair(cameras, pair.people, pair.weight, pair.curve.distances, pair.curve.llrs)
            for cameras, pair in sorted(fitted.pairs.items())
        ),
        prior=settings.prior,
        genuine_pairs=fitted.genuine,
        impostor_pairs=fitted.impostor,
        people=fitted.people,
        **asdict(space),
        protocol=evaluation.protocol,
        dataset=dataset,
        split=test.split,
        data_fingerprint=test.fingerprint,
        tested_people=test.people,
        ece=after.corrected,
        ece_interval=(*after.ece_interval,),
        ece_before=before.corrected,
        ece_before_interval=(*before.ece_interval,),
        cllr=after.cllr,
        cllr_interval=(*after.cllr_interval,),
    )


def run(job: Job) -> dict[str, float]:
    """The job of the command, from its composed config on."""
    return calibrate(job, calibrate_settings(job.config))
