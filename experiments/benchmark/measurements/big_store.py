"""The image store of MSMT17's 126,441 images, built and read with 2 GiB of memory in all."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from pathlib import Path

import torch

from experiments.benchmark.catalogue import Setup
from experiments.benchmark.crops import linked_crops
from experiments.benchmark.memory import in_child
from experiments.benchmark.outcome import Case, Goal
from reid.data.batches import plain_batches
from reid.data.image_store import open_store

REPEATS = 1
#: MSMT17: 4,101 people, 126,441 images.
PEOPLE, EACH = 4_079, 31
QUICK_PEOPLE, QUICK_EACH = 12, 8
HEIGHT, WIDTH = 256, 128
MOST_MIB = 2 * 1024
#: Where Linux has limits on memory: the first and the second version of control groups.
GROUPS = (
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
    (Path("/sys/fs/cgroup"), "memory.max"),
)


def measure(setup: Setup) -> list[Case]:
    """Built once, then every image read once in order and once as training draws them."""
    people, each = (QUICK_PEOPLE, QUICK_EACH) if setup.quick else (PEOPLE, EACH)
    with tempfile.TemporaryDirectory() as folder:
        setup.say(f"linking {people * each:,} crops")
        linked_crops(Path(folder) / "crops", people, each)
        setup.say("building, mapping and reading the store in a process of its own")
        child = in_child(work, folder=folder, people=people, each=each)
    found = child.value
    if found["group"]:
        Path(found["group"]).rmdir()  # it was the child's, which could not remove what it was in
    size = people * each * HEIGHT * WIDTH * 3 / 2**20
    return [
        Case(
            f"{people * each:,} images, {HEIGHT}x{WIDTH}",
            [
                Goal("memory of its own at most (not the file's pages)", found["own_mib"], 1024, "<=", "MiB"),
                Goal("size of the store / memory that it was allowed", size / MOST_MIB, None, ">=", "x"),
            ],
            {name: [found[name]] for name in ("build", "read in order", "read at random")},
            peak_mib={"resident, pages of the file included": child.peak_mib},
            facts={
                "size of the store, MiB": size,
                "limit of memory, the pages of files included": found["limit"],
            },
        )
    ]


def work(folder: str, people: int, each: int) -> dict[str, object]:
    """Build and read under a limit of memory where the machine allows one."""
    limit, group = _limit_memory()
    crops = linked_crops(Path(folder) / "crops", people, each)
    most = [0.0]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            most[0] = max(most[0], _own_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    seconds: dict[str, object] = {}
    try:
        started = time.perf_counter()
        store = open_store(crops, HEIGHT, WIDTH, Path(folder) / "store")
        seconds["build"] = time.perf_counter() - started

        started = time.perf_counter()
        total = sum(len(batch) for batch in plain_batches(store, 128, torch.device("cpu")))
        seconds["read in order"] = time.perf_counter() - started
        assert total == len(crops)

        started = time.perf_counter()
        for indices in torch.randperm(len(crops), generator=torch.Generator().manual_seed(0)).split(64):
            store.read(indices)
        seconds["read at random"] = time.perf_counter() - started
    finally:
        over.set()
        watcher.join()
    return {**seconds, "own_mib": max(most[0], _own_mib()), "limit": limit, "group": group}


def _own_mib() -> float:
    """What this process holds that is no page of a file."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) / 1024


def _limit_memory() -> tuple[str, str]:
    """Put this process into a control group of its own with little memory; says how far that went."""
    for root, limit in GROUPS:
        group = root / f"reid-benchmark-{os.getpid()}"
        try:
            group.mkdir()
            (group / limit).write_text(str(MOST_MIB * 2**20))
            (group / "cgroup.procs").write_text(str(os.getpid()))
        except OSError:
            if group.is_dir():
                group.rmdir()
            continue
        return f"{MOST_MIB} MiB, by a control group", str(group)
    return "none (control groups need root)", ""
