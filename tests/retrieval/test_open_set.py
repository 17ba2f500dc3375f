"""Open-set rates against naive loops, their bootstrap, and the fusion of several crops."""

import math

import numpy as np
import pytest
import torch

from reid.retrieval import Embeddings, EvaluationError
from reid.retrieval.open_set import (
    FUSIONS,
    STRANGER,
    Searches,
    by_gallery_size,
    dir_at_fpir,
    false_match_rate,
    fnir,
    fpir,
    modelled_fpir,
    open_set_intervals,
    outcomes,
    search,
    threshold_for,
)


def drawn(probes: int = 60, people: int = 9, strangers: int = 12, seed: int = 0, digits: int = 1) -> Searches:
    """Random distances, rounded so that many are equal; half of the probes are of strangers."""
    generator = np.random.default_rng(seed)
    distances = np.round(generator.uniform(0.3, 1.5, (probes, people)), digits)
    mate = np.where(np.arange(probes) % 2 == 0, generator.integers(0, people, probes), STRANGER)
    inside = mate >= 0
    distances[inside, mate[inside]] = np.round(distances[inside, mate[inside]] * 0.5, digits)
    person = np.where(inside, mate + 1, 100 + generator.integers(0, strangers, probes))
    return Searches(distances, mate, person, np.arange(people) + 1)


def naive(searches: Searches, threshold: float) -> tuple[float, float]:
    """FPIR and FNIR at rank 1, search by search and person by person."""
    false, strangers, missed, mated = 0, 0, 0, 0
    for row, mate in zip(searches.distances.tolist(), searches.mate.tolist(), strict=True):
        candidates = [column for column, distance in enumerate(row) if distance <= threshold]
        if mate == STRANGER:
            strangers += 1
            false += bool(candidates)
            continue
        mated += 1
        first = all(row[mate] < row[other] for other in range(len(row)) if other != mate)
        missed += not (mate in candidates and first)
    return false / strangers, missed / mated


@pytest.mark.parametrize("digits", [1, 6])
@pytest.mark.parametrize("threshold", [0.0, 0.15, 0.3, 0.4, 0.55, 0.9, 2.0])
def test_the_rates_are_those_of_a_double_loop(threshold: float, digits: int) -> None:
    searches = drawn(digits=digits)
    found = outcomes(searches)
    assert (float(fpir(found, threshold)), float(fnir(found, threshold))) == pytest.approx(
        naive(searches, threshold), abs=1e-12
    )


def test_a_worked_example() -> None:
    # Two people are enrolled. Of the three searches of strangers one has somebody within 0.5.
    searches = Searches(
        np.array([[0.2, 0.9], [0.6, 0.4], [0.7, 0.7], [0.45, 0.8], [0.9, 0.6], [0.8, 0.7]]),
        np.array([0, 0, 1, -1, -1, -1]),
        np.array([1, 1, 2, 7, 8, 8]),
        np.array([1, 2]),
    )
    found = outcomes(searches)
    assert float(fpir(found, 0.5)) == pytest.approx(1 / 3)
    # The second is nearer to the other person, and the third as near to both: neither is ever found.
    assert float(fnir(found, 0.5)) == pytest.approx(2 / 3)
    assert float(fnir(found, 10)) == pytest.approx(2 / 3)
    assert float(fnir(found, 0.1)) == 1
    assert threshold_for(found, 1 / 3) == 0.45
    assert threshold_for(found, 0.4) == 0.45
    assert threshold_for(found, 1) == 0.7
    assert dir_at_fpir(found, 1 / 3) == pytest.approx(1 / 3)
    assert math.isnan(dir_at_fpir(found, 0.01))


@pytest.mark.parametrize("digits", [1, 6])
@pytest.mark.parametrize("wanted", [0.04, 0.1, 0.3, 0.9, 1.0])
def test_the_threshold_is_the_largest_that_keeps_the_rate(wanted: float, digits: int) -> None:
    searches = drawn(digits=digits)
    found = outcomes(searches)
    limit = threshold_for(found, wanted)
    nearest = sorted(searches.distances[searches.mate == STRANGER].min(axis=1).tolist())
    assert naive(searches, limit)[0] <= wanted + 1e-12
    larger = [distance for distance in nearest if distance > limit]
    assert not larger or naive(searches, larger[0])[0] > wanted
    assert dir_at_fpir(found, wanted) == pytest.approx(1 - naive(searches, limit)[1])


