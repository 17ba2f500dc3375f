"""Slots, held by real processes."""

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from reid.sweeps.slots import jobs_at_once, slot

HOLD = """
import sys, time
from pathlib import Path
from reid.sweeps.slots import slot
with slot(["a", "b"], Path(sys.argv[1])) as number:
    print(number, flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_a_slot_is_held_by_one_process_and_free_again_when_that_is_killed(tmp_path: Path) -> None:
    holders = [
        subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        numbers = []
        for holder in holders:
            assert holder.stdout is not None
            numbers.append(int(holder.stdout.readline()))
        assert sorted(numbers) == [0, 1]
        os.kill(holders[0].pid, signal.SIGKILL)
        holders[0].wait()
        with slot(["a", "b"], tmp_path) as number:
            assert number == numbers[0]
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()
            assert holder.stdout is not None
            holder.stdout.close()


def test_the_lowest_free_slot_is_taken(tmp_path: Path) -> None:
    with ExitStack() as held:
        assert [held.enter_context(slot(["a", "b", "c"], tmp_path)) for _ in range(3)] == [0, 1, 2]
        assert held.enter_context(slot(["c", "d"], tmp_path)) == 1
    with slot(["a", "b", "c"], tmp_path) as number:
        assert number == 0


@pytest.mark.parametrize(
    ("launcher", "n_jobs", "cells", "places", "expected"),
    [
        ("basic", -1, 9, 8, 1),
        ("joblib", -1, 9, 8, 8),
        ("joblib", -1, 3, 8, 3),
        ("joblib", 2, 9, 8, 2),
        ("submitit_local", -1, 9, 2, 2),
        ("submitit_local", -1, 1, 8, 1),
        ("submitit_slurm", -1, 9, 8, 1),
    ],
)
def test_jobs_at_once(launcher: str, n_jobs: int, cells: int, places: int, expected: int) -> None:
    assert jobs_at_once(launcher, n_jobs, cells, places) == expected
