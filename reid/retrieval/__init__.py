"""Judging embeddings: ranking and its scores, as pure functions on tensors."""

from reid.retrieval.embeddings import Embeddings
from reid.retrieval.evaluate import Scores, evaluate
from reid.retrieval.expansion import expand_queries
from reid.retrieval.protocol import EvaluationError, MatchCounts, count_matches, require_matches
from reid.retrieval.rerank import rerank, rerank_bytes

__all__ = [
    "Embeddings",
    "EvaluationError",
    "MatchCounts",
    "Scores",
    "count_matches",
    "evaluate",
    "expand_queries",
    "require_matches",
    "rerank",
    "rerank_bytes",
]