def test_too_few_strangers_are_refused() -> None:
    found = outcomes(drawn())
    with pytest.raises(EvaluationError, match=r"an FPIR of 0\.001 needs at least 1,000 searches .* are 30"):
        threshold_for(found, 1e-3)
    everybody = drawn()
    for kept, what in (
        (everybody.strangers, "somebody who is enrolled"),
        (~everybody.strangers, "a stranger"),
    ):
        part = Searches(
            everybody.distances[kept], everybody.mate[kept], everybody.person[kept], everybody.pids
        )
        with pytest.raises(EvaluationError, match=f"none of the 30 probes shows {what}"):
            outcomes(part)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(P, N\)"):
        Searches(np.zeros((3, 2)), np.zeros(3, int), np.zeros(2, int), np.zeros(2, int))
    with pytest.raises(ValueError, match="outside of the 2 columns"):
        Searches(np.zeros((1, 2)), np.array([2]), np.zeros(1, int), np.zeros(2, int))


def test_fewer_enrolled_people_are_those_columns_alone() -> None:
    searches = drawn()
    part = searches.among(np.array([1, 4, 5]))
    kept = [row for row, mate in enumerate(searches.mate) if mate in (STRANGER, 1, 4, 5)]
    assert np.array_equal(part.distances, searches.distances[np.ix_(kept, [1, 4, 5])])
    own = [{STRANGER: STRANGER, 1: 0, 4: 1, 5: 2}[mate] for mate in searches.mate[kept].tolist()]
    assert part.mate.tolist() == own
    assert part.pids.tolist() == [2, 5, 6]


# ---- intervals


def test_a_replicate_weighs_searches_by_both_people() -> None:
    """With the same draws, loop by loop."""
    searches, replicates, threshold, wanted = drawn(people=5, strangers=6), 40, 0.5, 0.25
    sure = open_set_intervals(outcomes(searches), threshold, [wanted], replicates, seed=3)
    generator = np.random.default_rng(3)
    away = searches.mate == STRANGER
    names = np.unique(searches.person[away])
    v = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=replicates)
    w = generator.multinomial(5, np.full(5, 1 / 5), size=replicates)
    false, true, anew = [], [], []
    for b in range(replicates):
        hits: list[tuple[float, float]] = []
        own: list[tuple[float, float]] = []
        for row, mate, person in zip(searches.distances, searches.mate, searches.person, strict=True):
            if mate == STRANGER:
                weight = v[b, int(np.flatnonzero(names == person)[0])] * w[b, int(row.argmin())]
                hits.append((float(row.min()), float(weight)))
            else:
                others = np.delete(row, mate)
                own.append((float(row[mate]) if row[mate] < others.min() else math.inf, float(w[b, mate])))

        def rate(pairs: list[tuple[float, float]], limit: float) -> float:
            return sum(x for d, x in pairs if d <= limit) / sum(x for _, x in pairs)

        if sum(x for _, x in hits) == 0:
            continue
        false.append(rate(hits, threshold))
        true.append(rate(own, threshold))
        limits = [0.0, *sorted({d for d, _ in hits})]
        chosen = max(limit for limit in limits if rate(hits, limit) <= wanted + 1e-12)
        anew.append(rate(own, chosen))
    assert sure.fpir == pytest.approx(tuple(np.percentile(false, [2.5, 97.5])))
    assert sure.dir == pytest.approx(tuple(np.percentile(true, [2.5, 97.5])))
    assert sure.dir_at[wanted] == pytest.approx(tuple(np.percentile(anew, [2.5, 97.5])))


def test_intervals_hold_the_rates_and_narrow_with_more_people() -> None:
    def width(people: int, strangers: int) -> float:
        generator = np.random.default_rng(1)
        probes = 4 * (people + strangers)
        owner = np.arange(probes) % (people + strangers)
        mate = np.where(owner < people, owner, STRANGER)
        near = generator.normal(0, 0.05, people + strangers)[owner]
        distances = 1 + generator.normal(0, 0.1, (probes, people)) + near[:, None]
        inside = mate >= 0
        distances[inside, mate[inside]] -= 0.4
        found = outcomes(Searches(distances, mate, owner, np.arange(people)))
        limit = threshold_for(found, 0.1)
        sure = open_set_intervals(found, limit, [0.1, 1e-3], 300)
        assert sure.fpir.low <= float(fpir(found, limit)) <= sure.fpir.high
        assert sure.dir.low <= 1 - float(fnir(found, limit)) <= sure.dir.high
        assert sure.threshold_at[0.1].low <= limit <= sure.threshold_at[0.1].high
        assert set(sure.dir_at) == {0.1}  # too few strangers for the other
        return sure.fpir.high - sure.fpir.low

    assert width(120, 120) < 0.7 * width(20, 20)


