"""Groups beside the rest: by hand, by naive loops, and by groups that are known to differ or not to."""

import math

import numpy as np
import pytest
import torch

from reid.judging.groups import (
    Observations,
    compare,
    conclude,
    count_missed,
    group_table,
    holm,
    of_camera_pairs,
    of_column,
    of_queries,
    thirds,
)
from reid.retrieval import Embeddings, EvaluationError, evaluate


def observed(groups: dict[str, tuple[int, float]], seed: int = 0, grouping: str = "size") -> Observations:
    """People with four queries each; each group's mean average precision is as given."""
    generator = np.random.default_rng(seed)
    names, pids, precision, missed, first = [], [], [], [], 0
    for name, (people, mean) in groups.items():
        names += [name] * 4 * people
        pids += (first + np.arange(people).repeat(4)).tolist()
        first += people
        values = np.clip(
            mean + generator.normal(0, 0.1, people).repeat(4) + generator.normal(0, 0.05, 4 * people), 0, 1
        )
        precision += values.tolist()
        missed += np.round(10 * (1 - values)).astype(int).tolist()
    values = np.array(precision)
    return Observations(
        grouping, np.array(names), np.array(pids), values, (values > 0.6).astype(float),
        np.full(len(pids), 10), np.array(missed),
    )  # fmt: skip


def test_a_group_that_differs_is_named_and_others_are_not() -> None:
    rows = compare([observed({"small": (40, 0.4), "middle": (40, 0.7), "large": (40, 0.7)})])
    by = {(row.group, row.score): row for row in rows}
    small = by["small", "mAP"]
    assert small.value == pytest.approx(0.4, abs=0.04)
    assert small.difference == pytest.approx(small.value - small.rest)
    assert small.difference_interval.low < small.difference < small.difference_interval.high < -0.2
    assert small.remains
    assert (small.queries, small.people, small.pairs) == (160, 40, 1600)
    missed = by["small", "miss rate"]
    assert missed.difference > 0.2
    words = conclude(rows)
    assert words.startswith("Missed more often than the rest: size small (+")
    assert words.endswith("These remain after Holm's correction over 3 comparisons.")


def test_equal_groups_are_equal() -> None:
    rows = compare([observed(dict.fromkeys("abcdef", (40, 0.6)), seed=3)])
    assert not any(row.remains for row in rows)
    assert "nobody; no such difference remains" in conclude(rows)


def test_the_interval_is_that_of_resampled_people() -> None:
    one = observed({"a": (12, 0.5), "b": (15, 0.6)})
    row = next(row for row in compare([one], replicates=2000) if row.group == "a" and row.score == "mAP")
    # Naively: draw people, take all their queries.
    generator, found = np.random.default_rng(9), []
    for _ in range(2000):
        drawn = generator.integers(0, 27, 27)
        values = [(one.precision[one.pids == pid], one.group[one.pids == pid]) for pid in drawn]
        precision = np.concatenate([value for value, _ in values])
        group = np.concatenate([name for _, name in values])
        found.append(precision[group == "a"].mean() - precision[group == "b"].mean())
    np.testing.assert_allclose(row.difference_interval, np.percentile(found, [2.5, 97.5]), atol=0.01)


def test_few_people_are_shown_and_not_compared() -> None:
    rows = compare([observed({"a": (4, 0.1), "b": (40, 0.9)})])
    assert all(math.isnan(row.difference) and not row.remains for row in rows)
    assert rows[0].value == pytest.approx(0.1, abs=0.1)
    assert conclude(rows) == "No group is large enough to be compared with the rest."
    table = group_table({"x": rows})
    assert table.loc[0, "data"] == "x"
    assert table["difference"].isna().all()


def test_holm_by_hand() -> None:
    # 0.01 <= 0.05/4, 0.015 <= 0.05/3, 0.03 > 0.05/2: that one and all after it stay.
    assert holm([0.03, 0.01, 0.04, 0.015]) == [False, True, False, True]
    assert holm([]) == []


def test_thirds_and_columns() -> None:
    names = thirds([1, 2, 3, 4, 5, 6], ("low", "middle", "high"), " px")
    assert names == ["low (to 2 px)"] * 2 + ["middle (to 4 px)"] * 2 + ["high (above 4 px)"] * 2
    assert set(thirds([5.0] * 4, ("a", "b", "c"))) == {"a (to 5)"}
    assert of_column(["red", "", "blue"]) == ["red", "unknown", "blue"]
    assert of_column(["1", "2", "1"]) == ["1", "2", "1"]
    numbers = [str(number) for number in range(30)]
    assert set(of_column([*numbers, ""])) == {"low (to 9)", "middle (to 19)", "high (above 19)", "unknown"}
    with pytest.raises(ValueError, match="50 different values"):
        of_column([f"x{number}" for number in range(50)])


def drawn(count: int, seed: int) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)
    pids = torch.randint(0, 6, (count,), generator=generator)
    camids = torch.randint(0, 3, (count,), generator=generator)
    return Embeddings(torch.randn(count, 4, generator=generator), pids, camids).normalised()


@pytest.mark.parametrize("protocol", ["cross_camera", "ignore_camera"])
def test_camera_pairs_by_a_naive_loop(protocol: str) -> None:
    query, gallery = drawn(20, 0), drawn(60, 1)
    found = of_camera_pairs(query, gallery, protocol, "euclidean", 1.2)
    expected = []
    for camera in (0, 1, 2):
        inside = gallery.select(gallery.camids == camera)
        for row in range(20):
            one = query.select(torch.tensor([row]))
            try:
                scores = evaluate(one, inside, protocol=protocol, distractor=0)
            except EvaluationError:
                continue
            low, high = sorted((int(one.camids[0]) + 1, camera + 1))
            match = inside.pids == one.pids[0]
            if protocol == "cross_camera":
                match &= inside.camids != one.camids[0]
            far = (inside.features - one.features[0]).norm(dim=1) > 1.2
            expected.append(
                (f"{low}-{high}", int(one.pids[0]), scores.mAP, int(match.sum()), int((match & far).sum()))
            )
    assert found.missed is not None
    rows = zip(found.group, found.pids, found.precision, found.pairs, found.missed, strict=True)
    assert [(str(a), int(b), float(c), int(d), int(e)) for a, b, c, d, e in rows] == [
        (a, b, pytest.approx(c), d, e) for a, b, c, d, e in expected
    ]
    assert (protocol == "cross_camera") == ("1-1" not in set(found.group.tolist()))


def test_without_a_threshold_there_is_no_miss_rate() -> None:
    query, gallery = drawn(20, 0), drawn(60, 1)
    pairs, missed = count_missed(query, gallery, "cross_camera", "euclidean", None)
    assert missed is None
    scores = evaluate(query, gallery, distractor=0)
    one = of_queries(
        "size",
        ["a", "b"] * 10,
        query,
        scores.average_precision.numpy(),
        scores.first_match.numpy(),
        pairs,
        None,
    )
    rows = compare([one], replicates=20)
    assert {row.score for row in rows} == {"mAP", "rank-1"}
    assert len(one.group) == scores.valid_queries
