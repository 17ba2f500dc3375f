"""The scores of a graph: what its features are worth on a test set, beside those of its model."""

from __future__ import annotations

from pathlib import Path

import torch

from reid.config.schema import EvalConfig
from reid.data.crops import Progress, silent
from reid.data.image_store import ImageStore
from reid.distance import normalise
from reid.engine.compute import Compute
from reid.export.graph import Graph
from reid.export.pixels import given
from reid.export.target import Target
from reid.judging.judge import Judgement, judge, score
from reid.models import ReidModel
from reid.retrieval import Embeddings

#: Images that pass the graph at once.
_AT_ONCE = 64


def judge_graph(
    path: Path,
    target: Target,
    query: ImageStore,
    gallery: ImageStore,
    evaluation: EvalConfig,
    progress: Progress = silent,
) -> Judgement:
    """The scores of a graph's features, on the suite's own pixels, as the evaluation settings ask."""
    graph = Graph(path)
    unit = evaluation.feature_norm or evaluation.metric == "cosine"
    query_features, gallery_features = (
        _embed(graph, target, store, unit, progress, what)
        for store, what in ((query, "query"), (gallery, "gallery"))
    )
    return score(query_features, gallery_features, evaluation)


def judge_model(
    model: ReidModel,
    query: ImageStore,
    gallery: ImageStore,
    evaluation: EvalConfig,
    progress: Progress = silent,
) -> Judgement:
    """The same of the model in PyTorch, on the CPU."""
    judgement = judge(model, query, gallery, evaluation, Compute(torch.device("cpu")), progress)
    assert judgement is not None  # one process judges alone
    return judgement


def _embed(
    graph: Graph, target: Target, store: ImageStore, unit: bool, progress: Progress, what: str
) -> Embeddings:
    steps = range(0, len(store), _AT_ONCE)
    parts = []
    for start in progress(steps, len(steps), f"embedding {what} by the graph"):
        images = store.read(torch.arange(start, min(start + _AT_ONCE, len(store))))
        parts.append(torch.from_numpy(graph(given(images, target))))
    features = torch.cat(parts)
    return Embeddings(normalise(features) if unit else features, store.pids, store.camids, store.tracklets)
