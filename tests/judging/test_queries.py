"""The scores of single queries add up to those of the run."""

import io

import numpy as np
import pandas as pd
import pytest
import torch

from reid.config.schema import EvalConfig
from reid.judging.judge import judged_values, score
from reid.judging.queries import query_csv, query_table
from reid.retrieval import Embeddings


def images(count: int, seed: int, pids: int = 8) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)
    people = torch.arange(count) % pids + 1
    features = torch.randn(count, 6, generator=generator) + people[:, None] / 4
    return Embeddings(features, people, torch.arange(count) // pids % 3).normalised()


def test_the_table_gives_the_tracked_scores_back() -> None:
    query = images(30, 0, pids=9)  # the ninth has no match
    judgement = score(query, images(60, 1), EvalConfig(rerank=True, rerank_k1=6, rerank_k2=3))
    scores = judged_values("test", judgement)
    table = pd.read_csv(io.StringIO(query_csv({"test": judgement})))
    pd.testing.assert_frame_equal(table, query_table({"test": judgement}), rtol=1e-12)
    assert list(table["name"].unique()) == ["test", "test/rerank"]
    for name, rows in table.groupby("name"):
        assert len(rows) == scores["test/valid_queries"] == 27
        assert rows["average_precision"].mean() == pytest.approx(scores[f"{name}/mAP"], abs=1e-12)
        assert (rows["first_match"] == 1).mean() == pytest.approx(scores[f"{name}/rank-1"], abs=1e-12)
        np.testing.assert_array_equal(rows["pid"], query.pids.numpy()[rows["query"]])
        np.testing.assert_array_equal(rows["camid"], query.camids.numpy()[rows["query"]])


def test_several_datasets_stand_below_one_another() -> None:
    one, other = (score(images(10, seed), images(40, seed + 1), EvalConfig()) for seed in (0, 5))
    table = query_table({"market": one, "synthetic": other})
    assert table["name"].tolist() == ["market"] * 10 + ["synthetic"] * 10
