"""The scores that a checkpoint carries, with what they were measured on and how sure they are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reid.config.schema import EvalConfig
from reid.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from reid.judging.judge import Judgement
from reid.retrieval import Scores
from reid.retrieval.bootstrap import mean_intervals

#: The key of a checkpoint's `meta`.
KEY = "scores"
_RANKS = (1, 5, 10)


def stored_scores(
    judgement: Judgement, settings: EvalConfig, dataset: str, own: bool, data_fingerprint: str
) -> list[dict[str, Any]]:
    """The rows of one judgement, plain JSON: its scores, and those after re-ranking where it was asked for.

    dataset: the reader's name. own: whether the model was trained on other people of the same data.

    `intervals` holds 95 % intervals over people of all means over queries; with one person there is none.
    """
    rankings = {False: judgement.scores, True: judgement.reranked}
    return [
        {
            "dataset": dataset,
            "own": own,
            "split": settings.split,
            "protocol": settings.protocol,
            "reranked": reranked,
            "data_fingerprint": data_fingerprint,
            **({"pooled": settings.tracklet_pooling} if settings.tracklets else {}),
            **_row(scores, judgement.query.pids.cpu().numpy()),
            "gallery": len(judgement.gallery),
        }
        for reranked, scores in rankings.items()
        if scores is not None
    ]


def store_scores(
    source: Path, target: Path, rows: list[dict[str, Any]], more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write the checkpoint `source`, with these rows in it, to `target`, which may be the same file.

    more: further keys of its `meta`, such as its model of quality.

    A row takes the place of one of the same data, split, protocol, ranking and pooling of tracklets. Returns
    the new `meta`. Data of which only the reader is known (two folders) are the same where their pixels and
    labels are.

    Raises:
        CheckpointError: `source` cannot be read.
        OSError: `target` cannot be written; what was there before is untouched.
    """
    checkpoint = load_checkpoint(source)
    known = {_kind(row): row for row in [*checkpoint.meta.get(KEY, []), *rows]}
    meta = {**checkpoint.meta, KEY: list(known.values()), **(more or {})}
    save_checkpoint(target, Checkpoint(checkpoint.model, meta, checkpoint.training))
    return meta


def _kind(row: dict[str, Any]) -> tuple[object, ...]:
    data = "own" if row["own"] else row["data_fingerprint"]
    return data, row.get("pooled"), *(row[key] for key in ("dataset", "split", "protocol", "reranked"))


def _row(scores: Scores, pids: np.ndarray) -> dict[str, Any]:
    precision, first = scores.average_precision.numpy(), scores.first_match.numpy()
    valid = ~np.isnan(precision)
    by_query = {
        "mAP": precision[valid],
        **{f"rank-{k}": (first[valid] <= k).astype(np.float64) for k in _RANKS},
    }
    intervals = mean_intervals(by_query, pids[valid])
    values = {"mAP": scores.mAP, **{f"rank-{k}": scores.rank(k) for k in _RANKS}, "mINP": scores.mINP}
    return {
        "values": {name: _share(value) for name, value in values.items()},
        "intervals": {name: [_share(end) for end in interval] for name, interval in intervals.items()},
        "queries": scores.valid_queries,
        "people": len(np.unique(pids[valid])),
    }


def _share(value: float) -> float:
    """A mean of numbers from 0 to 1, which rounding may have put a bit beyond."""
    return min(max(value, 0.0), 1.0)
