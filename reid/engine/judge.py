"""A model judged on a query and a gallery, as the evaluation settings ask."""

from dataclasses import dataclass

import torch

from reid.config import EvalConfig
from reid.data.crops import Progress, silent
from reid.data.store import ImageStore
from reid.engine.embed import embed
from reid.models import ReidModel
from reid.retrieval import Embeddings, Scores, evaluate


@dataclass(frozen=True)
class Judgement:
    """The scores and the embeddings that gave them."""

    scores: Scores
    query: Embeddings
    gallery: Embeddings


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
        EvaluationError: no query has a match under the protocol.
    """
    before = model.eval_feature
    model.eval_feature = settings.neck_feature
    normalise = settings.feature_norm or settings.metric == "cosine"

    def embeddings(store: ImageStore, what: str) -> Embeddings:
        return embed(
            model, store, device, normalise=normalise, batch=settings.batch, precision=precision,
            progress=progress, what=what,
        )  # fmt: skip

    judged_query, judged_gallery = embeddings(query, "query"), embeddings(gallery, "gallery")
    model.eval_feature = before
    scores = evaluate(judged_query, judged_gallery, protocol=settings.protocol)
    return Judgement(scores, judged_query, judged_gallery)


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
    return (
        f"{dataset}, {settings.split} split: feature {settings.neck_feature} the neck, {norm}, "
        f"{settings.metric} distance, {settings.protocol} protocol"
    )
