"""Judging embeddings: rankings and same-or-different, with their scores, as pure functions on tensors."""

from reid.retrieval.bootstrap import Interval, Intervals, bootstrap
from reid.retrieval.differences import Difference, Measured, difference, level
from reid.retrieval.embeddings import Embeddings
from reid.retrieval.evaluate import Scores, evaluate
from reid.retrieval.expansion import expand_queries
from reid.retrieval.pairs import PairCounts, count_pairs, hardest_pairs, pair_totals
from reid.retrieval.protocol import (
    EvaluationError,
    MatchCounts,
    NonFiniteFeaturesError,
    count_matches,
    require_matches,
)
from reid.retrieval.rerank import rerank, rerank_bytes
from reid.retrieval.tracklets import POOLINGS, junk, middle_frames, pool_tracklets
from reid.retrieval.verify import (
    TARGETS,
    OperatingPoint,
    Verification,
    require_pairs,
    verify,
    verify_counts,
)

__all__ = [
    "POOLINGS",
    "TARGETS",
    "Difference",
    "Embeddings",
    "EvaluationError",
    "Interval",
    "Intervals",
    "MatchCounts",
    "Measured",
    "NonFiniteFeaturesError",
    "OperatingPoint",
    "PairCounts",
    "Scores",
    "Verification",
    "bootstrap",
    "count_matches",
    "count_pairs",
    "difference",
    "evaluate",
    "expand_queries",
    "hardest_pairs",
    "junk",
    "level",
    "middle_frames",
    "pair_totals",
    "pool_tracklets",
    "require_matches",
    "require_pairs",
    "rerank",
    "rerank_bytes",
    "verify",
    "verify_counts",
]
