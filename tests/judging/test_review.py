"""Queries reviewed one by one, and the labels that a model doubts."""

import pytest
import torch

from reid.distance import cosine, euclidean
from reid.judging.review import (
    Kind,
    Mark,
    QueryReview,
    SuspectKind,
    first_sorted,
    ranking,
    review_queries,
    suspects,
)
from reid.retrieval import Embeddings, evaluate


def drawn(count: int, seed: int, people: int = 9, spread: float = 0.6) -> Embeddings:
    """Images of people in clusters, by three cameras; the last person of them is a distractor."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(people, 16, generator=torch.Generator().manual_seed(99))
    pids = torch.arange(count) % people
    noise = torch.randn(count, 16, generator=generator) * spread
    return Embeddings(centres[pids] + noise, pids, torch.arange(count) // people % 3).normalised()


def at(*places: float, pids: list[int], camids: list[int]) -> Embeddings:
    """Images on a line, so that a distance is a difference."""
    return Embeddings(torch.tensor(places)[:, None], torch.tensor(pids), torch.tensor(camids))


def review(query: Embeddings, gallery: Embeddings, **options: object) -> QueryReview:
    (found,) = review_queries(query, gallery, **options)  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("protocol", ["cross_camera", "ignore_camera"])
@pytest.mark.parametrize("given", [False, True])
def test_scores_are_those_of_evaluate_and_follow_from_the_lists(protocol: str, given: bool) -> None:
    query, gallery = drawn(40, 0, people=10), drawn(90, 1)  # the tenth person is not in the gallery
    distance = torch.rand(40, 90, generator=torch.Generator().manual_seed(2)) if given else None
    scores = evaluate(query, gallery, distance=distance, protocol=protocol, distractor=0)
    found = review_queries(
        query, gallery, distance=distance, protocol=protocol, top=90, chunk_bytes=24 * 90 * 7
    )
    assert [one.query for one in found] == list(range(40))
    assert any(one.kind is Kind.NOT_JUDGED for one in found)
    for one, ap, first in zip(found, scores.average_precision, scores.first_match, strict=True):
        assert (one.ap, one.first_match) == ((float(ap), int(first)) if first else (None, None))
        counted = one.marks[one.marks != Mark.JUNK]
        right = (counted == Mark.RIGHT).nonzero().flatten()
        if one.ap is None:
            assert one.kind is Kind.NOT_JUDGED
            assert len(right) == 0
            continue
        precision = torch.arange(1, len(right) + 1).double() / (right + 1)
        assert float(precision.mean()) == pytest.approx(one.ap, abs=1e-12)
        assert int(right[0]) + 1 == one.first_match
        place = one.order.tolist().index(one.match)
        assert one.marks[place] == Mark.RIGHT
        assert one.match_distance == one.distances[place]
        assert one.cameras == (int(query.camids[one.query]), int(gallery.camids[one.match or 0]))
        if distance is not None:
            torch.testing.assert_close(one.distances, distance[one.query].sort().values)


@pytest.mark.parametrize(("metric", "function"), [("euclidean", euclidean), ("cosine", cosine)])
def test_distances_are_in_the_metric(metric: str, function: object) -> None:
    query, gallery = drawn(12, 0), drawn(50, 1)
    one = review_queries(query, gallery, metric=metric, top=50)[5]
    expected = function(query.features[[5]].double(), gallery.features.double())[0]  # type: ignore[operator]
    torch.testing.assert_close(one.distances.double(), expected[one.order], atol=1e-6, rtol=1e-6)
    assert bool((one.distances.diff() >= -1e-6).all())
    rows = torch.tensor([5, 7])
    listed = ranking(query.select(rows), gallery, metric=metric, top=50)
    assert torch.equal(listed.order[0], one.order)
    assert torch.equal(listed.marks[0], one.marks)
    torch.testing.assert_close(listed.distances[0], one.distances)
    with pytest.raises(ValueError, match="metric"):
        review_queries(query, gallery, metric="hamming")


def test_a_list_by_hand() -> None:
    query = at(0.0, pids=[1], camids=[0])
    gallery = at(0.5, 0.1, 0.2, 0.3, 9.0, pids=[1, 1, 0, 2, 1], camids=[1, 0, 1, 1, 1])
    one = review(query, gallery, top=4)
    assert one.order.tolist() == [1, 2, 3, 0]
    assert one.marks.tolist() == [Mark.JUNK, Mark.DISTRACTOR, Mark.WRONG, Mark.RIGHT]
    torch.testing.assert_close(one.distances, torch.tensor([0.1, 0.2, 0.3, 0.5]))
    assert (one.first_match, one.match, one.cameras) == (3, 0, (0, 1))
    assert one.ap == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert review(query, gallery, protocol="ignore_camera").first_match == 1
    assert review(query, gallery, top=0).order.shape == (0,)


#: The query is person 1 at 0, seen by camera 0; the gallery is seen by camera 1.
CASES = [
    ([0.1, 0.2, 0.9], [1, 2, 2], None, Kind.FOUND),
    ([0.9, 2.0], [1, 2], 0.5, Kind.FOUND),  # first, even though beyond the threshold
    ([0.1, 0.2], [2, 1], None, Kind.LOOK_ALIKE_FIRST),
    ([0.1, 0.2], [2, 1], 0.15, Kind.NO_MATCH_NEAR),
    ([0.1, 0.2], [2, 1], 0.2001, Kind.LOOK_ALIKE_FIRST),
    ([0.1] * 19 + [0.2], [2, 3] * 9 + [2, 1], None, Kind.LOOK_ALIKE_FIRST),  # rank 20
    ([0.1] * 20 + [0.2], [2, 3] * 10 + [1], None, Kind.NO_MATCH_NEAR),  # rank 21
    ([0.1, 0.2, 0.3, 0.6], [2, 2, 2, 1], None, Kind.LOOK_ALIKE_FIRST),
    ([0.1, 0.2, 0.3, 0.6], [2, 2, 2, 1], 0.5, Kind.LABEL_SUSPECT),
    ([0.1, 0.2, 0.3, 0.6], [2, 2, 2, 1], 0.25, Kind.NO_MATCH_NEAR),  # the third is not near
    ([0.1, 0.2, 0.3, 0.6], [2, 3, 2, 1], 0.5, Kind.NO_MATCH_NEAR),  # they do not agree
    ([0.1, 0.2, 0.3, 0.6], [0, 0, 0, 1], 0.5, Kind.NO_MATCH_NEAR),  # distractors are nobody
    ([0.1] * 20 + [0.2], [2] * 20 + [1], None, Kind.LABEL_SUSPECT),
    ([0.1, 0.2], [2, 3], None, Kind.NOT_JUDGED),
]


@pytest.mark.parametrize(("places", "pids", "threshold", "kind"), CASES)
def test_kinds_by_hand(places: list[float], pids: list[int], threshold: float | None, kind: Kind) -> None:
    gallery = at(*places, pids=pids, camids=[1] * len(pids))
    # Another query, which has a match, since of none there are no scores.
    query = at(0.0, 0.0, pids=[1, pids[0] or 1], camids=[0, 0])
    assert review_queries(query, gallery, threshold=threshold)[0].kind is kind


def test_tiny_and_weak_queries_are_told_where_they_failed() -> None:
    gallery = at(0.1, 0.2, 5.0, pids=[2, 1, 3], camids=[1, 1, 1])
    query = at(*[0.0] * 20, 5.0, pids=[1] * 20 + [3], camids=[0] * 21)
    sizes = torch.tensor([[128, 64]] * 18 + [[63, 32], [64, 32], [8, 4]])
    kinds = [one.kind for one in review_queries(query, gallery, sizes=sizes)]
    assert kinds[18:] == [Kind.OCCLUDED_OR_TINY, Kind.LOOK_ALIKE_FIRST, Kind.FOUND]
    assert set(kinds[:18]) == {Kind.LOOK_ALIKE_FIRST}
    strengths = torch.tensor([10.0] * 21)
    strengths[4] = 1.0
    kinds = [one.kind for one in review_queries(query, gallery, strengths=strengths)]
    assert [row for row, kind in enumerate(kinds) if kind is Kind.OCCLUDED_OR_TINY] == [4]


def test_equal_distances_keep_the_order_of_the_gallery() -> None:
    values = torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.5, 1.0], [3.0, 3.0, 3.0, 3.0, 3.0, 3.0]])
    for count in range(7):
        expected = values.sort(dim=1, stable=True).indices[:, :count]
        assert torch.equal(first_sorted(values, count), expected)


def labelled(pids: torch.Tensor, truth: torch.Tensor, seed: int = 0) -> Embeddings:
    """Features that follow `truth`, with the names `pids`."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(int(truth.max()) + 1, 32, generator=generator)
    features = centres[truth] + 0.5 * torch.randn(len(truth), 32, generator=generator)
    return Embeddings(features, pids, torch.zeros_like(pids)).normalised()


