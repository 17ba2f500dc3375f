"""The scores of single queries, which tell the noise of a mean: `queries.csv` of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:  # what judges takes seconds to import, and a report reads tables only
    from reid.judging.judge import Judgement
    from reid.retrieval import Embeddings, Scores

#: In the folder of a run, and among its artifacts.
QUERIES = "queries.csv"


def query_table(judgements: Mapping[str, Judgement]) -> pd.DataFrame:
    """One row for each valid query of each judgement, by the name under which its scores are tracked.

    Columns: name (`test`; `test/rerank` for the re-ranked ranking of the same query), query (its place in the
    query set, from 0), pid, camid, average_precision, first_match (rank of the first match, from 1).  So the
    mean of average_precision is `<name>/mAP`, and the share of first_match 1 is `<name>/rank-1`.
    """
    tables = []
    for name, judgement in judgements.items():
        tables.append(_rows(name, judgement.scores, judgement.query))
        if judgement.reranked is not None:
            tables.append(_rows(f"{name}/rerank", judgement.reranked, judgement.query))
    return pd.concat(tables, ignore_index=True)


def query_csv(judgements: Mapping[str, Judgement]) -> str:
    """`query_table` as the text of a file, exact to the last bit."""
    return str(query_table(judgements).to_csv(index=False, float_format="%.17g"))


def _rows(name: str, scores: Scores, query: Embeddings) -> pd.DataFrame:
    precision = scores.average_precision.numpy()
    valid = np.flatnonzero(~np.isnan(precision))
    return pd.DataFrame(
        {
            "name": name,
            "query": valid,
            "pid": query.pids.cpu().numpy()[valid],
            "camid": query.camids.cpu().numpy()[valid],
            "average_precision": precision[valid],
            "first_match": scores.first_match.numpy()[valid],
        }
    )
