"""Several processes at one study: each runs the command again and takes the trials that no other holds."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from experiments.tune.study import Search
from reid.jobs.job import Job
from reid.limits import cores

#: Set for a worker.
WORKER = "REID_STUDY_WORKER"


def run_workers(search: Search, job: Job) -> None:
    """Start `study.jobs` workers and wait until no trial is left for them; a stop signal stops them too.

    A worker that dies loses no finished trial, and its own goes on elsewhere.
    """
    jobs = search.settings.study.jobs
    workers: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(jobs):
            place = search.folder / "workers" / str(number)
            words = [*search.overrides, f"hydra.run.dir='{place}'"]
            command = [sys.executable, "-m", "experiments.tune", *words]
            workers.append(subprocess.Popen(command, env=_environment(number, jobs)))
        for number, worker in enumerate(workers):
            if worker.wait() != 0:
                job.console.print(f"worker {number} ended with {worker.returncode}; the others have gone on")
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.terminate()
        for worker in workers:
            worker.wait()


def _environment(number: int, jobs: int) -> dict[str, str]:
    """Its share of the cores, and where there are several GPUs one of them."""
    own = {WORKER: str(number), "OMP_NUM_THREADS": str(max(1, cores() // jobs))}
    root = str(Path(__file__).resolve().parents[2])
    own["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    if torch.cuda.device_count() > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = visible.split(",") if visible else [str(gpu) for gpu in range(torch.cuda.device_count())]
        own["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    return {**os.environ, **own}
