"""A model judged on a query and a gallery, as the evaluation settings ask."""

from dataclasses import dataclass, replace

import torch

from reid.config.schema import EvalConfig
from reid.data.crops import Progress, silent
from reid.data.image_store import ImageStore
from reid.engine.compute import Compute, free_bytes, work_bytes
from reid.judging.embed import embed_as, normalises
from reid.models import ReidModel
from reid.people import DISTRACTOR
from reid.retrieval import (
    Embeddings,
    EvaluationError,
    Scores,
    evaluate,
    expand_queries,
    rerank,
    rerank_bytes,
)
from reid.retrieval.evaluate import CHUNK_BYTES as EVALUATE_BYTES
from reid.retrieval.rerank import CHUNK_BYTES as RERANK_BYTES


@dataclass(frozen=True)
class Judgement:
    """The scores and the embeddings that gave them; `reranked` are the scores after re-ranking, if asked.

    `raw` are those of the weights themselves, where an average of them is judged.  `without_camids` are those
    of a model that has learnt cameras, where it does not know which of them saw an image.
    """

    scores: Scores
    query: Embeddings
    gallery: Embeddings
    reranked: Scores | None = None
    raw: Scores | None = None
    without_camids: Scores | None = None


def judge(
    model: ReidModel,
    query: ImageStore,
    gallery: ImageStore,
    settings: EvalConfig,
    compute: Compute,
    progress: Progress = silent,
) -> Judgement | None:
    """Embed both, rank, score; by tracklet where `eval.tracklets` says so: then the rows are tracklets.

    Several processes each embed a share of the images, with the batch norm statistics of the first one. That
    one ranks and has the judgement; the others get None.

    Raises:
        EvaluationError: no query has a match under the protocol, or re-ranking would not fit the memory;
            NonFiniteFeaturesError, which is one, is raised in every process.
    """
    check_memory(len(query), len(gallery), model.embedding_size, settings, compute.device)
    compute.processes.broadcast_tensors(model.buffers())
    eval_feature = model.eval_feature
    model.eval_feature = settings.neck_feature
    try:
        found = [
            embed_as(model, store, compute, settings, progress=progress, what=what)
            for store, what in ((query, "query"), (gallery, "gallery"))
        ]
    finally:
        model.eval_feature = eval_feature
    return score(found[0], found[1], settings) if compute.processes.first else None


def score(query: Embeddings, gallery: Embeddings, settings: EvalConfig) -> Judgement:
    """Scores of embeddings as the settings ask: queries expanded, re-ranked beside the plain ranking.

    Raises:
        EvaluationError: no query has a match under the protocol.
    """
    if settings.query_expansion:
        expanded = expand_queries(query.features, gallery.features, settings.query_expansion)
        query = replace(query, features=expanded)
        if normalises(settings):
            query = query.normalised()
    plain = _scores(query, gallery, settings)
    if not settings.rerank:
        return Judgement(plain, query, gallery)
    distance = rerank(
        query.features, gallery.features, settings.rerank_k1, settings.rerank_k2, settings.rerank_lambda,
        work_bytes(query.features.device, RERANK_BYTES),
    )  # fmt: skip
    return Judgement(plain, query, gallery, _scores(query, gallery, settings, distance))


def _scores(
    query: Embeddings, gallery: Embeddings, settings: EvalConfig, distance: torch.Tensor | None = None
) -> Scores:
    work = work_bytes(query.features.device, EVALUATE_BYTES)
    return evaluate(
        query, gallery, distance=distance, protocol=settings.protocol, chunk_bytes=work, distractor=DISTRACTOR
    )


def check_memory(
    queries: int, gallery: int, dimensions: int, settings: EvalConfig, device: torch.device
) -> None:
    """Refuse a re-ranking that cannot fit, before anything is computed for it.

    Raises:
        EvaluationError: with what it needs, what is free, and what to lower.
    """
    if not settings.rerank:
        return
    needed = rerank_bytes(
        queries, gallery, dimensions, settings.rerank_k1, settings.rerank_k2,
        chunk_bytes=work_bytes(device, RERANK_BYTES),
    )  # fmt: skip
    free = free_bytes(device)
    if needed > free:
        raise EvaluationError(
            f"eval.rerank needs about {needed / 2**30:.1f} GiB for {queries:,} queries in a gallery of "
            f"{gallery:,}, {queries * gallery * 4 / 2**30:.1f} of them for the distances; {device} has "
            f"{free / 2**30:.1f} free. Set eval.rerank=false, lower eval.rerank_k1="
            f"{settings.rerank_k1}, or take a device with more memory"
        )


def judged_values(name: str, judgement: Judgement) -> dict[str, float]:
    """All scores of a judgement, as `<name>/mAP`, …

    The re-ranked ones are `<name>/rerank/mAP`, …, those of the raw weights `<name>/raw/mAP`, …, those without
    camids `<name>/without_camids/mAP`, …
    """
    values = score_values(name, judgement.scores)
    for kind, scores in (
        ("rerank", judgement.reranked), ("raw", judgement.raw), ("without_camids", judgement.without_camids),
    ):  # fmt: skip
        if scores is not None:
            values |= score_values(f"{name}/{kind}", scores)
    return values


def judged_rows(name: str, judgement: Judgement, settings: EvalConfig) -> dict[str, Scores]:
    """The rows of a score table for one judgement."""
    rows = {name: judgement.scores}
    if judgement.reranked is not None:
        how = f"k1 {settings.rerank_k1}, k2 {settings.rerank_k2}, lambda {settings.rerank_lambda:g}"
        rows[f"{name}, re-ranked ({how})"] = judgement.reranked
    if judgement.raw is not None:
        rows[f"{name}, raw weights"] = judgement.raw
    if judgement.without_camids is not None:
        rows[f"{name}, without camids"] = judgement.without_camids
    return rows


def score_values(split: str, scores: Scores) -> dict[str, float]:
    """Scores under the names that the tracker shows: `test/mAP`, `test/rank-1`, …"""
    ranks = {f"{split}/rank-{k}": scores.rank(k) for k in (1, 5, 10)}
    return {
        f"{split}/mAP": scores.mAP,
        **ranks,
        f"{split}/mINP": scores.mINP,
        f"{split}/valid_queries": float(scores.valid_queries),
    }


def describe(settings: EvalConfig, dataset: str) -> str:
    """How a score was computed, for the head of its table."""
    norm = "L2-normalised" if normalises(settings) else "raw"
    mirrored = ", mean with the mirror image" if settings.flip else ""
    mirrored += "" if settings.cameras else ", without camids"
    mirrored += f", {settings.tracklet_pooling} of each tracklet" if settings.tracklets else ""
    expanded = (
        f", queries expanded by their {settings.query_expansion} nearest" if settings.query_expansion else ""
    )
    return (
        f"{dataset}, {settings.split} split: feature {settings.neck_feature} the neck{mirrored}, {norm}"
        f"{expanded}, {settings.metric} distance, {settings.protocol} protocol"
    )
