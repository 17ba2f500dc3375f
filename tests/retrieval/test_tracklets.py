"""Frames pooled into tracklets, by hand; rankings and pairs without the query's own tracklet, by double
loops."""

import math

import pytest
import torch
from torch import Tensor

from reid.retrieval import (
    Embeddings,
    EvaluationError,
    count_matches,
    count_pairs,
    evaluate,
    junk,
    middle_frames,
    pair_totals,
    pool_tracklets,
    require_matches,
)


def ids(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


FRAMES = Embeddings(
    torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.6, 0.8], [0.0, 1.0]]),
    ids(1, 2, 1, 3, 1),
    ids(0, 1, 0, 0, 0),
    ids(7, 4, 7, -1, 7),
)


def test_the_mean_of_the_frames_has_unit_length_again() -> None:
    pooled = pool_tracklets(FRAMES)
    # Tracklet 7: (1/3, 2/3), of length sqrt(5) / 3.
    expected = torch.tensor([[1 / math.sqrt(5), 2 / math.sqrt(5)], [0.0, 1.0], [0.6, 0.8]])
    torch.testing.assert_close(pooled.features, expected)
    assert pooled.pids.tolist() == [1, 2, 3]
    assert pooled.camids.tolist() == [0, 1, 0]
    assert pooled.tracklets is not None
    assert pooled.tracklets.tolist() == [7, 4, -1]
    plain = pool_tracklets(FRAMES, normalised=False)
    torch.testing.assert_close(plain.features[0], torch.tensor([1 / 3, 2 / 3]))


def test_the_largest_of_each_component_and_a_weighted_mean() -> None:
    largest = pool_tracklets(FRAMES, "max", normalised=False)
    assert largest.features[0].tolist() == [1.0, 1.0]
    weights = torch.tensor([3.0, 1.0, 1.0, 5.0, 2.0])
    weighted = pool_tracklets(FRAMES, "quality", weights, normalised=False)
    # (3, 0) + (0, 1) + (0, 2), by 6
    torch.testing.assert_close(weighted.features[0], torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(weighted.features[2], torch.tensor([0.6, 0.8]))


def test_images_of_no_tracklet_stay_as_they_are() -> None:
    alone = Embeddings(FRAMES.features, FRAMES.pids, FRAMES.camids)
    assert pool_tracklets(alone) is alone
    none = Embeddings(FRAMES.features, FRAMES.pids, FRAMES.camids, torch.full((5,), -1))
    assert torch.equal(pool_tracklets(none, normalised=False).features, FRAMES.features)


def test_the_middle_frame_stands_for_a_tracklet() -> None:
    # Of two in the middle it is the later one.
    assert middle_frames(ids(7, 4, 7, -1, 7, -1, 4)).tolist() == [2, 6, 3, 5]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="allowed: mean, max, quality"):
        pool_tracklets(FRAMES, "median")
    with pytest.raises(ValueError, match="quality needs them"):
        pool_tracklets(FRAMES, "quality")
    with pytest.raises(ValueError, match="above 0"):
        pool_tracklets(FRAMES, "quality", torch.zeros(5))
    two = Embeddings(FRAMES.features, ids(1, 2, 2, 3, 1), FRAMES.camids, FRAMES.tracklets)
    with pytest.raises(ValueError, match="tracklet 7 holds images of two people"):
        pool_tracklets(two)
    with pytest.raises(ValueError, match="tracklets are torch"):
        Embeddings(FRAMES.features, FRAMES.pids, FRAMES.camids, ids(1, 2))


def test_tracklets_travel_with_the_rows() -> None:
    some = FRAMES.select(ids(3, 0)).normalised().to("cpu")
    assert some.tracklets is not None
    assert some.tracklets.tolist() == [-1, 7]


def drawn(count: int, seed: int) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)

    def whole(high: int) -> Tensor:
        return torch.randint(0, high, (count,), generator=generator)

    pids, camids = whole(4), whole(3)
    tracklets = torch.where(whole(4) == 0, -1, 10 * pids + 3 * camids + whole(2))
    return Embeddings(torch.randn(count, 4, generator=generator), pids, camids, tracklets).normalised()


def left_out(query: Embeddings, row: int, gallery: Embeddings, column: int, protocol: str) -> bool:
    assert query.tracklets is not None
    assert gallery.tracklets is not None
    own = int(query.tracklets[row])
    same_tracklet = own >= 0 and own == int(gallery.tracklets[column])
    same_camera = protocol == "cross_camera" and query.camids[row] == gallery.camids[column]
    return bool(query.pids[row] == gallery.pids[column]) and (bool(same_camera) or same_tracklet)


@pytest.mark.parametrize("protocol", ["cross_camera", "ignore_camera"])
@pytest.mark.parametrize("seed", range(4))
def test_rankings_leave_out_the_own_tracklet(protocol: str, seed: int) -> None:
    query, gallery = drawn(12, seed), drawn(40, seed + 100)
    expected = []
    counted = []
    for row in range(12):
        kept = [column for column in range(40) if not left_out(query, row, gallery, column, protocol)]
        kept.sort(key=lambda column: float((query.features[row] - gallery.features[column]).double().norm()))
        hits = [rank for rank, column in enumerate(kept, 1) if gallery.pids[column] == query.pids[row]]
        if query.pids[row] == 0:
            hits = []
        counted.append(len(hits))
        shares = [number / rank for number, rank in enumerate(hits, 1)]
        expected.append(sum(shares) / len(shares) if shares else math.nan)
    found = evaluate(query, gallery, protocol=protocol, distractor=0)
    torch.testing.assert_close(
        found.average_precision, torch.tensor(expected, dtype=torch.float64), equal_nan=True
    )
    usable = count_matches(
        query.pids, query.camids, gallery.pids, gallery.camids, protocol,
        query_tracklets=query.tracklets, gallery_tracklets=gallery.tracklets,
    ).usable  # fmt: skip
    assert usable.tolist() == counted
    mask = junk(query, gallery, protocol)
    assert mask.tolist() == [
        [left_out(query, row, gallery, column, protocol) for column in range(40)] for row in range(12)
    ]


@pytest.mark.parametrize("protocol", ["cross_camera", "ignore_camera"])
def test_pairs_of_one_tracklet_are_of_neither_kind(protocol: str) -> None:
    images = drawn(40, 3)
    genuine = impostor = 0
    for a in range(40):
        for b in range(a + 1, 40):
            if images.pids[a] != images.pids[b]:
                impostor += 1
            elif images.pids[a] > 0 and not left_out(images, a, images, b, protocol):
                genuine += 1
    counts = count_pairs(images, "euclidean", protocol)
    assert (int(counts.genuine[-1]), int(counts.impostor[-1])) == (genuine, impostor)
    assert pair_totals(images.pids, images.camids, protocol, images.tracklets) == (genuine, impostor)


def test_only_the_own_tracklet_is_left() -> None:
    one = Embeddings(torch.eye(2), ids(1, 1), ids(0, 0), ids(5, 5))
    counts = count_matches(
        one.pids, one.camids, one.pids, one.camids, "ignore_camera",
        query_tracklets=one.tracklets, gallery_tracklets=one.tracklets,
    )  # fmt: skip
    with pytest.raises(EvaluationError, match="matched only by frames of their own tracklet"):
        require_matches(counts, "ignore_camera")
