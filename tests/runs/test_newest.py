"""The newest families of a store, found without reading all of it: the same as with all of it read."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from reid.runs import selection
from reid.runs.selection import families, newest_families
from reid.tracking import RunRecord
from reid.tracking.deliver import PARENT_RUN


def drawn_store(chance: random.Random) -> list[RunRecord]:
    """Sweeps and single runs, newest first; some sweeps are gone, some runs start within one second."""
    runs = []
    for number in range(chance.randrange(12)):
        started = float(chance.randrange(20))
        head = f"{number:02x}"
        if chance.random() < 0.8:
            runs.append(RunRecord(head, head, chance.choice(["FINISHED", "FAILED"]), started=started))
        for child in range(chance.randrange(5)):
            later = started + chance.randrange(12)
            tags = {PARENT_RUN: head}
            runs.append(RunRecord(f"{head}{child}", "", "FINISHED", tags=tags, started=later))
    chance.shuffle(runs)
    return sorted(runs, key=lambda run: -(run.started or 0.0))


@pytest.mark.parametrize("seed", range(300))
def test_the_newest_families_are_those_of_the_whole_store(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    runs, limit = drawn_store(chance), chance.randrange(4)
    monkeypatch.setattr(selection, "_AT_ONCE", chance.randrange(1, 7))

    def fits(run: RunRecord) -> bool:
        return seed % 2 == 0 or run.status == "FAILED"

    def those_there(ids: set[str]) -> set[str]:
        return {str(run.run_id) for run in runs if run.run_id in ids}

    shown, taken, more = newest_families(iter(runs), limit, fits, those_there)
    whole = [(head, kin) for head, kin in families(runs) if any(map(fits, [head, *kin]))]
    assert _ids(shown) == _ids(whole[: limit or None])
    assert more == (0 < limit < len(whole))
    assert len(taken) <= len(runs)


def _ids(found: list[selection.Family]) -> list[tuple[str | None, set[str | None]]]:
    return [(head.run_id, {run.run_id for run in kin}) for head, kin in found]


def test_a_store_of_many_runs_is_not_read_to_its_end() -> None:
    read = []

    def many() -> Iterator[RunRecord]:
        for number in range(10_000):
            read.append(number)
            yield RunRecord(f"{number:032x}", "n", "FINISHED", started=float(-number))

    shown, _, more = newest_families(many(), 20, lambda _: True, lambda ids: ids)
    assert (len(shown), more) == (20, True)
    assert len(read) <= 2 * selection._AT_ONCE
