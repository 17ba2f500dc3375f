"""Scores, re-ranking and verification of any data against the same written as plain loops."""

import math
from fractions import Fraction

import pytest
import torch
from drawn import examples
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from reid.retrieval import Embeddings, EvaluationError, evaluate, rerank, verify
from reid.retrieval.pairs import count_pairs, pair_blocks, pair_totals
from reid.retrieval.verify import FAR_TARGETS, TARGETS, verify_counts

#: Small whole numbers: distances are exact, many are tied, and many images are the same.
COORDINATE = st.integers(-2, 2)


@st.composite
def images(draw: st.DrawFn, least: int = 0, most: int = 14, dimensions: int = 2) -> Embeddings:
    """A set with few people and cameras, among them distractors (pid 0), duplicates and single images."""
    count = draw(st.integers(least, most))
    pid, camid = st.integers(0, draw(st.integers(0, 5))), st.integers(0, draw(st.integers(0, 3)))
    rows = st.lists(st.tuples(*[COORDINATE] * dimensions), min_size=count, max_size=count)
    numbers = st.lists(pid, min_size=count, max_size=count), st.lists(camid, min_size=count, max_size=count)
    return Embeddings(
        torch.tensor(draw(rows), dtype=draw(st.sampled_from([torch.float32, torch.float64]))).reshape(
            count, dimensions
        ),
        torch.tensor(draw(numbers[0]), dtype=torch.int64),
        torch.tensor(draw(numbers[1]), dtype=torch.int64),
    )


def squared(one: Tensor, other: Tensor) -> list[list[float]]:
    return [
        [sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) for y in other.tolist()] for x in one.tolist()
    ]


def ranked_matches(
    query: int,
    distance: list[float],
    data: tuple[Embeddings, Embeddings],
    protocol: str,
    distractor: int | None,
) -> list[int]:
    """The ranks of a query's matches, from 1, by walking down its sorted gallery."""
    queries, gallery = data
    pid, camid = int(queries.pids[query]), int(queries.camids[query])
    if pid == distractor:
        return []
    order = sorted(range(len(gallery)), key=lambda place: (distance[place], place))
    kept = [
        place
        for place in order
        if not (
            protocol == "cross_camera"
            and (int(gallery.pids[place]), int(gallery.camids[place])) == (pid, camid)
        )
    ]
    return [rank for rank, place in enumerate(kept, 1) if int(gallery.pids[place]) == pid]


@examples(150)
@given(
    data=st.tuples(images(), images()),
    protocol=st.sampled_from(["cross_camera", "ignore_camera"]),
    distractor=st.sampled_from([None, 0]),
    max_rank=st.integers(1, 20),
    chunk_bytes=st.sampled_from([1, 200, 2**20]),
    given_distance=st.booleans(),
)
def test_scores_are_those_of_a_walk_down_each_ranking(
    data: tuple[Embeddings, Embeddings],
    protocol: str,
    distractor: int | None,
    max_rank: int,
    chunk_bytes: int,
    given_distance: bool,
) -> None:
    queries, gallery = data
    if queries.features.dtype != gallery.features.dtype:
        gallery = Embeddings(gallery.features.to(queries.features.dtype), gallery.pids, gallery.camids)
    distance = squared(queries.features, gallery.features)
    matches = [
        ranked_matches(query, distance[query], (queries, gallery), protocol, distractor)
        for query in range(len(queries))
    ]
    matrix = torch.tensor(distance).reshape(len(queries), len(gallery)) if given_distance else None

    def scored() -> object:
        return evaluate(queries, gallery, max_rank, matrix, protocol, chunk_bytes, distractor)

    valid = [ranks for ranks in matches if ranks]
    if not valid:
        with pytest.raises(EvaluationError):
            scored()
        return
    scores = evaluate(queries, gallery, max_rank, matrix, protocol, chunk_bytes, distractor)
    precision = [
        sum(Fraction(number, rank) for number, rank in enumerate(ranks, 1)) / len(ranks) for ranks in valid
    ]
    assert scores.valid_queries == len(valid)
    assert scores.mAP == pytest.approx(float(sum(precision) / len(valid)), abs=1e-12)
    assert scores.mINP == pytest.approx(
        float(sum(Fraction(len(r), r[-1]) for r in valid) / len(valid)), abs=1e-12
    )
    expected = [sum(ranks[0] <= k for ranks in valid) / len(valid) for k in range(1, max_rank + 1)]
    assert scores.cmc.tolist() == pytest.approx(expected, abs=1e-12)
    assert scores.first_match.tolist() == [ranks[0] if ranks else 0 for ranks in matches]
    assert [math.isnan(one) for one in scores.average_precision.tolist()] == [not ranks for ranks in matches]