def test_replicates_are_needed_and_the_seed_decides() -> None:
    found = outcomes(drawn())
    with pytest.raises(ValueError, match="at least one is needed"):
        open_set_intervals(found, 0.5, [], 0)
    assert open_set_intervals(found, 0.5, [0.1], 50, 1) == open_set_intervals(found, 0.5, [0.1], 50, 1)
    assert open_set_intervals(found, 0.5, [0.1], 50, 1) != open_set_intervals(found, 0.5, [0.1], 50, 2)


# ---- the size of the gallery


def independent(people: int = 200, strangers: int = 2000, rate: float = 0.005) -> Searches:
    """Strangers who match each enrolled person by chance alone."""
    generator = np.random.default_rng(0)
    distances = generator.uniform(0, 1, (strangers + people, people))
    mate = np.append(np.full(strangers, STRANGER), np.arange(people))
    distances[strangers + np.arange(people), np.arange(people)] = rate / 2
    return Searches(distances, mate, np.arange(strangers + people), np.arange(people))


def test_the_model_holds_where_matches_are_independent() -> None:
    searches = independent()
    rows = by_gallery_size(searches, [10, 50, 200, 1000], 0.005, 0.1, draws=5, replicates=100)
    assert [row.enrolled for row in rows] == [10, 50, 200]  # there are no 1,000 people
    assert [row.draws for row in rows] == [5, 5, 1]
    for row in rows:
        assert row.fpir == pytest.approx(1 - (1 - 0.005) ** row.enrolled, rel=0.1)
        assert row.modelled == pytest.approx(row.fpir, rel=0.1)
        assert row.spread.low <= row.fpir <= row.spread.high
        assert row.fpir_interval.low <= row.fpir <= row.fpir_interval.high
        assert not row.model_fails
    assert rows[0].fpir < rows[1].fpir < rows[2].fpir
    assert rows[-1].dir_at == pytest.approx(dir_at_fpir(outcomes(searches), 0.1))


def test_the_model_fails_where_some_strangers_look_like_everybody() -> None:
    searches = independent()
    distances = searches.distances.copy()
    lookalikes = np.flatnonzero(searches.strangers)[::50]
    distances[np.flatnonzero(searches.strangers)] = 1
    distances[lookalikes] = 0.02 * searches.distances[lookalikes]  # a quarter of all people is near enough
    rows = by_gallery_size(
        Searches(distances, searches.mate, searches.person, searches.pids), [10, 200], 0.005, 0.1, draws=5,
        replicates=100,
    )  # fmt: skip
    assert rows[-1].fpir == pytest.approx(0.02)
    assert rows[-1].modelled > 0.5
    assert rows[-1].model_fails


def test_the_one_to_one_rate_is_that_of_a_double_loop() -> None:
    searches = drawn()
    pairs = [
        distance <= 0.6
        for row, mate in zip(searches.distances.tolist(), searches.mate.tolist(), strict=True)
        if mate == STRANGER
        for distance in row
    ]
    assert false_match_rate(searches, 0.6) == pytest.approx(sum(pairs) / len(pairs))
    assert modelled_fpir(0.25, 2) == pytest.approx(1 - 0.75**2)
    assert modelled_fpir(1e-12, 1000) == pytest.approx(1e-9)
    assert modelled_fpir(1.0, 3) == pytest.approx(1)


@pytest.mark.parametrize("wrong", [{"sizes": [0]}, {"draws": 0}, {"replicates": 0}])
def test_wrong_sizes_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected 1 or more"):
        by_gallery_size(drawn(), **{"sizes": [3], "threshold": 0.5, "wanted": 0.1, **wrong})  # type: ignore[arg-type]


# ---- several crops


