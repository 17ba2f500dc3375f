"""From the folder of the table's sweep to its runs, its failures and its provenance."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from experiments.reproduce_table.table import Run
from reid.engine.rundir import RunStatus
from reid.home import home
from reid.sweeps.cells import Cell, alike
from reid.sweeps.sweep_file import NOT_BEGUN, SweepFile, find_sweep, job_statuses
from reid.tracking import Store, TrackingError, read_record, run_address
from reid.tracking.sources import code

_VERSIONS = ("python", "torch", "torchvision", "timm", "numpy")


def sweep_folder(cells: Sequence[Cell], experiment: str) -> Path | None:
    """The newest folder of the sweep of these cells by code of our numbers; None where there is none."""
    trained = [[cell.config_hash, cell.data_root] for cell in cells]
    return find_sweep(SweepFile(experiment, code(), trained), home() / "multirun", alike(cells))


def finished_runs(folder: Path, store: Store) -> tuple[list[Run], list[str]]:
    """The finished runs of a sweep, and a line for each of its other jobs that was begun."""
    runs, failures = [], []
    for status in job_statuses(folder):
        if (status.error or "").startswith(NOT_BEGUN):
            continue
        if status.status != "FINISHED":
            failures.append(f"{' '.join(status.overrides[:3])}: {status.error or status.status}")
            continue
        try:
            runs.append(read_run(status, store))
        except (TrackingError, KeyError, OSError) as error:
            failures.append(f"{' '.join(status.overrides[:3])}: {status.run_dir} cannot be read: {error}")
    return runs, failures


def read_run(status: RunStatus, store: Store) -> Run:
    """A finished run as its folder records it: its scores are those after its last epoch.

    Raises:
        TrackingError, OSError: its journal cannot be read.
        KeyError: its network, data or seed are not recorded.
    """
    record = read_record(Path(status.run_dir))
    run_id = record.run_id or status.run_id
    return Run(
        record.params["backbone.name"],
        record.tags["reid.data.name"],
        int(record.params["seed"]),
        status.scores,
        run_id,
        run_address(store, run_id) if run_id else None,
        {**record.tags, "code": status.code, "device": record.params["device"]},
    )


def provenance(runs: Iterable[Run], command: str) -> dict[str, str]:
    """How the numbers came about: what all runs have in common, or each different value."""
    runs = list(runs)
    facts = {"command": command, "date": datetime.now(UTC).strftime("%Y-%m-%d")}
    if not runs:
        return facts
    facts["seeds"] = _each(str(run.seed) for run in runs)
    facts["commit"] = _each(_commit(run) for run in runs)
    facts["numbers of reid/'s code"] = _each(run.facts["code"] for run in runs)
    for dataset in dict.fromkeys(run.dataset for run in runs):
        own = [run for run in runs if run.dataset == dataset]
        facts[f"data of {dataset}"] = _each(
            f"fingerprint {run.facts.get('reid.data.fingerprint')} ({run.facts.get('reid.data.training')}; "
            f"{run.facts.get('reid.data.judged')})"
            for run in own
        )
    facts["device"] = _each(_device(run) for run in runs)
    facts["versions"] = _each(
        ", ".join(f"{name} {run.facts.get(f'reid.version.{name}')}" for name in _VERSIONS) for run in runs
    )
    return facts


def _commit(run: Run) -> str:
    dirty = " with changes" if run.facts.get("reid.git.dirty") == "true" else ""
    return f"{run.facts.get('reid.git.sha', 'none')}{dirty}"


def _device(run: Run) -> str:
    facts = run.facts
    gpu = facts.get("reid.gpu", "none")
    if gpu != "none" and run.facts["device"] != "cpu":
        return gpu
    return f"{facts.get('reid.cpu')}, {facts.get('reid.cpu_count')} cores"


def _each(values: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(values))
