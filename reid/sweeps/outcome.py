"""The runs of a sweep, gathered into settings: what was swept, without the seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from reid.config.identity import FOLLOWS, SELECTION, later_defaults
from reid.engine.rundir import RunStatus
from reid.judging.queries import QUERIES
from reid.retrieval import Measured
from reid.tracking import RunRecord, TrackingError, hide_home, read_record

SEED = "seed"
#: Groups of parameters that say where and how a run is made, not what it is.
NOT_THE_EXPERIMENT = ("seed", "device", "resume", "keep_last", "data.", "dataset.root", "tracking.", "sweep.")


@dataclass(frozen=True)
class SweptRun:
    """One cell of a sweep. `scores` holds fractions by their tracked names; {} if it did not finish."""

    values: dict[str, str]
    seed: str
    status: str
    scores: dict[str, float]
    error: str = ""
    run_id: str = ""
    config_hash: str = ""
    data: str = ""
    commit: str = ""
    params: Mapping[str, str] = field(default_factory=dict, repr=False)
    queries: Path | None = None
    data_name: str = ""

    @property
    def name(self) -> str:
        return setting_name({**self.values, SEED: self.seed})


@dataclass(frozen=True)
class Setting:
    """The runs that differ in nothing but their seed; `measured` are those that finished."""

    values: dict[str, str]
    runs: list[SweptRun]
    measured: Measured
    score: str

    @property
    def name(self) -> str:
        return setting_name(self.values) or "the config"

    @property
    def done(self) -> list[SweptRun]:
        return [run for run in self.runs if self.score in run.scores]

    def mean(self, score: str) -> float:
        """A fraction; NaN where no run has this score."""
        return _mean([run.scores[score] for run in self.runs if score in run.scores])

    def deviation(self, score: str) -> float:
        """The sample standard deviation over the seeds; NaN for fewer than two."""
        values = [run.scores[score] for run in self.runs if score in run.scores]
        return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def setting_name(values: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items() if value)


def runs_of_jobs(folder: Path, jobs: Iterable[RunStatus], keys: Sequence[str]) -> list[SweptRun]:
    """The cells of the sweep in `folder`, from what its jobs left on disk; needs no store."""
    runs = []
    for number, job in enumerate(jobs):
        # A cell may lie elsewhere: finished by another sweep, or beside its first attempt.
        place = Path(job.run_dir) if job.run_dir else folder / str(number)
        place = place if place.is_dir() else folder / str(number)
        try:
            record = read_record(place)
        except (TrackingError, OSError, ValueError):
            record = RunRecord(job.run_id, job.name, job.status)
        runs.append(_run(record, job.overrides, keys, job.status, job.scores, job.error, place / QUERIES))
    return runs


def runs_of_records(
    records: Iterable[RunRecord], keys: Sequence[str], queries: Mapping[str, Path]
) -> list[SweptRun]:
    """The cells of a sweep from the store's records of them; `queries` by run id."""
    runs = []
    for record in records:
        overrides = record.tags.get("reid.overrides", "").split(" ")
        error = record.tags.get("reid.error", "")
        path = queries.get(record.run_id or "")
        runs.append(_run(record, overrides, keys, record.status, record.metrics, error, path))
    return runs


def without_twins(runs: Iterable[SweptRun]) -> list[SweptRun]:
    """One run a cell: of those with one config and seed the first that finished, else the last."""
    cells: dict[tuple[object, ...], SweptRun] = {}
    for run in runs:
        key = (*run.values.items(), run.seed, run.config_hash)
        if key not in cells or cells[key].status != "FINISHED":
            cells[key] = run
    hashed = {(*run.values.items(), run.seed) for run in cells.values() if run.config_hash}
    # A cell that ended before it knew its hash, and was done later.
    return [run for run in cells.values() if run.config_hash or (*run.values.items(), run.seed) not in hashed]