def test_planted_errors_come_first() -> None:
    truth = torch.arange(1000) % 50 + 1
    pids = truth.clone()
    flipped = torch.randperm(1000, generator=torch.Generator().manual_seed(1))[:20]
    pids[flipped] = pids[flipped] % 50 + 1
    split = (truth == 7).nonzero().flatten()[::2]  # every second image of 7 has a name of its own
    pids[split] = 60
    found = suspects(labelled(pids, truth))
    of_kind = {kind: [one for one in found if one.kind is kind] for kind in SuspectKind}
    best = of_kind[SuspectKind.TWO_NAMES][0]
    assert {int(pids[best.first]), int(pids[best.second])} == {7, 60}
    wrong = set(flipped.tolist()) - set(split.tolist())
    for kind in (SuspectKind.WRONG_NAME, SuspectKind.ONE_NAME):
        first = [one.first for one in of_kind[kind][: len(wrong)]]
        assert len(wrong & set(first)) / len(wrong) >= 0.9, kind
        assert [one.score for one in of_kind[kind]] == sorted(
            (one.score for one in of_kind[kind]), reverse=True
        )
    for one in found:
        same = pids[one.first] == pids[one.second]
        assert bool(same) == (one.kind is SuspectKind.ONE_NAME)


def test_a_threshold_verdicts_and_bounds_shorten_the_list() -> None:
    truth = torch.arange(200) % 10 + 1
    pids = truth.clone()
    pids[:40] = 1  # a name that holds everybody
    pids[100] = 0  # and a distractor
    images = labelled(pids, truth)
    every = suspects(images, per_person=100)
    assert not any(100 in (one.first, one.second) for one in every)
    limited = suspects(images, per_person=2, count=5)
    for kind in SuspectKind:
        listed = [one for one in limited if one.kind is kind]
        assert len(listed) <= 5
        names = [name for one in listed for name in {int(pids[one.first]), int(pids[one.second])}]
        assert all(names.count(name) <= 2 for name in names)
    verdict = (every[0].second, every[0].first)
    assert {every[0].first, every[0].second} not in [
        {one.first, one.second} for one in suspects(images, per_person=100, without=[verdict])
    ]
    near = suspects(images, per_person=100, threshold=0.5)
    assert near
    assert all((one.distance > 0.5) == (one.kind is SuspectKind.ONE_NAME) for one in near)


def test_blocks_change_nothing_and_odd_sets_have_no_suspects() -> None:
    truth = torch.arange(120) % 12 + 1
    pids = truth.clone()
    pids[5], pids[119] = 3, 99  # a name with one image
    images = labelled(pids, truth)
    assert suspects(images) == suspects(images, chunk_bytes=16 * 30**2)
    assert suspects(images.select(torch.arange(0))) == []
    assert suspects(images.select(pids == 3)) == []
    pairs = suspects(labelled(torch.arange(6) + 1, torch.arange(6) + 1))  # nobody is seen twice
    assert all(one.kind is not SuspectKind.ONE_NAME for one in pairs)
