from __future__ import annotations

import pytest
import torch

from reid.retrieval import EvaluationError, count_matches, require_matches


def ids(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def test_counts_by_hand() -> None:
    # Query 7 on camera 0: once on its own camera, twice elsewhere. Query 8: own camera only. Query 9: absent.
    gallery = ids(7, 7, 7, 8, 0), ids(0, 1, 2, 5, 0)
    counts = count_matches(ids(7, 8, 9), ids(0, 5, 0), *gallery)
    assert (counts.total.tolist(), counts.usable.tolist()) == ([3, 1, 0], [2, 0, 0])
    assert count_matches(ids(7, 8, 9), ids(0, 5, 0), *gallery, "ignore_camera").usable.tolist() == [3, 1, 0]


def test_counts_equal_a_double_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    q_pid, q_cam, g_pid, g_cam = (torch.randint(0, 6, (40,), generator=generator) for _ in range(4))
    counts = count_matches(q_pid, q_cam, g_pid, g_cam)
    for i in range(40):
        same = [j for j in range(40) if g_pid[j] == q_pid[i] != 0]
        assert counts.total[i] == len(same)
        assert counts.usable[i] == sum(bool(g_cam[j] != q_cam[i]) for j in same)


def test_one_usable_match_is_enough() -> None:
    require_matches(count_matches(ids(1, 9), ids(0, 0), ids(1), ids(1)))


def test_one_camera_says_so_and_names_the_key() -> None:
    counts = count_matches(ids(1, 2), ids(0, 0), ids(1, 2), ids(0, 0))
    with pytest.raises(EvaluationError, match=r"2 are matched only by images of their own camera") as error:
        require_matches(counts)
    assert "eval.protocol=ignore_camera" in str(error.value)
    assert "not in the gallery" not in str(error.value)


def test_both_reasons_are_counted() -> None:
    counts = count_matches(ids(1, 2, 3), ids(0, 0, 0), ids(1), ids(0))
    with pytest.raises(
        EvaluationError, match="the pid of 2 is not in the gallery at all; 1 are matched only"
    ):
        require_matches(counts)


def test_no_query_at_all() -> None:
    with pytest.raises(EvaluationError, match="no query image"):
        require_matches(count_matches(ids(), ids(), ids(1), ids(0)))


def test_unknown_protocol() -> None:
    with pytest.raises(ValueError, match="'market'; allowed: cross_camera, ignore_camera"):
        count_matches(ids(1), ids(0), ids(1), ids(1), "market")