def crops(seed: int = 0) -> tuple[Embeddings, Embeddings, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    enrolled = Embeddings(
        torch.randn(14, 5, generator=generator, dtype=torch.float64),
        torch.tensor([3, 3, 3, 5, 5, 8, 8, 8, 8, 9, 0, 5, 3, 9]),
        torch.tensor([0, 0, 1, 0, 1, 0, 1, 2, 2, 0, 1, 1, 2, 0]),
    )
    probes = Embeddings(
        torch.randn(10, 5, generator=generator, dtype=torch.float64),
        torch.tensor([3, 3, 5, 8, 8, 40, 40, 0, 0, 9]),
        torch.tensor([0, 0, 1, 2, 2, 0, 0, 1, 1, 0]),
    )
    return enrolled, probes, torch.tensor([7, 7, 2, 4, 4, 5, 5, 6, 8, 9])


def unit(vector: torch.Tensor) -> torch.Tensor:
    return vector / vector.norm()


@pytest.mark.parametrize(
    ("fusion", "protocol"),
    [(fusion, protocol) for fusion in FUSIONS for protocol in ("cross_camera", "ignore_camera")],
)
def test_fused_distances_are_those_of_loops(fusion: str, protocol: str) -> None:
    enrolled, probes, probe = crops()
    generator = torch.Generator().manual_seed(9)
    weights = torch.rand(14, generator=generator, dtype=torch.float64) + 0.1
    probe_weights = torch.rand(10, generator=generator, dtype=torch.float64) + 0.1
    found = search(
        enrolled.normalised(), probes.normalised(), probe, metric="euclidean", unit=True, fusion=fusion,
        protocol=protocol, enrolled_weights=weights, probe_weights=probe_weights,
    )  # fmt: skip
    assert found.pids.tolist() == [3, 5, 8, 9]  # a distractor is not enrolled
    features, crop = enrolled.normalised().features, probes.normalised().features
    expected, mates, people = [], [], []
    for number in sorted(set(probe.tolist())):
        rows = [row for row in range(10) if probe[row] == number]
        pid, camid = int(probes.pids[rows[0]]), int(probes.camids[rows[0]])
        line = []
        for person in (3, 5, 8, 9):
            own = [row for row in range(14) if enrolled.pids[row] == person]
            if protocol == "cross_camera" and person == pid:
                own = [row for row in own if enrolled.camids[row] != camid]
            if not own:
                line.append(math.inf)
            elif fusion == "best":
                line.append(min(float((crop[a] - features[b]).norm()) for a in rows for b in own))
            else:
                by = weights if fusion == "quality" else torch.ones(14)
                by_probe = probe_weights if fusion == "quality" else torch.ones(10)
                template = unit(sum((by[b] * features[b] for b in own), torch.zeros(5)))
                mine = unit(sum((by_probe[a] * crop[a] for a in rows), torch.zeros(5)))
                line.append(float((template - mine).norm()))
        mate = [3, 5, 8, 9].index(pid) if pid in (3, 5, 8, 9) else STRANGER
        if mate == STRANGER or math.isfinite(line[mate]):
            expected.append(line)
            mates.append(mate)
            people.append(pid)
    # Person 9 was seen by the probe's camera alone, so that nothing is left to find.
    assert (9 in people) == (protocol == "ignore_camera")
    np.testing.assert_allclose(found.distances, expected, atol=1e-7)
    assert found.mate.tolist() == mates
    assert [name for name in found.person.tolist() if name > 0] == [pid for pid in people if pid > 0]
    assert len({name for name in found.person.tolist() if name < 0}) == 2  # each of pid 0 is somebody else


def test_what_cannot_be_fused_is_refused() -> None:
    enrolled, probes, probe = crops()

    def again(**changed: object) -> Searches:
        values = {"metric": "euclidean", "unit": True, **changed}
        return search(enrolled, probes, values.pop("probe", probe), **values)  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="fusion is 'worst'; allowed: best, mean, quality"):
        again(fusion="worst")
    with pytest.raises(ValueError, match="needs a weight above 0 for each crop"):
        again(fusion="quality")
    with pytest.raises(ValueError, match="several people or cameras"):
        again(probe=torch.zeros(10, dtype=torch.int64))
    with pytest.raises(ValueError, match="protocol"):
        again(protocol="other")
