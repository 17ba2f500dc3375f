"""Places that the jobs of this machine share: one job a GPU, however they were started."""

import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from reid.limits import cores
from reid.locks import FileLock, Timeout

log = logging.getLogger(__name__)

_POLL_S = 0.5


def slots_folder() -> Path:
    """Where the locks of this user's slots lie: on this machine, since its devices are what they count."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    return Path(tempfile.gettempdir()) / f"reid-slots-{user}"


def places() -> int:
    """How many jobs fit this machine at a time: one a GPU, without GPUs one a core."""
    return torch.cuda.device_count() or cores()


def gpus() -> list[str]:
    """The GPUs that this process sees, in its order, by names that are the same in every process.

    Their numbers are not: Slurm and CUDA_VISIBLE_DEVICES let each process count from 0.
    """
    return [
        f"gpu-{torch.cuda.get_device_properties(number).uuid}" for number in range(torch.cuda.device_count())
    ]


@contextmanager
def slot(names: Sequence[str], folder: Path | None = None) -> Iterator[int]:
    """Hold one of these places until the block ends, and wait as long as all are held.

    A place is a file lock: the operating system frees it when its holder is killed.  Yields its index in
    `names`; the first free one is taken.
    """
    folder = folder or slots_folder()
    folder.mkdir(parents=True, exist_ok=True)
    reported = False
    while True:
        for number, name in enumerate(names):
            lock = FileLock(folder / f"{name}.lock", timeout=0)
            try:
                lock.acquire()
            except Timeout:
                continue
            try:
                yield number
            finally:
                lock.release()
            return
        if not reported:
            log.info("all %d places are taken: waiting for one of %s", len(names), ", ".join(names))
            reported = True
        time.sleep(_POLL_S)


def jobs_at_once(launcher: str, n_jobs: int, cells: int, places: int) -> int:
    """How many jobs of a sweep run at the same time on this machine.

    launcher: the name of Hydra's launcher, such as `basic`, `joblib`, `submitit_local`, `submitit_slurm`.
    n_jobs: what joblib is set to (-1: one a core).  cells: jobs of the sweep.  places: GPUs, else cores.
    """
    if launcher == "joblib":
        return max(1, min(cells, places if n_jobs < 0 else n_jobs))
    if launcher == "submitit_local":
        return max(1, min(cells, places))
    return 1