def settings_of(runs: Sequence[SweptRun], split: str, paired: bool = True) -> list[Setting]:
    """The settings of a sweep, best mean mAP first, those without a finished run last.

    paired: read the scores by query too; False where the runs were judged on different data.
    """
    groups: dict[tuple[tuple[str, str], ...], list[SweptRun]] = {}
    for run in runs:
        groups.setdefault(tuple(run.values.items()), []).append(run)
    score = f"{split}/mAP"
    settings = []
    for values, group in groups.items():
        done = [run for run in group if score in run.scores]
        settings.append(Setting(dict(values), group, _measured(done, split, paired), score))
    return sorted(settings, key=lambda one: (not one.done, -one.mean(score) if one.done else 0.0))


def varying(setting: Setting) -> list[str]:
    """The parameters, without the seed, in which the runs of one setting differ: then it is not one.

    A run of older code lacks later keys, which it has at their defaults.
    """
    defaults = {key: str(value) for key, value in later_defaults().items()}
    known = [{**defaults, **run.params} for run in setting.runs if run.params]
    names = sorted(set().union(*known) - FOLLOWS.keys()) if known else []
    apart = [
        name
        for name in names
        if not name.startswith(NOT_THE_EXPERIMENT) and len({params.get(name) for params in known}) > 1
    ]
    if len({params.get(SELECTION) == "best" for params in known}) > 1:
        apart.append(SELECTION)
    return apart


def cell_table(runs: Iterable[SweptRun], keys: Sequence[str], split: str) -> pd.DataFrame:
    """One row a cell: keys, seed, scores as fractions (empty: not finished), status, provenance."""
    rows = []
    for run in runs:
        scores = {name: run.scores.get(f"{split}/{name}", math.nan) for name in ("mAP", "rank-1", "mINP")}
        rows.append(
            {
                **{key: run.values[key] for key in keys},
                SEED: run.seed,
                **{f"{split}/{name}": value for name, value in scores.items()},
                "status": run.status,
                "error": run.error,
                "run_id": run.run_id,
                "config_hash": run.config_hash,
                "data_fingerprint": run.data,
                "commit": run.commit,
            }
        )
    return pd.DataFrame(rows)


def _run(
    record: RunRecord,
    overrides: Sequence[str],
    keys: Sequence[str],
    status: str,
    scores: Mapping[str, float],
    error: str,
    queries: Path | None,
) -> SweptRun:
    typed = dict(override.lstrip("+~").partition("=")[::2] for override in overrides)
    known = {**record.params, **typed}
    finished = status == "FINISHED"
    return SweptRun(
        values={key: known.get(key, "") for key in keys if key != SEED},
        seed=known.get(SEED, ""),
        status=status,
        scores={name: value for name, value in scores.items() if math.isfinite(value)} if finished else {},
        error="" if finished else hide_home(error.partition("\n")[0])[:200],
        run_id=record.run_id or "",
        config_hash=record.tags.get("reid.config_hash", ""),
        data=record.tags.get("reid.data.fingerprint", ""),
        commit=record.tags.get("mlflow.source.git.commit", ""),
        params=record.params,
        queries=queries if queries is not None and queries.is_file() else None,
        data_name=record.tags.get("reid.data.name", ""),
    )


def _measured(done: Sequence[SweptRun], split: str, paired: bool) -> Measured:
    scores = np.array([run.scores[f"{split}/mAP"] for run in done], dtype=np.float64)
    tables = [_queries(run.queries, split) for run in done] if paired else []
    first = tables[0] if tables else None
    if first is None or len(first) == 0:
        return Measured(scores)
    precision = []
    for table in tables:
        if table is None or not table[["query", "pid"]].equals(first[["query", "pid"]]):
            return Measured(scores)
        precision.append(table["average_precision"].to_numpy(dtype=np.float64))
    return Measured(scores, np.stack(precision), first["pid"].to_numpy(dtype=np.int64))


def _queries(path: Path | None, split: str) -> pd.DataFrame | None:
    if path is None:
        return None
    try:
        table = pd.read_csv(path)
        return table[table["name"] == split].reset_index(drop=True)
    except (OSError, ValueError, KeyError):
        return None


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan
