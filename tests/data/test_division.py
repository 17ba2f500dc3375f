"""The validation split: disjoint, fixed by its seed, and worth judging on."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from reid.data import Crop, DatasetError, ReidDataset
from reid.data.division import choose_queries, divide, validation_split


def crop(pid: int, camid: int, number: int) -> Crop:
    return Crop(Path(f"train/{pid:04d}_c{camid + 1}_{number}.jpg"), pid, camid)


def dataset_of(cameras_of: dict[int, list[int]]) -> ReidDataset:
    """Training crops only: `cameras_of[pid]` lists the camera of each crop."""
    train = [crop(pid, camid, n) for pid, seen in cameras_of.items() for n, camid in enumerate(seen)]
    other = (crop(9999, 0, 0),)
    train.sort(key=lambda c: c.path.name)
    return ReidDataset("made", Path("train"), tuple(train), other, other)


@pytest.fixture(scope="module")
def dataset() -> ReidDataset:
    dice = random.Random(0)
    return dataset_of({pid: [dice.randrange(4) for _ in range(dice.randrange(1, 12))] for pid in range(60)})


def pids(crops: Sequence[Crop]) -> set[int]:
    return {c.pid for c in crops}


@pytest.mark.parametrize("seed", range(5))
def test_people_are_held_out_whole(dataset: ReidDataset, seed: int) -> None:
    split = validation_split(dataset, 20, seed)
    assert len(pids(split.query)) == 20
    assert pids(split.query) == pids(split.gallery)
    assert not pids(split.train) & pids(split.query)
    assert sorted(split.train + split.query + split.gallery) == sorted(dataset.train)


@pytest.mark.parametrize("seed", range(5))
def test_every_query_has_a_match_by_another_camera(dataset: ReidDataset, seed: int) -> None:
    split = validation_split(dataset, 20, seed)
    for query in split.query:
        assert any(c.pid == query.pid and c.camid != query.camid for c in split.gallery), query


@pytest.mark.parametrize(
    ("cameras", "queries"),
    [([0, 0, 1, 1], {(0, 0), (1, 2)}), ([0, 1, 1], {(0, 0)}), ([0, 1, 2, 2], {(0, 0), (1, 1)})],
)
def test_the_first_crop_of_a_camera_is_the_query_if_it_can_be_found(
    cameras: list[int], queries: set[tuple[int, int]]
) -> None:
    """By hand: a first crop is a query only where the rest holds another camera."""
    split = validation_split(dataset_of({1: cameras, 2: [0, 1]}), 1, seed=0)
    expected = {crop(1, camid, number) for camid, number in queries}
    assert set(split.query) == expected
    assert len(split.gallery) == len(cameras) - len(queries)


def test_splits_are_sorted_by_name(dataset: ReidDataset) -> None:
    split = validation_split(dataset, 20, seed=0)
    for crops in (split.train, split.query, split.gallery):
        names = [c.path.name for c in crops]
        assert names == sorted(names)


def test_the_seed_decides_and_the_order_of_the_crops_does_not(dataset: ReidDataset) -> None:
    split = validation_split(dataset, 20, seed=3)
    assert validation_split(dataset, 20, seed=3) == split
    assert pids(validation_split(dataset, 20, seed=4).query) != pids(split.query)
    shuffled = list(dataset.train)
    random.Random(1).shuffle(shuffled)
    other = validation_split(replace(dataset, train=tuple(shuffled)), 20, seed=3)
    assert pids(other.query) == pids(split.query)


@pytest.mark.parametrize("identities", [4, 5, 100])
def test_too_many_people_are_refused(identities: int) -> None:
    # Of five people, one was seen by one camera only and one once by each.
    dataset = dataset_of({1: [0, 1, 1], 2: [0, 0, 1], 3: [2, 1, 1], 4: [0, 0, 0], 5: [0, 1]})
    assert len(pids(validation_split(dataset, 3, seed=0).train)) == 2
    with pytest.raises(DatasetError, match=rf"(?s)val_identities={identities}:.* 5 people.* 3 of them"):
        validation_split(dataset, identities, seed=0)


def test_somebody_must_be_left_to_train_on() -> None:
    with pytest.raises(DatasetError, match="val_identities=2"):
        validation_split(dataset_of({1: [0, 1, 1], 2: [0, 0, 1]}), 2, seed=0)


def test_people_whom_the_set_keeps_for_choosing_are_judged_on(dataset: ReidDataset) -> None:
    kept = tuple(crop(pid, camid, n) for pid in (100, 101) for n, camid in enumerate((0, 1, 1)))
    split = validation_split(replace(dataset, val=kept), identities=50, seed=0)
    assert split.train == dataset.train
    assert split.query == (crop(100, 0, 0), crop(101, 0, 0))
    assert {*split.query, *split.gallery} == set(kept)
    assert split.val == ()


def test_without_cameras_whoever_has_two_images_can_be_held_out() -> None:
    dataset = replace(dataset_of({1: [0, 0], 2: [0], 3: [0, 0, 0]}), cameras=False)
    split = validation_split(dataset, 2, seed=0)
    assert split.query == (crop(1, 0, 0), crop(3, 0, 0))
    assert pids(split.train) == {2}
    with pytest.raises(DatasetError, match="2 of them seen more than once"):
        validation_split(dataset, 3, seed=0)


# ---- one person's queries, and the division of own data


@pytest.mark.parametrize(
    ("cameras", "each", "expected"),
    [
        ([0, 0, 1, 1], 1, [0, 2]),
        ([0, 1, 1], 1, [0]),  # the second is left without another camera to find
        ([0, 1], 1, [0]),  # once by each: the first looks for the second
        ([0, 1, 2], 1, [0]),
        ([0, 0], 1, []),
        ([0], 1, []),
        ([0, 0, 0, 1, 1, 1], 2, [0, 1, 3, 4]),
        ([0, 0, 1], 3, []),
    ],
)
def test_queries_of_a_person_by_hand(cameras: list[int], each: int, expected: list[int]) -> None:
    crops = [crop(1, camid, number) for number, camid in enumerate(cameras)]
    queries, rest = choose_queries(crops, True, each)
    assert queries == [crops[place] for place in expected]
    assert sorted(queries + rest) == sorted(crops)


@pytest.mark.parametrize(("images", "each", "expected"), [(3, 1, 1), (3, 2, 2), (2, 2, 0), (1, 1, 0)])
def test_queries_without_cameras_are_the_first_if_one_is_left(images: int, each: int, expected: int) -> None:
    crops = [crop(1, 0, number) for number in range(images)]
    assert choose_queries(crops, False, each) == (crops[:expected], crops[expected:])


@pytest.mark.parametrize("cameras", [True, False])
def test_a_division_is_disjoint_whole_seeded_and_findable(dataset: ReidDataset, cameras: bool) -> None:
    whole = dataset.train  # 59 people and, as pid 0, distractors
    parts = divide(whole, cameras, seed=2, train=0.5, val=0.2)
    assert sorted(parts.train + parts.val + parts.query + parts.gallery) == sorted(whole)
    assert (len(pids(parts.train)), len(pids(parts.val)), len(pids(parts.query))) == (30, 12, 17)
    assert pids(parts.gallery) == pids(parts.query) | {0}
    assert not pids(parts.train) & pids(parts.val + parts.query)
    assert not pids(parts.val) & pids(parts.query)
    for query in parts.query:
        assert any(c.pid == query.pid and (not cameras or c.camid != query.camid) for c in parts.gallery), (
            query
        )

    shuffled = list(whole)
    random.Random(1).shuffle(shuffled)
    assert divide(shuffled, cameras, seed=2, train=0.5, val=0.2) == parts
    assert pids(divide(whole, cameras, seed=3, train=0.5, val=0.2).query) != pids(parts.query)


def test_a_division_that_cannot_be_had_says_what_can() -> None:
    dataset = dataset_of({1: [0, 1], 2: [0, 0], 3: [0], 4: [2, 1], 5: [0]})
    with pytest.raises(DatasetError, match=r"3 of 5 people .* only 2 were seen by two cameras.*60%"):
        divide(dataset.train, True, seed=0, train=0.4)
    assert pids(divide(dataset.train, True, seed=0, train=0.6).query) == {1, 4}
    with pytest.raises(DatasetError, match="1 people are too few"):
        divide(dataset_of({1: [0, 1]}).train, True, seed=0)
    with pytest.raises(DatasetError, match=r"none were seen by two cameras.*dataset\.cameras=none"):
        divide(dataset_of({1: [0, 0], 2: [0, 0]}).train, True, seed=0)
    with pytest.raises(DatasetError, match=r"none have two images.*more than one image of a person"):
        divide(dataset_of({1: [0], 2: [0]}).train, False, seed=0)
