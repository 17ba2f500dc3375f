"""The references of the benchmarks against the published numbers, the drawn features, memory, growth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.benchmark.features import Scale, draw, market, repeat_with_noise
from experiments.benchmark.growth import exponent
from experiments.benchmark.memory import in_child, peak_mib
from experiments.benchmark.references import distance_matrix, evaluate_loop, ranked_list_loss, rerank_dense
from reid.losses import RankedListLoss
from reid.retrieval import Embeddings, evaluate

GOLDEN = Path(__file__).parents[1] / "golden"
SMALL = Scale(40, 300, 20, 3, 16, distractors=60, strangers=30)


def test_dense_reranking_gives_the_published_numbers() -> None:
    golden = np.load(GOLDEN / "rerank.npz")
    query, gallery = (torch.from_numpy(golden[f"c0_{name}_feat"]) for name in "qg")
    k1, k2, lambda_value = golden["c0_param"].tolist()
    found = rerank_dense(query, gallery, int(k1), int(k2), lambda_value, dtype=np.float64)
    np.testing.assert_allclose(found, golden["c0_distance_exact"], atol=1e-5)
    halves = rerank_dense(query, gallery, int(k1), int(k2), lambda_value)
    np.testing.assert_allclose(halves, golden["c0_distance"], atol=5e-3)


def test_the_loop_over_queries_gives_the_scores_of_ours() -> None:
    query, gallery = draw(SMALL)
    mean_ap, cmc = evaluate_loop(distance_matrix(query.features, gallery.features), query, gallery, 10)
    scores = evaluate(query, gallery, max_rank=10)
    assert mean_ap == pytest.approx(scores.mAP, abs=1e-9)
    np.testing.assert_allclose(cmc, scores.cmc.numpy(), atol=1e-9)


def test_embeddings_that_are_repeated_with_noise_stay_near_where_they_came_from() -> None:
    faiss = pytest.importorskip("faiss")
    generator = np.random.default_rng(0)
    drawn = generator.standard_normal((10, 1, 32)) + 0.2 * generator.standard_normal((10, 6, 32))
    embeddings: np.ndarray = drawn.reshape(60, 32).astype(np.float32)
    faiss.normalize_L2(embeddings)
    rows = np.empty((500, 32), np.float32)
    origins = repeat_with_noise(embeddings, rows, generator)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert len(np.unique(rows, axis=0)) == 500
    assert len(np.unique(origins)) == 60
    np.testing.assert_array_equal((rows @ embeddings.T).argmax(axis=1) // 6, origins // 6)


def test_the_loop_over_anchors_gives_the_loss_of_ours() -> None:
    features = torch.randn(12, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pids = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 5])
    ours = RankedListLoss(1.2, 0.4, 10.0)(features, pids)
    assert float(ranked_list_loss(features, pids, 1.2, 0.4, 10.0)) == pytest.approx(float(ours), rel=1e-9)


# ---- drawn features


def test_drawn_features_are_those_of_their_seed() -> None:
    one, again, other = draw(SMALL)[0], draw(SMALL)[0], draw(SMALL, seed=1)[0]
    assert torch.equal(one.features, again.features)
    assert not torch.equal(one.features, other.features)


def test_drawn_counts() -> None:
    query, gallery = draw(SMALL)
    assert query.features.shape == (40, 16)
    assert gallery.features.shape == (300, 16)
    assert int((gallery.pids == 0).sum()) == 60
    assert int(query.pids.min()) >= 1
    assert {*query.pids.tolist(), *gallery.pids.tolist()} <= set(range(21))
    assert set(gallery.camids.tolist()) == {0, 1, 2}
    torch.testing.assert_close(gallery.features.norm(dim=1), torch.ones(300))


def test_a_part_keeps_the_images_a_person() -> None:
    tenth = market(64).part(0.1)
    assert (tenth.queries, tenth.gallery, tenth.identities, tenth.distractors) == (337, 1591, 75, 280)
    assert (tenth.cameras, tenth.dimensions) == (6, 64)


def test_the_spread_is_a_trained_networks() -> None:
    query, gallery = draw(market(128))
    part: Embeddings = query.select(torch.arange(60))
    assert 0.75 < evaluate(part, gallery).mAP < 0.95


# ---- memory and growth


@pytest.mark.slow
def test_the_peak_is_the_childs_own() -> None:
    held = np.ones(300 * 2**20, dtype=np.int8)  # a child does not begin with its parent's peak
    small = in_child(exponent, work=[1.0, 2.0], seconds=[1.0, 4.0])
    assert small.value == pytest.approx(2.0)
    assert peak_mib() > 300
    assert 10 < small.peak_mib < peak_mib() - 200
    del held


@pytest.mark.slow
def test_a_child_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="ended with 1"):
        in_child(exponent, work=[1.0], seconds=[])


def test_the_exponent_of_a_power() -> None:
    work = [1.0, 10.0, 100.0]
    assert exponent(work, [3 * value**1.5 for value in work]) == pytest.approx(1.5)
