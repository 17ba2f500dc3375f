"""Whoever is killed while an index changes loses no row that was there, and doubles none."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_index import drawn, facts, rows

from reid.gallery import Index, IndexFault

#: Forks processes that change one index and are killed, after a random time or just before their nth step on
#: the disk. A process says after each change what it had finished. Light: no torch, and Python starts once.
DRIVER = """
import json, os, random, signal, sys, time
import pandas, pyarrow.parquet  # once, for all children
import numpy as np
from reid.gallery.index import Index, Row

folder, kind, kills, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
random.seed(seed)
STEPS = {"open", "os.rename", "os.remove"}

def feature(number):
    return np.random.default_rng(number).normal(size=24).astype(np.float32)

def rows_of(numbers):
    return np.stack([feature(number) for number in numbers]), [Row(f"/c/{n}.jpg", n // 5) for n in numbers]

def change(finished, die_at):
    steps = 0
    def hook(event, arguments):
        nonlocal steps
        if event in STEPS and folder in str(arguments[0]):
            steps += 1
            if steps == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
    index = Index.open(folder)
    if die_at:
        sys.addaudithook(hook)
    while True:
        known = sorted(int(path.split("/")[-1][:-4]) for path in index.paths())
        if kind == "add":
            first = max(known, default=-1) + 1
            index.add(*rows_of(range(max(0, first - 3), first + 7)))  # three of them are there already
            os.write(finished, f"{first + 6}\\n".encode())
        else:
            pid = known[0] // 5
            index.remove(pids=[pid])
            os.write(finished, f"{pid}\\n".encode())

log = []
for kill in range(kills):
    out, into = os.pipe()
    child = os.fork()
    if not child:
        try:
            change(into, kill // 2 + 1 if kill % 2 else 0)
        finally:
            os._exit(9)
    os.close(into)
    if kill % 2 == 0:
        time.sleep(random.uniform(0.005, 0.1 if kind == "add" else 0.04))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    said = os.read(out, 2**20).decode().split()
    os.close(out)
    checker = os.fork()
    if not checker:
        index = Index.open(folder)
        numbers = [int(path.split("/")[-1][:-4]) for path in index.paths()]
        whole = all(np.array_equal(index.features([n])[0], feature(k)) for n, k in enumerate(numbers))
        damaged = index.damaged_files()
        print(json.dumps([os.WTERMSIG(status), said, numbers, whole, damaged]), flush=True)
        os._exit(0)
    os.waitpid(checker, 0)
"""


def driven(folder: Path, kind: str, kills: int) -> list[list[Any]]:
    words = [sys.executable, "-c", DRIVER, str(folder), kind, str(kills), "0"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == kills, done.stderr
    return found


@pytest.mark.slow
def test_twenty_kills_while_adding_lose_and_double_nothing(tmp_path: Path) -> None:
    Index.create(tmp_path / "g", facts())
    before: set[int] = set()
    for signal, said, numbers, whole, damaged in driven(tmp_path / "g", "add", 20):
        assert signal == 9
        assert len(set(numbers)) == len(numbers)
        assert set(numbers) == set(range(len(numbers)))
        assert len(numbers) % 7 == 0  # a change is made whole or not at all
        assert before <= set(numbers)
        assert max(map(int, said), default=-1) < len(numbers)  # what was finished is there
        assert whole
        assert damaged == []
        before = set(numbers)
    assert before
    index = Index.open(tmp_path / "g")
    index.add(drawn(1), rows(1))
    assert sorted(path.name for path in (tmp_path / "g").glob("*features*")) == sorted(
        entry["file"] for entry in index._named
    )


@pytest.mark.slow
def test_kills_while_removing_lose_nobody_else(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "g", facts())
    numbers = range(1000)
    features = np.stack([np.random.default_rng(n).normal(size=24).astype(np.float32) for n in numbers])
    known = [row._replace(path=f"/c/{n}.jpg", pid=n // 5) for n, row in zip(numbers, rows(1000), strict=True)]
    index.add(features, known)
    for _, said, left, whole, damaged in driven(tmp_path / "g", "remove", 12):
        assert left == list(range(left[0], 1000))  # whole people, in their order
        assert left[0] % 5 == 0
        assert max(map(int, said), default=-1) < left[0] // 5
        assert whole
        assert damaged == []


#: Two processes that add at once, ten images in common.
TOGETHER = """
import os, sys
import pandas, pyarrow.parquet
import numpy as np
from reid.gallery.index import Index, Row

folder = sys.argv[1]
children = []
for process in range(2):
    child = os.fork()
    if not child:
        index = Index.open(folder)
        for step in range(10):
            numbers = [*range(100 * process + 5 * step, 100 * process + 5 * step + 5), 1000 + step]
            values = np.stack([np.random.default_rng(n).normal(size=24).astype(np.float32) for n in numbers])
            index.add(values, [Row(f"/c/{n}.jpg") for n in numbers])
        os._exit(0)
    children.append(child)
sys.exit(sum(os.waitpid(child, 0)[1] for child in children))
"""


@pytest.mark.slow
def test_two_processes_add_at_once(tmp_path: Path) -> None:
    Index.create(tmp_path / "g", facts())
    subprocess.run([sys.executable, "-c", TOGETHER, str(tmp_path / "g")], check=True, timeout=120)
    index = Index.open(tmp_path / "g")
    numbers = [int(Path(path).stem) for path in index.paths()]
    assert sorted(numbers) == [*range(50), *range(100, 150), *range(1000, 1010)]
    expected = [np.random.default_rng(n).normal(size=24).astype(np.float32) for n in numbers]
    assert np.array_equal(index.features(range(len(index))), np.stack(expected))
    assert index.damaged_files() == []


def test_a_lock_that_is_held_for_long_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index.create(tmp_path / "g", facts())
    monkeypatch.setattr("reid.gallery.index.PATIENCE", 0.05)
    descriptor = os.open(tmp_path / "g" / ".lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(IndexFault, match="another process has been changing"):
            index.add(drawn(1), rows(1))
        assert len(Index.open(tmp_path / "g")) == 0
    finally:
        os.close(descriptor)
    assert index.add(drawn(1), rows(1)) == (1, 0)