@examples(60)
@given(
    query=images(least=1, most=8),
    gallery=images(least=1, most=12),
    k1=st.integers(1, 12),
    k2=st.integers(1, 8),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    chunk_bytes=st.sampled_from([1, 500, 2**20]),
)
def test_reranking_follows_the_definition(
    query: Embeddings, gallery: Embeddings, k1: int, k2: int, share: float, chunk_bytes: int
) -> None:
    one, other = query.features.double(), gallery.features.double()
    found = rerank(one, other, k1, k2, share, chunk_bytes)
    everyone = torch.cat([one, other])
    distance = squared(everyone, everyone)
    count, queries = len(everyone), len(one)
    scale = [max(row) or 1.0 for row in distance]
    distance = [[value / scale[i] for value in row] for i, row in enumerate(distance)]
    ranking = [sorted(range(count), key=lambda j, i=i: (j != i, distance[i][j], j)) for i in range(count)]  # type: ignore[misc]

    def reciprocal(i: int, k: int) -> set[int]:
        return {j for j in ranking[i][: k + 1] if i in ranking[j][: k + 1]}

    weights = []
    for i in range(count):
        members = set(own := reciprocal(i, k1))
        for j in own:
            half = reciprocal(j, round(k1 / 2))
            if 3 * len(half & own) > 2 * len(half):
                members |= half
        values = {j: math.exp(-distance[i][j]) for j in members}
        total = sum(values.values())
        weights.append([values.get(j, 0.0) / total for j in range(count)])
    averaged = []
    for i in range(count):
        near = ranking[i][:k2]
        averaged.append([sum(weights[n][j] for n in near) / len(near) for j in range(count)])
    for i in range(queries):
        for j in range(len(other)):
            shared = sum(map(min, averaged[i], averaged[queries + j]))
            expected = (1 - share) * (1 - shared / (2 - shared)) + share * distance[i][queries + j]
            assert found[i, j].item() == pytest.approx(expected, abs=1e-9)


def rates(genuine: list[float], impostor: list[float], threshold: float) -> tuple[Fraction, Fraction]:
    """FAR and TAR of a threshold, by counting."""
    return (
        Fraction(sum(value <= threshold for value in impostor), len(impostor)),
        Fraction(sum(value <= threshold for value in genuine), len(genuine)),
    )


DISTANCES = st.lists(
    st.integers(0, 12).map(float) | st.floats(0, 4, allow_subnormal=False), min_size=1, max_size=30
)


@examples(150)
@given(
    genuine=DISTANCES,
    impostor=DISTANCES | DISTANCES.map(lambda some: some * 40),
    target=st.sampled_from(TARGETS),
)
def test_a_threshold_does_what_counting_says(
    genuine: list[float], impostor: list[float], target: str
) -> None:
    found = verify(torch.tensor(genuine, dtype=torch.float64), impostor, target)
    every = sorted({*genuine, *impostor})
    counted = [rates(genuine, impostor, value) for value in every]
    assert found.genuine == len(genuine)
    assert found.impostor == len(impostor)
    for name, wanted in FAR_TARGETS.items():
        point = found.points[name]
        if len(impostor) < round(1 / wanted):
            assert math.isnan(point.threshold)
            continue
        within = [tar for far, tar in counted if far <= Fraction(str(wanted))]
        assert point.tar == pytest.approx(float(max(within, default=Fraction(0))))
        assert rates(genuine, impostor, point.threshold)[0] <= Fraction(str(wanted))
    for name in ("eer", "f1"):
        point = found.points[name]
        far, tar = rates(genuine, impostor, point.threshold)
        assert (point.far, point.tar) == pytest.approx((float(far), float(tar)))
    # Accepting nothing counts too.
    gaps = [abs(far - (1 - tar)) for far, tar in [(Fraction(0), Fraction(0)), *counted]]
    point = found.points["eer"]
    assert abs(point.far - (1 - point.tar)) == pytest.approx(float(min(gaps)))
    scores = [
        Fraction(
            2 * sum(v <= value for v in genuine),
            len(genuine) + sum(v <= value for v in [*genuine, *impostor]),
        )
        for value in every
    ]
    assert found.best_f1 == pytest.approx(float(max(scores)))
    assert found.points["f1"].f1 == pytest.approx(found.best_f1)
    crossing = [
        (before, after)
        for before, after in zip([(Fraction(0), Fraction(0)), *counted], counted, strict=False)
        if before[0] < 1 - before[1] and after[0] >= 1 - after[1]
    ]
    before, after = crossing[0]
    assert float(before[0]) - 1e-12 <= found.eer <= float(after[0]) + 1e-12
    assert float(1 - after[1]) - 1e-12 <= found.eer <= float(1 - before[1]) + 1e-12


@examples(80)
@given(
    data=images(most=16),
    protocol=st.sampled_from(["cross_camera", "ignore_camera"]),
    metric=st.sampled_from(["euclidean", "cosine"]),
    chunk_bytes=st.sampled_from([1, 300, 2**20]),
)
def test_pairs_are_those_of_a_double_loop(
    data: Embeddings, protocol: str, metric: str, chunk_bytes: int
) -> None:
    genuine, impostor = set(), set()
    for i in range(len(data)):
        for j in range(i + 1, len(data)):
            if data.pids[i] != data.pids[j]:
                impostor.add((i, j))
            elif data.pids[i] > 0 and (protocol == "ignore_camera" or data.camids[i] != data.camids[j]):
                genuine.add((i, j))
    found: dict[str, list[tuple[int, int]]] = {"genuine": [], "impostor": []}
    for block in pair_blocks(data, metric, protocol, chunk_bytes):
        for kind, pairs in found.items():
            places = getattr(block, kind).nonzero().tolist()
            pairs += [(block.first + row, block.first + column) for row, column in places]
    assert sorted(found["genuine"]) == sorted(genuine)
    assert sorted(found["impostor"]) == sorted(impostor)
    assert pair_totals(data.pids, data.camids, protocol) == (len(genuine), len(impostor))
    counts = count_pairs(data, metric, protocol, chunk_bytes)
    if len(data):
        assert (counts.genuine[-1], counts.impostor[-1]) == (len(genuine), len(impostor))
    if genuine and impostor:
        whole = verify_counts(counts.thresholds, counts.genuine, counts.impostor)
        assert (whole.genuine, whole.impostor) == (len(genuine), len(impostor))
