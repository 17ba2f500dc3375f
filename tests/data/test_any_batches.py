"""P x K batches of any people: who is in them, how often, and what a kill or a camera changes."""

from collections import Counter

import pytest
import torch
from drawn import examples
from hypothesis import given
from hypothesis import strategies as st

from reid.data import IdentitySampler

PEOPLE = st.lists(st.integers(0, 6), min_size=1, max_size=40)


def drawn(sampler: IdentitySampler) -> list[list[int]]:
    return [batch.tolist() for batch in sampler]


@examples(150)
@given(
    pids=PEOPLE, identities=st.integers(0, 7), instances=st.integers(0, 5), seed=st.integers(0, 99),
    balanced=st.booleans(),
    cameras=st.lists(st.integers(0, 3), min_size=40, max_size=40),
)  # fmt: skip
def test_a_batch_is_p_people_with_k_images_each(
    pids: list[int], identities: int, instances: int, seed: int, balanced: bool, cameras: list[int]
) -> None:
    def sampler(camids: list[int] | None) -> IdentitySampler:
        generator = torch.Generator().manual_seed(seed)
        return IdentitySampler(pids, identities, instances, generator, camids)

    camids = cameras[: len(pids)] if balanced else None
    if identities < 1 or instances < 1 or identities > len(set(pids)):
        with pytest.raises(ValueError, match=r"batch\.identities"):
            sampler(camids)
        return
    batches = drawn(sampler(camids))
    assert batches == drawn(sampler(camids))
    counts, used = Counter(pids), Counter(index for batch in batches for index in batch)
    for batch in batches:
        assert len(batch) == identities * instances
        people = [pids[index] for index in batch]
        chunks = [people[start : start + instances] for start in range(0, len(people), instances)]
        assert all(len(set(chunk)) == 1 for chunk in chunks)
        assert len({chunk[0] for chunk in chunks}) == identities
    for index, times in used.items():
        # Who has fewer than K images is drawn with replacement, once in an epoch; all others at most once.
        assert times == 1 or counts[pids[index]] < instances
    whole = {pid: max(1, count // instances) for pid, count in counts.items()}
    given_out = Counter(pids[batch[start]] for batch in batches for start in range(0, len(batch), instances))
    assert all(given_out[pid] <= whole[pid] for pid in whole)
    # It ends once fewer than P people have images left.
    assert sum(given_out[pid] < whole[pid] for pid in whole) < identities
    if camids is not None:
        plain = drawn(sampler(None))
        if min(counts.values()) >= instances:
            assert [[pids[i] for i in batch] for batch in plain] == [
                [pids[i] for i in batch] for batch in batches
            ]
            assert sorted(i for batch in plain for i in batch) == sorted(
                i for batch in batches for i in batch
            )
