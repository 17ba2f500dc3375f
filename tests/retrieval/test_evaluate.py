from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from reid.distance import squared_euclidean
from reid.retrieval import Embeddings, EvaluationError, Scores, evaluate
from reid.retrieval.evaluate import count_by_block, count_by_row

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "evaluation.npz")


def golden(case: str, side: str) -> Embeddings:
    return Embeddings(*(torch.from_numpy(GOLDEN[f"{case}_{side}_{part}"]) for part in ("feat", "pid", "cam")))


def integers(
    count: int, seed: int, pids: int = 6, cams: int = 3, dtype: torch.dtype = torch.float64
) -> Embeddings:
    """Few small integers as features: exact distances, most of them tied. Pid 0 is a distractor."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randint(0, 3, (count, 3), generator=generator).to(dtype)
    pid = torch.randint(0, pids, (count,), generator=generator)
    return Embeddings(features, pid, torch.randint(0, cams, (count,), generator=generator))


def single(pids: list[int], camids: list[int], places: list[float]) -> Embeddings:
    """Images on a line."""
    return Embeddings(
        torch.tensor(places, dtype=torch.float64)[:, None], torch.tensor(pids), torch.tensor(camids)
    )


def naive(query: Embeddings, gallery: Embeddings, distance: Tensor, max_rank: int, protocol: str) -> Scores:
    """Sort each row, walk down it, count."""
    average_precision, penalties, firsts, first_match = [], [], [], []
    for i in range(len(query)):
        order = sorted(range(len(gallery)), key=lambda j: (distance[i, j].item(), j))
        hits = rank = first = last = 0
        precisions = []
        for j in order:
            same_pid = bool(gallery.pids[j] == query.pids[i])
            if same_pid and protocol == "cross_camera" and gallery.camids[j] == query.camids[i]:
                continue
            rank += 1
            if same_pid:
                hits += 1
                precisions.append(hits / rank)
                last = rank
                first = rank if hits == 1 else first
        average_precision.append(sum(precisions) / hits if hits else math.nan)
        first_match.append(first)
        if hits:
            penalties.append(hits / last)
            firsts.append(first)
    curve = [sum(first <= k for first in firsts) / len(firsts) for k in range(1, max_rank + 1)]
    return Scores(
        mAP=float(np.nanmean(average_precision)),
        cmc=torch.tensor(curve, dtype=torch.float64),
        mINP=sum(penalties) / len(penalties),
        valid_queries=len(firsts),
        average_precision=torch.tensor(average_precision, dtype=torch.float64),
        first_match=torch.tensor(first_match),
    )


def assert_equal(ours: Scores, expected: Scores) -> None:
    assert ours.mAP == pytest.approx(expected.mAP, abs=1e-12)
    assert ours.mINP == pytest.approx(expected.mINP, abs=1e-12)
    assert ours.valid_queries == expected.valid_queries
    torch.testing.assert_close(ours.cmc, expected.cmc, rtol=0, atol=1e-12)
    assert ours.first_match.tolist() == expected.first_match.tolist()
    torch.testing.assert_close(
        ours.average_precision, expected.average_precision, rtol=0, atol=1e-12, equal_nan=True
    )


@pytest.mark.parametrize("precomputed", [False, True])
@pytest.mark.parametrize("case", ["c0", "c1"])
def test_agrees_with_the_published_code(case: str, precomputed: bool) -> None:
    distance = torch.from_numpy(GOLDEN[f"{case}_squared_distance"]) if precomputed else None
    scores = evaluate(golden(case, "q"), golden(case, "g"), distance=distance)
    assert scores.mAP == pytest.approx(float(GOLDEN[f"{case}_mAP"]), abs=1e-9)
    # The published curve is kept in float32.
    torch.testing.assert_close(scores.cmc.float(), torch.from_numpy(GOLDEN[f"{case}_cmc"]), rtol=0, atol=1e-7)
    assert (scores.skipped_queries > 0) == (case == "c1")


@pytest.mark.parametrize("chunk_bytes", [1, 3000, 64 * 2**20])
@pytest.mark.parametrize("protocol", ["cross_camera", "ignore_camera"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_a_walk_down_the_ranking_when_most_distances_are_tied(
    dtype: torch.dtype, protocol: str, chunk_bytes: int
) -> None:
    query, gallery = integers(30, 0, pids=9, dtype=dtype), integers(70, 1, dtype=dtype)
    distance = squared_euclidean(query.features, gallery.features)
    scores = evaluate(query, gallery, 10, protocol=protocol, chunk_bytes=chunk_bytes)
    assert 0 < scores.skipped_queries < 30
    assert_equal(scores, naive(query, gallery, distance, 10, protocol))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_agrees_with_a_walk_down_a_given_distance(dtype: torch.dtype) -> None:
    query, gallery = integers(20, 2), integers(50, 3)
    distance = torch.rand(20, 50, generator=torch.Generator().manual_seed(4)).to(dtype) - 0.5
    before = distance.clone()
    assert_equal(
        evaluate(query, gallery, distance=distance), naive(query, gallery, distance, 50, "cross_camera")
    )
    assert torch.equal(distance, before)


def test_by_hand() -> None:
    # Query: pid 1 on camera 0, at 0. By distance: a junk image, a stranger, a match, a distractor, a match.
    query = single([1], [0], [0])
    gallery = single([1, 2, 1, 0, 1], [0, 0, 1, 2, 2], [0.5, 1, 2, 3, 4])
    scores = evaluate(query, gallery, max_rank=3)
    assert scores.mAP == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert scores.mINP == pytest.approx(2 / 4)
    assert scores.cmc.tolist() == [0, 1, 1]
    assert (scores.rank(1), scores.rank(2)) == (0, 1)
    without = evaluate(query, gallery, max_rank=3, protocol="ignore_camera")
    assert without.mAP == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert without.mINP == pytest.approx(3 / 5)
    with pytest.raises(ValueError, match="allowed: 1 to 3"):
        scores.rank(4)


@pytest.mark.parametrize(("pids", "expected"), [([1, 2, 2], 1), ([2, 1, 2], 1 / 2), ([2, 2, 1], 1 / 3)])
def test_equal_distances_keep_gallery_order(pids: list[int], expected: float) -> None:
    query = single([1], [0], [0])
    assert evaluate(query, single(pids, [1, 1, 1], [1, 1, 1])).mAP == pytest.approx(expected)


def test_a_gallery_smaller_than_max_rank_gives_a_constant_tail() -> None:
    scores = evaluate(single([1], [0], [0]), single([2, 1], [1, 1], [1, 2]), max_rank=50)
    assert scores.cmc.tolist() == [0] + [1] * 49


def test_a_query_without_match_is_skipped_and_counted() -> None:
    scores = evaluate(single([1, 9, 2], [0, 0, 0], [0, 0, 0]), single([1, 2], [1, 0], [1, 2]))
    assert (scores.valid_queries, scores.skipped_queries) == (1, 2)
    assert scores.average_precision.isnan().tolist() == [False, True, True]
    assert scores.mAP == 1


def test_distractors_lower_the_score() -> None:
    query = single([1], [0], [0])
    assert evaluate(query, single([0, 0, 1], [0, 1, 1], [1, 1, 2])).mAP == pytest.approx(1 / 3)


def test_order_of_queries_does_not_matter() -> None:
    query, gallery = integers(30, 5), integers(60, 6)
    permutation = torch.randperm(30, generator=torch.Generator().manual_seed(7))
    straight, shuffled = evaluate(query, gallery), evaluate(query.select(permutation), gallery)
    assert shuffled.mAP == pytest.approx(straight.mAP, abs=1e-12)
    assert torch.equal(shuffled.cmc, straight.cmc)
    torch.testing.assert_close(
        shuffled.average_precision, straight.average_precision[permutation], equal_nan=True
    )


@pytest.mark.parametrize("budget", [1, 500, 2**20])
def test_the_gpu_way_to_count_agrees_with_the_cpu_way(budget: int) -> None:
    generator = torch.Generator().manual_seed(12)
    distance = torch.randint(0, 9, (11, 60), generator=generator).double()
    columns = torch.randint(0, 60, (11, 7), generator=generator)
    threshold = distance.gather(1, columns)
    threshold[columns > 50] = -torch.inf
    by_row = count_by_row(distance, threshold, columns)
    assert by_row.max() > 0
    assert torch.equal(count_by_block(distance, threshold, columns, budget), by_row)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_agrees_with_the_cpu() -> None:
    query, gallery = integers(300, 8, pids=40), integers(900, 9, pids=40)
    assert_equal(evaluate(query.to("cuda"), gallery.to("cuda")), evaluate(query, gallery))


def test_one_camera_is_explained() -> None:
    one = integers(20, 10, cams=1)
    with pytest.raises(EvaluationError, match=r"eval\.protocol=ignore_camera"):
        evaluate(one, one)
    assert evaluate(one, integers(20, 11, cams=1), protocol="ignore_camera").valid_queries > 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_distance_that_is_not_finite_is_refused(value: float) -> None:
    query, gallery = integers(20, 2), integers(50, 3)
    distance = torch.zeros(20, 50)
    distance[7, 3] = value
    with pytest.raises(EvaluationError, match=r"distances of 1 queries .* first of query row 7"):
        evaluate(query, gallery, distance=distance)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_features_without_finite_distances_are_refused(value: float) -> None:
    query, gallery = integers(20, 2), integers(50, 3)
    query, gallery = (replace(one, features=one.features.float()) for one in (query, gallery))
    query.features[7, 0] = value
    with pytest.raises(EvaluationError, match=r"distances of 1 queries .* first of query row 7"):
        evaluate(query, gallery)
    query.features[7, 0], gallery.features[3, 0] = 0, value
    with pytest.raises(EvaluationError, match=r"distances of 20 queries .* first of query row 0"):
        evaluate(query, gallery)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_rank": 0}, "max_rank is 0"),
        ({"protocol": "market"}, "allowed: cross_camera, ignore_camera"),
        ({"distance": torch.zeros(50, 20)}, r"shape \(50, 20\); expected floats of shape \(20, 50\)"),
        ({"distance": torch.zeros(20, 50, dtype=torch.int64)}, "distance is torch.int64"),
    ],
)
def test_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(integers(20, 2), integers(50, 3), **arguments)


def test_refuses_features_of_another_model_and_an_empty_gallery() -> None:
    query, gallery = integers(20, 2), integers(50, 3)
    with pytest.raises(ValueError, match="3 dimensions, gallery features 2"):
        evaluate(query, Embeddings(gallery.features[:, :2], gallery.pids, gallery.camids))
    with pytest.raises(EvaluationError, match="gallery is empty"):
        evaluate(query, gallery.select(torch.arange(0)))


MEMORY = """
import torch
from pathlib import Path
from reid.retrieval import Embeddings, evaluate
torch.set_num_threads(1)
def images(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return Embeddings(torch.randn(count, 16, generator=generator),
                      torch.randint(0, 5000, (count,), generator=generator),
                      torch.randint(0, 6, (count,), generator=generator))
def peak():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines()
                if line.startswith("VmHWM")) / 1024
query, gallery = images(2000, 0), images(20000, 1)
evaluate(query.select(torch.arange(50)), gallery)
before = peak()
evaluate(query, gallery, chunk_bytes=16 * 2**20)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_the_distance_matrix_is_never_whole() -> None:
    # 2,000 x 20,000 float32 distances would be 153 MiB.
    output = subprocess.run(
        [sys.executable, "-c", MEMORY],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert float(output.stdout) < 50
