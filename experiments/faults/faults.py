"""The faults: each strikes a running sweep once, and returns what repairs it before the sweep goes on."""

import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from experiments.faults.sweep import Sweep, wait_for_orphans
from experiments.server.mlflow_server import MlflowServer

Repair = Callable[[], None]

#: Long enough for jobs that run on to meet what is away.
OUTAGE_S = 15.0


@dataclass(frozen=True)
class Fault:
    """`strike` is called at a random moment and returns the repair for when the launcher has ended."""

    name: str
    launcher: str
    strike: Callable[[Sweep, random.Random, "Scene"], Repair]


@dataclass(frozen=True)
class Scene:
    """What a round may break: its server, if it has one, and the images of the cell with data of its own."""

    server: MlflowServer | None
    images: list[Path]


def kill_worker(sweep: Sweep, chance: random.Random, _: Scene) -> Repair:
    """SIGKILL of a process that runs jobs, as the kernel does when memory runs out."""
    deadline = time.monotonic() + 120
    while not (workers := sweep.workers()):
        if not sweep.running() or time.monotonic() > deadline:
            return _nothing
        time.sleep(0.05)
    _kill(chance.choice(workers))
    return _nothing


def kill_launcher(sweep: Sweep, _: random.Random, __: Scene) -> Repair:
    """SIGKILL of the command itself.  Its workers are left alone, and may work on as orphans."""
    assert sweep.process is not None
    sweep.process.send_signal(signal.SIGKILL)
    return _nothing


def kill_server(_: Sweep, chance: random.Random, scene: Scene) -> Repair:
    """SIGKILL of the tracking server; it comes back while the sweep runs, or only after its end."""
    assert scene.server is not None
    scene.server.kill()
    if chance.random() < 0.5:
        return scene.server.start
    time.sleep(OUTAGE_S * chance.random())
    scene.server.start()
    return _nothing


def fill_disk(sweep: Sweep, _: random.Random, __: Scene) -> Repair:
    """Not a byte is left where the sweep writes, until it has ended."""
    filler = sweep.home / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            block = bytes(size)
            try:
                while file.write(block) == size:
                    pass
            except OSError:
                continue
    return filler.unlink


def corrupt_image(_: Sweep, chance: random.Random, scene: Scene) -> Repair:
    """An image of one cell's data is cut off in the middle."""
    path = chance.choice(scene.images)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return lambda: _restore(path, content)


FAULTS = (
    Fault("SIGKILL of a worker", "joblib", kill_worker),
    Fault("full disk", "basic", fill_disk),
    Fault("SIGKILL of the launcher", "basic", kill_launcher),
    Fault("SIGKILL of the tracking server", "basic", kill_server),
    Fault("corrupt image in one cell", "basic", corrupt_image),
    Fault("SIGKILL of the launcher", "joblib", kill_launcher),
    Fault("SIGKILL of a worker", "submitit", kill_worker),
    Fault("SIGKILL of the launcher", "submitit", kill_launcher),
)


@contextmanager
def orphans_of(sweep: Sweep) -> Iterator[list[psutil.Process]]:
    """The processes below the launcher at this moment; the block's end waits until they are gone."""
    try:
        family = sweep.family()
    except psutil.NoSuchProcess:
        family = []
    yield family
    wait_for_orphans(family)


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):  # it has ended by itself: a round without a fault
        process.send_signal(signal.SIGKILL)


def _restore(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _nothing() -> None:
    pass
