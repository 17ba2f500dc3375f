"""P x K sampling against a naive reading of the published loop, and its invariants on random sets."""

from collections import Counter

import pytest
import torch

from reid.data import IdentitySampler

#: The pids of every batch.
Epoch = list[list[int]]


def sampler(pids: list[int], identities: int, instances: int, seed: int = 0) -> IdentitySampler:
    return IdentitySampler(pids, identities, instances, torch.Generator().manual_seed(seed))


def random_pids(seed: int) -> list[int]:
    """Between 5 and 45 people, most with few images, one with many, in random order."""
    generator = torch.Generator().manual_seed(1000 + seed)
    people = int(torch.randint(5, 46, (1,), generator=generator))
    counts = (torch.rand(people, generator=generator) ** 3 * 24).long() + 1
    counts[0] = 60
    pids = torch.repeat_interleave(torch.arange(people) * 7 + 3, counts)
    return pids[torch.randperm(len(pids), generator=generator)].tolist()


def naive_epoch(pids: list[int], identities: int, instances: int, generator: torch.Generator) -> Epoch:
    """The published epoch, a step at a time: returns the pids of each batch, in order."""

    def order(count: int) -> list[int]:
        return torch.randperm(count, generator=generator).tolist()

    chunks = {}
    for pid, count in Counter(pids).items():
        chunks[pid] = 1 if count < instances else count // instances
    available = sorted(chunks)
    batches = []
    while len(available) >= identities:
        chosen = [available[i] for i in order(len(available))[:identities]]
        for pid in chosen:
            chunks[pid] -= 1
            if chunks[pid] == 0:
                available.remove(pid)
        batches.append(chosen)
    return batches


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("identities", "instances"), [(4, 4), (5, 1), (2, 3)])
def test_invariants_of_an_epoch(seed: int, identities: int, instances: int) -> None:
    pids = random_pids(seed)
    have = Counter(pids)
    batches = list(sampler(pids, identities, instances, seed))
    used: Counter[int] = Counter()
    chunks_taken: Counter[int] = Counter()
    for batch in batches:
        assert batch.dtype == torch.int64
        people = torch.tensor(pids)[batch].view(identities, instances)
        assert (people == people[:, :1]).all(), "the K images of a person stand together"
        assert people[:, 0].unique().numel() == identities, "nobody stands twice in a batch"
        chunks_taken.update(people[:, 0].tolist())
        used.update(batch.tolist())
        for pid, chunk in zip(people[:, 0].tolist(), batch.view(identities, instances), strict=True):
            assert have[pid] < instances or chunk.unique().numel() == instances
    chunks_had = {pid: max(1, count // instances) for pid, count in have.items()}
    assert all(chunks_taken[pid] <= chunks_had[pid] for pid in have)
    assert all(times == 1 for index, times in used.items() if have[pids[index]] >= instances)
    left = sum(chunks_taken[pid] < chunks_had[pid] for pid in have)
    assert left < identities, "the epoch ended though P people still had chunks"


def test_few_images_are_drawn_with_replacement() -> None:
    # 1 of 2 images in each of 4 places: both stand in a chunk with probability 1 - 2 / 2^4.
    pids = [0, 0, 1, 1, 1, 1]
    seen: Counter[int] = Counter()
    for seed in range(400):
        (batch,) = sampler(pids, 2, 4, seed)
        chunk = [index for index in batch.tolist() if index < 2]
        assert len(chunk) == 4
        seen[len(set(chunk))] += 1
        assert sorted(index for index in batch.tolist() if index >= 2) == [2, 3, 4, 5]
    assert seen[1] == pytest.approx(400 * 2 / 16, abs=30)


def test_rest_of_a_chunk_is_dropped_and_differs_between_epochs() -> None:
    pids = [0] * 6 + [1] * 6
    both = sampler(pids, 2, 4)
    epochs = [frozenset(torch.cat(list(both)).tolist()) for _ in range(20)]
    assert all(len(epoch) == 8 for epoch in epochs)
    assert len(set(epochs)) > 1


def test_every_image_is_dropped_equally_often() -> None:
    counts: Counter[int] = Counter()
    shuffled = sampler([0] * 7 + [1] * 7, 2, 4)
    for _ in range(1000):
        counts.update(torch.cat(list(shuffled)).tolist())
    assert all(counts[index] == pytest.approx(1000 * 4 / 7, abs=75) for index in range(14))


def test_the_people_of_a_batch_are_a_uniform_draw_in_a_uniform_order() -> None:
    ours = sampler(list(range(5)), 2, 1)
    pairs = Counter(tuple(next(iter(ours)).tolist()) for _ in range(4000))
    assert len(pairs) == 20
    chi_square = sum((count - 200) ** 2 / 200 for count in pairs.values())
    assert chi_square < 43.8, "19 degrees of freedom: exceeded once in a thousand"


def test_epochs_are_as_long_as_the_published_ones() -> None:
    """Uneven people: how long an epoch lasts depends on the draws, so compare means over many."""
    pids = [pid for pid, count in enumerate([40, 24, 12, 8, 8, 4, 4, 2, 1]) for _ in range(count)]
    generator = torch.Generator().manual_seed(5)
    ours = sampler(pids, 3, 4, seed=6)
    epochs = 600
    naive = [naive_epoch(pids, 3, 4, generator) for _ in range(epochs)]
    mine = [[torch.tensor(pids)[batch[::4]].tolist() for batch in ours] for _ in range(epochs)]

    def mean_length(runs: list[Epoch]) -> float:
        return sum(map(len, runs)) / epochs

    assert mean_length(mine) == pytest.approx(mean_length(naive), rel=0.02)
    # Who stands in the third batch depends on who is left.
    third = [Counter(pid for run in runs for pid in run[2]) for runs in (mine, naive)]
    assert all(third[0][pid] == pytest.approx(third[1][pid], abs=85) for pid in range(9))


def test_one_generator_state_is_one_epoch() -> None:
    pids = random_pids(3)
    first, second = (list(sampler(pids, 4, 4, seed=9)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    again = sampler(pids, 4, 4, seed=9)
    epochs = [torch.cat(list(again)) for _ in range(2)]
    assert torch.equal(epochs[0], torch.cat(first))
    assert not torch.equal(epochs[0][:16], epochs[1][:16])


@pytest.mark.parametrize(("identities", "instances"), [(0, 4), (4, 0), (-1, 4)])
def test_empty_batches_are_refused(identities: int, instances: int) -> None:
    with pytest.raises(ValueError, match="1 or more each"):
        sampler([0, 1, 2], identities, instances)


def test_more_people_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch\.identities=4.*3"):
        sampler([0, 1, 2, 2], 4, 2)


def cameras_of(count: int, seed: int) -> list[int]:
    """Cameras of so many images, two thirds of them of the first."""
    drawn = torch.randint(12, (count,), generator=torch.Generator().manual_seed(seed))
    return (drawn - 7).clamp(min=0).tolist()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("identities", "instances"), [(5, 4), (4, 2)])
def test_balanced_chunks_have_each_camera_as_often_as_possible(
    seed: int, identities: int, instances: int
) -> None:
    # Nobody has fewer than K images: so the people and images of an epoch are those of chance.
    pids = [pid for pid, count in enumerate([40, 24, 13, 9, 8, 7, 4, 4]) for _ in range(count)]
    camids = cameras_of(len(pids), seed)
    balanced = IdentitySampler(pids, identities, instances, torch.Generator().manual_seed(seed), camids)
    chunks: dict[int, list[list[int]]] = {}
    for batch, plain in zip(balanced, sampler(pids, identities, instances, seed), strict=True):
        assert [pids[index] for index in batch] == [pids[index] for index in plain]
        for chunk in batch.view(identities, instances).tolist():
            chunks.setdefault(pids[chunk[0]], []).append(chunk)
    whole = [pid for pid in chunks if len(chunks[pid]) == pids.count(pid) // instances]
    for pid in whole:
        used = [index for chunk in chunks[pid] for index in chunk]
        assert len(set(used)) == len(used)
        for camera in set(camids):
            images = sum(camids[index] == camera for index in used)
            in_chunks = sorted(sum(camids[index] == camera for index in chunk) for chunk in chunks[pid])
            assert in_chunks[-1] - in_chunks[0] <= 1
            assert sum(map(bool, in_chunks)) == min(images, len(in_chunks))
    assert whole


def test_few_images_are_all_drawn_and_repeated_by_camera() -> None:
    # The person 0 has two images of camera 0 and one of camera 1.
    pids, camids = [0, 0, 0, 1, 1, 1, 1, 1, 1], [0, 0, 1, 0, 1, 2, 3, 4, 5]
    seen: Counter[tuple[int, ...]] = Counter()
    for seed in range(60):
        (batch,) = IdentitySampler(pids, 2, 5, torch.Generator().manual_seed(seed), camids)
        chunk = [index for index in batch.tolist() if index < 3]
        assert sorted(camids[index] for index in chunk) == [0, 0, 0, 1, 1]
        assert set(chunk) == {0, 1, 2}
        seen[tuple(sorted(chunk))] += 1
    assert len(seen) == 2, "which image of camera 0 stands twice is chance"


def test_which_cameras_the_last_chunk_has_is_chance() -> None:
    """The chunks that an epoch leaves over must not always be those of the same cameras."""
    camids = [0] * 5 + [1] * 3
    balanced = IdentitySampler([7] * 8, 1, 4, torch.Generator().manual_seed(0), camids)
    of_camera_1 = Counter(sum(camids[index] for index in next(iter(balanced)).tolist()) for _ in range(80))
    assert set(of_camera_1) == {1, 2}
    assert min(of_camera_1.values()) > 20
