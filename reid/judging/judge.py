"""A model judged on a query and a gallery, as the evaluation settings ask."""

from dataclasses import dataclass, replace

import torch

from reid.config.schema import EvalConfig
from reid.data.crops import Progress, silent
from reid.data.store import ImageStore
from reid.engine.distributed import ALONE, World
from reid.engine.finite import DivergedError
from reid.engine.runtime import free_bytes, work_bytes
from reid.judging.embed import embed
from reid.models import ReidModel
from reid.people import DISTRACTOR
from reid.retrieval import (
    Embeddings,
    EvaluationError,
    NonFiniteFeaturesError,
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
    """The scores and the embeddings that gave them; `reranked` are the scores after re-ranking, if asked."""

    scores: Scores
    query: Embeddings
    gallery: Embeddings
    reranked: Scores | None = None


def judge(
    model: ReidModel,
    query: ImageStore,
    gallery: ImageStore,
    settings: EvalConfig,
    device: torch.device,
    precision: str = "float32",
    progress: Progress = silent,
) -> Judgement:
    """Embed both, rank, score.

    Raises:
        EvaluationError: no query has a match under the protocol, or re-ranking would not fit the memory.
    """
    return rank(*_embed_both(model, query, gallery, settings, device, precision, progress, ALONE), settings)


def judge_together(
    model: ReidModel,
    query: ImageStore,
    gallery: ImageStore,
    settings: EvalConfig,
    device: torch.device,
    precision: str,
    progress: Progress,
    world: World,
) -> Judgement | None:
    """The same by all ranks: each embeds its share of the images, the first ranks and has the judgement.

    Raises:
        EvaluationError: as above.
        DivergedError: features are not finite.
    """
    try:
        embedded = _embed_both(model, query, gallery, settings, device, precision, progress, world)
    except NonFiniteFeaturesError as error:
        raise DivergedError(f"{error} A training resumed from here ends here again:") from error
    return rank(*embedded, settings) if world.first else None


def _embed_both(
    model: ReidModel,
    query: ImageStore,
    gallery: ImageStore,
    settings: EvalConfig,
    device: torch.device,
    precision: str,
    progress: Progress,
    world: World,
) -> tuple[Embeddings, Embeddings]:
    """Query and gallery as the evaluation settings ask, embedded by all ranks together with the first one's
    batch norm statistics.

    Raises:
        EvaluationError: re-ranking would not fit the memory.
    """
    check_memory(len(query), len(gallery), model.backbone.channels, settings, device)
    world.copy_first(model.buffers())
    normalise = settings.feature_norm or settings.metric == "cosine"

    def embeddings(store: ImageStore, what: str) -> Embeddings:
        return embed(
            model, store, device, normalise=normalise, flip=settings.flip, batch=settings.batch,
            precision=precision, progress=progress, what=what, world=world,
        )  # fmt: skip

    before = model.eval_feature
    model.eval_feature = settings.neck_feature
    try:
        return embeddings(query, "query"), embeddings(gallery, "gallery")
    finally:
        model.eval_feature = before


def rank(query: Embeddings, gallery: Embeddings, settings: EvalConfig) -> Judgement:
    """Scores of embeddings as the settings ask: queries expanded, re-ranked beside the plain ranking.

    Raises:
        EvaluationError: no query has a match under the protocol.
    """
    if settings.query_expansion:
        expanded = expand_queries(query.features, gallery.features, settings.query_expansion)
        query = replace(query, features=expanded)
        if settings.feature_norm or settings.metric == "cosine":
            query = query.normalised()
    device = query.features.device

    def scores_by(distance: torch.Tensor | None) -> Scores:
        work = work_bytes(device, EVALUATE_BYTES)
        return evaluate(
            query, gallery, distance=distance, protocol=settings.protocol, chunk_bytes=work,
            distractor=DISTRACTOR,
        )  # fmt: skip

    scores = scores_by(None)
    if not settings.rerank:
        return Judgement(scores, query, gallery)
    distance = rerank(
        query.features, gallery.features, settings.rerank_k1, settings.rerank_k2, settings.rerank_lambda,
        work_bytes(device, RERANK_BYTES),
    )  # fmt: skip
    reranked = scores_by(distance)
    return Judgement(scores, query, gallery, reranked)


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
    """All scores of a judgement; the re-ranked ones as `<name>/rerank/mAP`, … beside `<name>/mAP`, …"""
    values = score_values(name, judgement.scores)
    if judgement.reranked is not None:
        values |= score_values(f"{name}/rerank", judgement.reranked)
    return values


def judged_rows(name: str, judgement: Judgement, settings: EvalConfig) -> dict[str, Scores]:
    """The rows of a score table for one judgement."""
    rows = {name: judgement.scores}
    if judgement.reranked is not None:
        how = f"k1 {settings.rerank_k1}, k2 {settings.rerank_k2}, lambda {settings.rerank_lambda:g}"
        rows[f"{name}, re-ranked ({how})"] = judgement.reranked
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
    norm = "L2-normalised" if settings.feature_norm or settings.metric == "cosine" else "raw"
    mirrored = ", mean with the mirror image" if settings.flip else ""
    expanded = (
        f", queries expanded by their {settings.query_expansion} nearest" if settings.query_expansion else ""
    )
    return (
        f"{dataset}, {settings.split} split: feature {settings.neck_feature} the neck{mirrored}, {norm}"
        f"{expanded}, {settings.metric} distance, {settings.protocol} protocol"
    )
