"""The faults: each strikes a running sweep once, and returns what repairs it before the sweep goes on."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from experiments.faults.sweep import Sweep, wait_for_orphans
from experiments.server.mlflow_server import MlflowServer
from experiments.server.postgres import Postgres
from reid.engine.rundir import LAST, STATUS, read_status
from reid.sweeps.sweep_file import SWEEP
from reid.tracking import JOURNAL

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
    """What a round may break: its server and that one's database, if it has them, the images of the cell with
    data of its own, and the folder of the image stores."""

    server: MlflowServer | None
    images: list[Path]
    stores: Path
    postgres: Postgres | None = None


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


def slow_store(_: Sweep, chance: random.Random, scene: Scene) -> Repair:
    """The tracking server answers nothing for seconds, again and again, as on a disk that is too busy."""
    assert scene.server is not None
    for _times in range(3):
        scene.server.signal(signal.SIGSTOP)
        time.sleep(OUTAGE_S / 2 * chance.random())
        scene.server.signal(signal.SIGCONT)
        time.sleep(chance.random())
    return _nothing


def kill_postgres(_: Sweep, chance: random.Random, scene: Scene) -> Repair:
    """SIGKILL of the database alone: the server answers, and can keep nothing. It comes back as above."""
    assert scene.postgres is not None
    scene.postgres.kill()
    if chance.random() < 0.5:
        return scene.postgres.start
    time.sleep(OUTAGE_S * chance.random())
    scene.postgres.start()
    return _nothing


def lose_database(sweep: Sweep, chance: random.Random, _: Scene) -> Repair:
    """The store's SQLite file is gone, as where its disk is no longer mounted; it comes back."""
    aside = sweep.home.parent / f"{sweep.home.name}-database"
    aside.mkdir()
    for file in sweep.home.glob("mlflow.db*"):
        file.rename(aside / file.name)

    def back() -> None:
        for file in sweep.home.glob("mlflow.db*"):  # what was begun in its place
            file.unlink()
        for file in aside.iterdir():
            file.rename(sweep.home / file.name)
        aside.rmdir()

    if chance.random() < 0.5:
        return back
    time.sleep(OUTAGE_S * chance.random())
    back()
    return _nothing


def move_project(sweep: Sweep, _: random.Random, __: Scene) -> Repair:
    """SIGKILL of the launcher; then all that it wrote lies in another place, where it is started again."""
    _end(sweep)
    sweep.move(sweep.home.with_name(f"{sweep.home.name}-moved"))
    sweep.start()
    return _nothing


def remove_cell(sweep: Sweep, _: random.Random, __: Scene) -> Repair:
    """SIGKILL of the launcher; then the folder of the cell that it was at is removed."""
    _end(sweep)
    for journal in sweep.home.glob(f"multirun/*/*/{JOURNAL}"):
        status = read_status(journal.parent)
        if status is None or status.status != "FINISHED":
            shutil.rmtree(journal.parent)
    sweep.start()
    return _nothing


def fifo(sweep: Sweep, chance: random.Random, _: Scene) -> Repair:
    """SIGKILL of the launcher; then it meets a FIFO in the place of a file that it wrote."""
    _end(sweep)
    names = (STATUS, LAST, JOURNAL, "journal.sent", "history.csv")
    written = [path for name in names for path in sweep.home.glob(f"multirun/*/*/{name}")]
    written += sweep.home.glob(f"multirun/*/{SWEEP}")
    if not written:
        sweep.start()
        return _nothing
    path = chance.choice(sorted(written))
    aside = path.with_name(f"{path.name}.aside")
    path.rename(aside)
    os.mkfifo(path)
    sweep.start()

    def back() -> None:
        # Where the sweep has put a file of its own into its place, that one stays.
        if path.is_fifo():
            aside.replace(path)
        else:
            aside.unlink(missing_ok=True)

    return back


def flip_bits(sweep: Sweep, chance: random.Random, scene: Scene) -> Repair:
    """SIGKILL of the launcher; then eight bits of a checkpoint, or of the store of images, are others."""
    _end(sweep)
    written = [*sweep.home.glob(f"multirun/*/*/{LAST}"), *scene.stores.glob("*.npy")]
    written += [path for ending in ("*.json", "*.npz") for path in scene.stores.glob(ending)]
    path = chance.choice(sorted(written))
    content = path.read_bytes()
    flipped = bytearray(content)
    for _ in range(8):
        flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
    path.write_bytes(flipped)
    sweep.start()

    def back() -> None:
        # A copy of it, as the message wishes; what was made anew by then is good as it is.
        if path.exists() and path.read_bytes() == flipped:
            path.write_bytes(content)

    return back


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
    Fault("slow tracking server", "basic", slow_store),
    Fault("SIGKILL of PostgreSQL", "basic", kill_postgres),
    Fault("SQLite file gone", "basic", lose_database),
    Fault("project moved", "basic", move_project),
    Fault("folder of a cell removed", "basic", remove_cell),
    Fault("FIFO in the place of a file", "basic", fifo),
    Fault("flipped bits", "basic", flip_bits),
)

#: Those that need a tracking server, and of these the ones that need one on PostgreSQL.
WITH_SERVER = (kill_server, slow_store, kill_postgres)
WITH_POSTGRES = (kill_postgres,)


@contextmanager
def orphans_of(sweep: Sweep) -> Iterator[list[psutil.Process]]:
    """The processes below the launcher at this moment; the block's end waits until they are gone."""
    try:
        family = sweep.family()
    except psutil.NoSuchProcess:
        family = []
    yield family
    wait_for_orphans(family)


def _end(sweep: Sweep) -> None:
    """SIGKILL of a launcher that runs its jobs itself."""
    assert sweep.process is not None
    sweep.process.send_signal(signal.SIGKILL)
    sweep.wait()


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):  # it has ended by itself: a round without a fault
        process.send_signal(signal.SIGKILL)


def _restore(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _nothing() -> None:
    pass
