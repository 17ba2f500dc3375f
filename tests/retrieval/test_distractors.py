"""Pid 0 has one meaning: an image of nobody who is looked for, wherever pids are counted or compared."""

import math

import pytest
import torch

from reid.config.schema import EvalConfig
from reid.judging.judge import score
from reid.retrieval import Embeddings, EvaluationError, count_matches, evaluate, pair_totals, require_matches
from reid.retrieval.bootstrap import identities_of
from reid.retrieval.pairs import count_pairs, hardest_pairs


def ids(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def images(pids: list[int], camids: list[int]) -> Embeddings:
    places = torch.arange(2.0 * len(pids)).reshape(-1, 2)
    return Embeddings(places, ids(*pids), ids(*camids)).normalised()


@pytest.mark.parametrize("protocol", ["cross_camera", "ignore_camera"])
def test_two_distractors_are_no_match_and_no_pair(protocol: str) -> None:
    counts = count_matches(ids(0, 1), ids(0, 0), ids(0, 0, 1), ids(1, 1, 1), protocol)
    assert (counts.total.tolist(), counts.usable.tolist(), counts.distractors) == ([0, 1], [0, 1], 1)
    assert pair_totals(ids(0, 0, 0, 1), ids(0, 1, 2, 0), protocol) == (0, 3)
    query, gallery = images([0, 1], [0, 0]), images([0, 1], [1, 1])
    scores = score(query, gallery, EvalConfig(protocol=protocol)).scores
    assert scores.valid_queries == 1
    assert math.isnan(scores.average_precision[0])
    both = images([0, 0, 1, 1], [0, 1, 0, 1])
    assert count_pairs(both, "cosine", protocol).genuine[-1] == 1
    assert hardest_pairs(both, "cosine")[0].isnan().tolist() == [True, True, False, False]
    assert len(set(identities_of(both.pids.numpy()).tolist())) == 3


def test_the_published_numbers_count_them_as_a_person() -> None:
    query, gallery = images([0, 1], [0, 0]), images([0, 1], [1, 1])
    assert evaluate(query, gallery).valid_queries == 2
    assert evaluate(query, gallery, distractor=0).valid_queries == 1


def test_queries_of_distractors_alone_are_refused_with_the_way_out() -> None:
    counts = count_matches(ids(0, 0), ids(0, 0), ids(0), ids(1))
    with pytest.raises(EvaluationError, match=r"2 bear pid 0 and are distractors.*dataset\.distractor=null"):
        require_matches(counts)
