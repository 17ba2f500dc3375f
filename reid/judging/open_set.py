"""Who is enrolled, who is a stranger, and what a model makes of them: open-set rates of its embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from reid.config.schema import EvalConfig
from reid.data.crops import Progress, silent
from reid.data.image_store import ImageStore
from reid.distance import squared_norms
from reid.engine.compute import Compute
from reid.judging.embed import embed
from reid.judging.stored_threshold import FeatureSpace, feature_space
from reid.models import ReidModel
from reid.people import is_person
from reid.retrieval import Embeddings, EvaluationError, OpenSetIntervals, Outcomes, Searches, SizeRow
from reid.retrieval.bootstrap import Interval
from reid.retrieval.open_set import (
    FPIR_TARGETS,
    by_gallery_size,
    dir_at_fpir,
    enough_strangers,
    false_match_rate,
    fnir,
    fpir,
    open_set_intervals,
    outcomes,
    search,
    threshold_for,
)

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

#: Sizes of galleries that are measured, where there are as many people.
SIZES = (10, 20, 50, 100, 200, 500, 1000)
#: Of the test people of `eval.open_set`, who are divided at random by this seed.
SHARE, SEED = 0.5, 0
SMALLEST_WEIGHT = 1e-6


@dataclass(frozen=True, eq=False)
class Roles:
    """Rows of images: whose crops are enrolled, and which are probes.

    probe: for each row of `probes` the number of its probe; several crops of one person by one camera may
    make one.
    """

    enrolled: Ints
    probes: Ints
    probe: Ints


def divide_people(pids: Ints, gallery: Bools, seed: int) -> tuple[Bools, Bools]:
    """Two halves of the people (N,), drawn at random: one to fix a threshold on, one to test it.

    Those with crops in the gallery, those without, and images of pid 0, each a person of its own, are halved
    apart.
    """
    own = np.where(is_person(pids), pids, -1 - np.arange(len(pids)))
    known = np.unique(own[gallery & is_person(pids)])
    generator = np.random.default_rng(seed)
    first: set[int] = set()
    others = np.setdiff1d(own, known)
    for people in (known, others[is_person(others)], others[~is_person(others)]):
        first |= set(generator.permutation(people)[: -(-len(people) // 2)].tolist())
    half = np.isin(own, list(first))
    return half, ~half


def roles(
    pids: Ints,
    camids: Ints,
    gallery: Bools,
    *,
    share: float | None = SHARE,
    most: int | None = None,
    together: int = 1,
    seed: int = SEED,
) -> Roles:
    """Who is enrolled and who is looked for, of images (N,) with these pids and cameras.

    A share of the people who have crops both in the gallery and outside of it is enrolled, drawn at random:
    their crops in the gallery are enrolled, the others are probes. Everybody else is a stranger, all of whose
    crops are probes. With `share` None all who have crops in the gallery are enrolled, and crops outside of
    it are the probes. Distractors (pid 0) are enrolled by nobody; outside of the gallery each is a stranger.

    Args:
        gallery: (N,) which images may be enrolled.
        most: crops of an enrolled person, drawn at random; None for all.
        together: crops of one person by one camera that make one probe.

    Raises:
        EvaluationError: nobody would be enrolled, or nobody a stranger.
    """
    generator = np.random.default_rng(seed)
    person = is_person(pids)
    inside, outside = np.unique(pids[gallery & person]), np.unique(pids[~gallery & person])
    if share is None:
        chosen = inside
        strange = ~gallery & ~np.isin(pids, chosen)
    else:
        fit = np.intersect1d(inside, outside)
        everybody = len(np.union1d(inside, outside))
        count = min(max(1, round(share * len(fit))), everybody - 1)
        chosen = np.sort(generator.permutation(fit)[:count])
        strange = person & ~np.isin(pids, chosen)
        strange |= ~person & ~gallery
    known = np.isin(pids, chosen)
    enrolled = np.flatnonzero(known & gallery)
    if most is not None:
        enrolled = np.sort(np.concatenate(
            [generator.permutation(enrolled[pids[enrolled] == pid])[:most] for pid in chosen]
            or [enrolled]
        ))  # fmt: skip
    probes = np.flatnonzero(strange | (known & ~gallery))
    if not len(enrolled) or not strange.any() or not (known & ~gallery).any():
        lacking = "is enrolled" if not len(enrolled) else "is a stranger"
        if len(enrolled) and strange.any():
            lacking = "who is enrolled has another crop to be found by"
        raise EvaluationError(
            f"of {len(np.unique(pids[person])):,} people nobody {lacking}: an open-set search needs people "
            "with crops both enrolled and to be looked for, and strangers. Give more people"
        )
    return Roles(enrolled, probes, _probe_numbers(pids[probes], camids[probes], together))


def _probe_numbers(pids: Ints, camids: Ints, together: int) -> Ints:
    """Probes of up to `together` crops of one person by one camera, in their order; of pid 0 one each."""
    numbers = np.empty(len(pids), np.int64)
    open_probes: dict[tuple[int, int], tuple[int, int]] = {}
    following = 0
    for place, key in enumerate(zip(pids.tolist(), camids.tolist(), strict=True)):
        number, count = open_probes.get(key, (-1, together))
        if count >= together or not is_person(key[0]):
            number, count, following = following, 0, following + 1
        open_probes[key] = number, count + 1
        numbers[place] = number
    return numbers


@dataclass(frozen=True, eq=False)
class WeighedImages:
    """Embeddings of images, and how much each crop counts among several of its person, (N,)."""

    images: Embeddings
    weights: Tensor

    def select(self, rows: Ints) -> WeighedImages:
        chosen = torch.from_numpy(rows).to(self.weights.device)
        return WeighedImages(self.images.select(chosen), self.weights[chosen])


def embed_weighed(
    model: ReidModel,
    store: ImageStore,
    compute: Compute,
    settings: EvalConfig,
    progress: Progress = silent,
    what: str = "images",
) -> WeighedImages:
    """The embeddings of a store as the settings ask, each crop with its weight."""
    raw = embed(
        model, store, compute, normalise=False, flip=settings.flip, cameras=settings.cameras,
        batch=settings.batch, progress=progress, what=what,
    )  # fmt: skip
    images = raw.normalised() if feature_space(settings).feature_norm else raw
    return WeighedImages(images, crop_weights(raw.features))


def crop_weights(features: Tensor) -> Tensor:
    """How much each crop counts in fusion=quality, (N,) above 0.

    features: (N, D) as the network gives them. Their L2 norm is small where the network recognises little.
    Another score of the quality of a crop takes its place here.
    """
    return squared_norms(features).sqrt().clamp(min=SMALLEST_WEIGHT)


def searches(found: WeighedImages, part: Roles, space: FeatureSpace, fusion: str, protocol: str) -> Searches:
    """The searches of these roles among embedded images, the crops of a person fused so."""
    enrolled, probes = found.select(part.enrolled), found.select(part.probes)
    return search(
        enrolled.images, probes.images, torch.from_numpy(part.probe).to(probes.weights.device),
        metric=space.metric, unit=space.feature_norm, fusion=fusion, protocol=protocol,
        enrolled_weights=enrolled.weights, probe_weights=probes.weights,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class OpenSetScores:
    """What a threshold does on people that it was not fixed on, or DIR at FPIRs chosen on these very people.

    `dir_at` is by name of the target, for those that there are enough strangers for. `fpir` and `dir` belong
    to `threshold`, `sizes` to it and to the `wanted` FPIR.
    """

    threshold: float
    wanted: float
    fpir: float
    dir: float
    dir_at: dict[str, float]
    false_match_rate: float
    found: Outcomes
    sure: OpenSetIntervals
    sizes: list[SizeRow]

    @property
    def stranger_searches(self) -> int:
        return len(self.found.stranger)


def open_set_scores(
    done: Searches,
    threshold: float | None,
    target: str,
    sizes: Sequence[int] = SIZES,
    draws: int = 20,
    replicates: int = 1000,
    seed: int = SEED,
) -> OpenSetScores:
    """The rates of searches at a threshold; with None at the one for `target` on these very people.

    Raises:
        EvaluationError: no strangers, or too few for the target.
    """
    found, wanted = outcomes(done), FPIR_TARGETS[target]
    limit = threshold_for(found, wanted) if threshold is None else threshold
    every = [*{*sizes, len(done.pids)}]
    return OpenSetScores(
        threshold=limit,
        wanted=wanted,
        fpir=float(fpir(found, limit)),
        dir=1 - float(fnir(found, limit)),
        dir_at={
            name: dir_at_fpir(found, rate)
            for name, rate in FPIR_TARGETS.items()
            if enough_strangers(rate, len(found.stranger))
        },
        false_match_rate=false_match_rate(done, limit),
        found=found,
        sure=open_set_intervals(found, limit, list(FPIR_TARGETS.values()), replicates, seed),
        sizes=by_gallery_size(done, every, limit, wanted, draws, replicates, seed),
    )


def judged_open_set(query: Embeddings, gallery: Embeddings, settings: EvalConfig) -> OpenSetScores:
    """The open-set scores of a judged query and gallery, for `eval.open_set`.

    Half of the people are enrolled with their gallery crops, drawn at random by a fixed seed; the others are
    strangers with all their crops. The threshold is that of an FPIR of 1e-2, or of 1e-1 where there are too
    few strangers, on these very people.

    Raises:
        EvaluationError: too few people.
    """
    pids = torch.cat([query.pids, gallery.pids]).cpu().numpy()
    camids = torch.cat([query.camids, gallery.camids]).cpu().numpy()
    features = torch.cat([query.features, gallery.features])
    inside = np.arange(len(pids)) >= len(query)
    part = roles(pids, camids, inside)
    images = Embeddings(features, torch.from_numpy(pids).to(features.device),
                        torch.from_numpy(camids).to(features.device))  # fmt: skip
    weighed = WeighedImages(images, torch.ones(len(pids), device=features.device))
    done = searches(weighed, part, feature_space(settings), "best", settings.protocol)
    strangers = int(done.strangers.sum())
    target = "fpir_1e-2" if enough_strangers(FPIR_TARGETS["fpir_1e-2"], strangers) else "fpir_1e-1"
    return open_set_scores(done, None, target)


def open_set_values(scores: OpenSetScores) -> dict[str, float]:
    """The scores by name, as fractions: `DIR-at-FPIR-1e-2`, …"""
    return {_name(target): value for target, value in sorted(scores.dir_at.items())}


def value_intervals(scores: OpenSetScores) -> dict[str, Interval]:
    """The 95 % intervals of `open_set_values`, over people."""
    return {_name(target): scores.sure.dir_at[FPIR_TARGETS[target]] for target in sorted(scores.dir_at)}


def _name(target: str) -> str:
    return f"DIR-at-FPIR-{target.removeprefix('fpir_')}"
