"""What a sweep left behind, and how it differs from the undisturbed one."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from reid.engine.checkpoint import load_checkpoint
from reid.engine.rundir import RunStatus
from reid.sweeps.sweep_file import SWEEP, job_statuses
from reid.tracking import default_store

#: What is measured with a clock.
TIMED = ("train/seconds", "train/images_per_second", "train/data_wait")

Key = tuple[str, str]  # config hash, folder of the data
Points = dict[str, list[tuple[int, float]]]  # metric -> (epoch, value)


@dataclass(frozen=True)
class Numbers:
    """All that a cell measured, and a hash of the weights that it ended with."""

    metrics: Points
    weights: str


@dataclass(frozen=True)
class Verdict:
    """cells: of the sweep. lost: without a finished run, on disk or in MLflow.  doubled: with several.

    left_open: runs in MLflow that are neither FINISHED nor closed because their folder was removed.  parents:
    sweeps in MLflow.  changed: cells whose numbers differ from the undisturbed sweep's.
    """

    cells: int
    lost: int
    doubled: int
    left_open: int
    parents: int
    changed: int

    @property
    def clean(self) -> bool:
        return (self.lost, self.doubled, self.left_open, self.parents, self.changed) == (0, 0, 0, 1, 0)


def judge(home: Path, store_uri: str, reference: dict[str, Numbers]) -> Verdict:
    """Compare the sweep in `home`, tracked in `store_uri`, with the reference (by config hash)."""
    jobs = all_jobs(home)
    runs = all_runs(home, store_uri)
    parents = [run for run in runs if run.data.tags.get("reid.kind") == "sweep"]
    parent_ids = {run.info.run_id for run in parents}
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") in parent_ids]
    strangers = len(runs) - len(parents) - len(children)
    finished = Counter(_key(run) for run in children if run.info.status == "FINISHED")
    lost = [job for job in jobs if job.status != "FINISHED" or not finished[_key_of(job)]]
    numbers = numbers_of(home, store_uri)
    changed = [job for job in jobs if job not in lost and numbers[_key_of(job)] != reference[job.config_hash]]
    return Verdict(
        cells=len(jobs),
        lost=len(lost),
        doubled=sum(count - 1 for count in finished.values() if count > 1),
        left_open=sum(not _is_closed(run) for run in runs) + strangers,
        parents=len(parents),
        changed=len(changed),
    )


def numbers_of(home: Path, store_uri: str) -> dict[Key, Numbers]:
    """The numbers of each finished cell of the sweep in `home`."""
    client = _client(home, store_uri)
    found = {}
    for job in all_jobs(home):
        if job.status != "FINISHED" or not job.run_id:
            continue
        names = client.get_run(job.run_id).data.metrics.keys() - set(TIMED)
        metrics = {name: client.get_metric_history(job.run_id, name) for name in sorted(names)}
        found[_key_of(job)] = Numbers(
            {name: sorted((point.step, point.value) for point in points) for name, points in metrics.items()},
            weights_hash(Path(job.run_dir) / "model.pt"),
        )
    return found


def weights_hash(path: Path) -> str:
    """sha256 over the names and bytes of the tensors of a checkpoint; what it says of itself is left out."""
    digest = hashlib.sha256()
    for name, tensor in sorted(load_checkpoint(path).model.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def all_jobs(home: Path) -> list[RunStatus]:
    """The cells of every sweep in `home`; there should be one sweep."""
    sweeps = sorted(path.parent for path in home.glob(f"multirun/*/{SWEEP}"))
    return [job for folder in sweeps for job in job_statuses(folder)]


def all_runs(home: Path, store_uri: str) -> list[Run]:
    client = _client(home, store_uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments, max_results=1000))


def _is_closed(run: Run) -> bool:
    """Whether a run is FINISHED, or closed since another took its place: its folder was removed."""
    begun_anew = run.data.tags.get("reid.error", "").endswith("begun anew")
    return run.info.status == "FINISHED" or (run.info.status == "KILLED" and begun_anew)


def _client(home: Path, store_uri: str) -> MlflowClient:
    return default_store(home, store_uri).client


def _key_of(job: RunStatus) -> Key:
    return job.config_hash, job.data_root


def _key(run: Run) -> Key:
    return run.data.tags.get("reid.config_hash", ""), run.data.params.get("dataset.root", "")
