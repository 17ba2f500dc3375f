"""Several models or features as one: the sum of their likelihood ratios, beside each of them alone.

On the calibration people each model's distances are calibrated and the weights of the sum are fitted; both
are written down before the test people are embedded. Gains and losses are of the same test people, so their
intervals are of the difference.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from reid.commands.calibrate import embedded
from reid.commands.held_out import HeldOut, Trained, evaluation_of, open_held_out, open_trained
from reid.config.checks import ConfigError
from reid.config.schema import EvalConfig, FuseConfig
from reid.config.settings import fuse_settings
from reid.engine.checkpoint_source import trained_dataset
from reid.engine.compute import Compute
from reid.jobs.job import Job
from reid.judging.stored_threshold import FeatureSpace
from reid.people import DISTRACTOR
from reid.retrieval import Embeddings, Measured, difference, evaluate
from reid.retrieval.bootstrap import Interval, interval
from reid.retrieval.calibration import Scorer, rates, replicated, score_pairs
from reid.retrieval.fusion import Fusion, alone, fit_fusion, fused, fused_distances
from reid.retrieval.verify import FAR_TARGETS, Floats, equal_error_rate, measurable
from reid.terminal import Table
from reid.tracking.journal import replace_text

log = logging.getLogger(__name__)

FUSED = "fused"


@dataclass(frozen=True, eq=False)
class Member:
    """One of the models, with the space that its features are compared in."""

    label: str
    trained: Trained
    evaluation: EvalConfig
    space: FeatureSpace
    held_out: HeldOut

    def embedded(self, job: Job, test: bool) -> Embeddings:
        """The calibration people, or those of the test."""
        self.trained.model.eval_feature = self.space.neck_feature
        part = self.held_out.test if test else self.held_out.calibration
        return embedded(job, self.trained, part, self.evaluation, self.space)


def fuse(job: Job, settings: FuseConfig) -> dict[str, float]:
    """Error rates and scores (fractions) of models alone and fused; writes fixed.json and fusion.json."""
    compute = Compute.set_up(settings.device, settings.precision)
    members = _members(job, settings, compute)
    protocol, metrics = members[0].evaluation.protocol, [member.space.metric for member in members]

    first = [member.embedded(job, test=False) for member in members]
    fusion = fit_fusion(first, metrics, protocol, settings.seed)
    record: dict[str, Any] = {
        "models": [
            {"label": member.label, "checkpoint": model["checkpoint"], "space": asdict(member.space)}
            for member, model in zip(members, settings.models, strict=True)
        ],
        "seed": settings.seed,
        "fixed": asdict(fusion),
    }
    replace_text(job.folder / "fixed.json", json.dumps(record, indent=2) + "\n")
    calibration = members[0].held_out.calibration
    log.info(
        "fixed: weights %s on %d people (%s of %s); written to fixed.json",
        ", ".join(f"{one.label} {weight:.3f}" for one, weight in zip(members, fusion.weights, strict=True)),
        calibration.people, calibration.split, members[0].held_out.measured_on,
    )  # fmt: skip

    second = [member.embedded(job, test=True) for member in members]
    test = members[0].held_out.test
    scorers = {member.label: alone(fusion, number, second) for number, member in enumerate(members)} | {
        FUSED: fused(fusion, second)
    }
    pairs = {
        name: _pair_measures(scorer, second[0], metrics[0], protocol, settings)
        for name, scorer in scorers.items()
    }
    ranked = _rankings(fusion, members, second, test.gallery, protocol)
    log.info("tested: on %d other people (%s)", test.people, test.split)

    gains = {
        member.label: _gains(pairs[FUSED], pairs[member.label], ranked[FUSED], ranked[member.label], settings)
        for member in members
    }
    record["tested"] = {
        "people": test.people,
        "split": test.split,
        "scores": {name: {**pairs[name].values, "mAP": float(ranked[name].scores[0])} for name in scorers},
        "gains": gains,
    }
    (job.folder / "fusion.json").write_text(json.dumps(record, indent=2) + "\n")
    header = (
        f"{members[0].held_out.measured_on}: weights fitted on {calibration.people:,} people, tested on "
        f"{test.people:,} others, {protocol} protocol"
    )
    job.console.print(_table(record["tested"], members, fusion, header))
    job.console.print(f"fixed.json and fusion.json are in {job.folder}", highlight=False, soft_wrap=True)
    return {
        f"{name}/{measure}": value
        for name, values in record["tested"]["scores"].items()
        for measure, value in values.items()
    }


def _members(job: Job, settings: FuseConfig, compute: Compute) -> list[Member]:
    """Every model with the same people, who none of them was trained on.

    Raises:
        ConfigError: one cannot read an image that another can.
    """
    members: list[Member] = []
    for model in settings.models:
        trained = open_trained(job, settings, model["checkpoint"], None, compute, stored=False)
        if settings.dataset is None:  # all are judged on the data of the first
            settings = replace(settings, dataset=trained_dataset(trained.checkpoint))
        evaluation = replace(
            evaluation_of(trained, settings, job),
            **{key: value for key, value in model.items() if key not in ("checkpoint", "label")},
        )
        held_out = open_held_out(job, settings, trained, evaluation)
        evaluation = held_out.evaluation
        space = trained.space(evaluation, settings.precision)
        members.append(Member(model["label"], trained, evaluation, space, held_out))
        first, ours = (
            [crop.path for part in (one.calibration, one.test) for crop in part.store.crops]
            for one in (members[0].held_out, held_out)
        )
        protocols = members[0].evaluation.protocol, evaluation.protocol
        if first != ours or protocols[0] != protocols[1]:
            raise ConfigError(
                f"models: {members[0].label} and {model['label']} do not judge the same images by the same "
                f"protocol ({len(first):,} by {protocols[0]}, {len(ours):,} by {protocols[1]}). Set "
                "eval.split=test, eval.protocol=… and one seed for all"
            )
    return members


@dataclass(frozen=True, eq=False)
class PairMeasures:
    """Of all pairs: the values, by name, and those of each replicate of the people, (B,)."""

    values: dict[str, float]
    replicates: dict[str, Floats]


def _pair_measures(
    scorer: Scorer, images: Embeddings, metric: str, protocol: str, settings: FuseConfig
) -> PairMeasures:
    scored = score_pairs(images, metric, protocol, scorer, 0.5, settings.seed)
    one, two = scored.totals
    drawn = replicated(scored, settings.replicates, settings.seed)

    def measures(own: Floats, others: Floats) -> dict[str, Floats]:
        far, tar = rates(own, others)
        found = {"EER": np.array([equal_error_rate(*curve) for curve in zip(far, tar, strict=True)])}
        for name, wanted in FAR_TARGETS.items():
            if measurable(wanted, int(two.sum())):
                curves = zip(far, tar, strict=True)
                found[f"TAR@FAR-{name.removeprefix('far_')}"] = np.array(
                    [np.interp(wanted, *curve) for curve in curves]
                )
        costs = [
            (kind / kind.sum(axis=1, keepdims=True)) @ scored.cost[number]
            for number, kind in enumerate((own, others))
        ]
        found["Cllr"] = (costs[0] + costs[1]) / 2
        return found

    values = {name: float(value[0]) for name, value in measures(one[None], two[None]).items()}
    return PairMeasures(values, measures(*drawn))


def _rankings(
    fusion: Fusion, members: list[Member], images: list[Embeddings], gallery: np.ndarray, protocol: str
) -> dict[str, Measured]:
    """mAP and average precisions of each model and of the fusion; queries are who is not in the gallery."""
    inside = torch.from_numpy(gallery)
    query = [one.to("cpu").select(~inside) for one in images]
    found = [one.to("cpu").select(inside) for one in images]
    weighed = {
        member.label: replace(fusion, weights=tuple(float(place == number) for place in range(len(members))))
        for number, member in enumerate(members)
    } | {FUSED: fusion}
    ranked = {}
    for name, one in weighed.items():
        distance = fused_distances(one, query, found)
        scores = evaluate(query[0], found[0], distance=distance, protocol=protocol, distractor=DISTRACTOR)
        valid = ~torch.isnan(scores.average_precision)
        ranked[name] = Measured(
            np.array([scores.mAP]),
            scores.average_precision[valid].numpy()[None],
            query[0].pids[valid].numpy(),
        )
    return ranked


def _gains(
    ours: PairMeasures, other: PairMeasures, ranked: Measured, alone: Measured, settings: FuseConfig
) -> dict[str, dict[str, Any]]:
    """The fusion less one model, with the 95 % interval of the difference over people."""
    gains: dict[str, dict[str, Any]] = {}
    for name, value in ours.values.items():
        ends = interval(ours.replicates[name] - other.replicates[name])
        gains[name] = {"difference": value - other.values[name], "interval": [*ends]}
    found = difference(ranked, alone, settings.replicates, settings.seed)
    ends = found.interval if found.people else Interval(float("nan"), float("nan"))
    gains["mAP"] = {
        "difference": found.value,
        "interval": [end if end == end else None for end in ends],
    }
    return gains


def _table(tested: dict[str, Any], members: list[Member], fusion: Fusion, header: str) -> Table:
    shown = Table(title=header, title_justify="left", title_style="dim")
    shown.caption = (
        "In brackets: 95 % interval over people of the fusion less this model. Lower EER and Cllr, and "
        "higher TAR and mAP, are better"
    )
    shown.caption_justify = "left"
    measures = list(tested["scores"][FUSED])
    shown.add_column("model")
    shown.add_column("weight", justify="right")
    for measure in measures:
        shown.add_column(measure if measure == "Cllr" else f"{measure} %", justify="right")
    weights = [*(f"{weight:.3f}" for weight in fusion.weights), ""]
    for name, weight in zip([*(member.label for member in members), FUSED], weights, strict=True):
        cells = []
        for measure in measures:
            scale, digits = (1, 3) if measure == "Cllr" else (100, 1)
            text = f"{scale * tested['scores'][name][measure]:.{digits}f}"
            if name != FUSED:
                ends = tested["gains"][name][measure]["interval"]
                shown_ends = ["-" if end is None else f"{scale * end:+.{digits}f}" for end in ends]
                text += f" [{', '.join(shown_ends)}]"
            cells.append(text)
        shown.add_row(name, weight, *cells, style="bold" if name == FUSED else None)
    return shown


def run(job: Job) -> dict[str, float]:
    """The job of the command, from its composed config on."""
    return fuse(job, fuse_settings(job.config))
