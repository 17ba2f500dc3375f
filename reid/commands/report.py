"""The report of sweeps made again: their cells, from their folders or from the store, as one table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from reid.config.schema import RUN_ID
from reid.judging.queries import QUERIES
from reid.locks import NoLocksError
from reid.sweeps import summary as report
from reid.sweeps.outcome import SweptRun, runs_of_jobs, runs_of_records, settings_of, varying
from reid.sweeps.sweep_file import job_statuses
from reid.sweeps.tracked_sweep import NAME_TAG, Sweep
from reid.tracking import Store, TrackingError, attach, children, describe, fetch_artifact, read_run

#: So many parameters may tell sweeps apart in a table beside the keys that they swept.
MOST_APART = 4


def run(options: argparse.Namespace, sweeps: Sequence[Sweep]) -> int:
    """What `python -m reid.report` does with its options and the sweeps that they name; the exit code."""
    split, first = sweeps[0].split, sweeps[0]
    keys = list(dict.fromkeys(key for sweep in sweeps for key in sweep.keys))
    names = dict.fromkeys(sweep.tags.get(NAME_TAG) or report.default_name(sweep.keys) for sweep in sweeps)
    name = options.name or "+".join(names)
    try:
        runs = [run for sweep in sweeps for run in runs_of(sweep, keys)]
        apart = told_apart_by(runs, split) if len(sweeps) > 1 else []
        if apart:
            keys += apart
            runs = [run for sweep in sweeps for run in runs_of(sweep, keys)]
        made = report.build(runs, keys, split, f"{first.experiment}: {name}", options.reference)
    except (TrackingError, ValueError) as error:
        print(f"reid.report: {error}", file=sys.stderr)
        return 2
    except NoLocksError as error:
        print(f"reid.report: {error}", file=sys.stderr)
        return 1
    try:
        place = report.results_folder(first.experiment, name)
        written = report.write_report(
            made, place, ",".join(sweep.run_id or str(sweep.folder) for sweep in sweeps)
        )
    except OSError as error:
        print(f"reid.report: the report could not be written: {error}", file=sys.stderr)
        return 1
    print(report.terminal_text(made, written, place))
    # One report of several sweeps belongs to none of them.
    is_on_run = _put_on_run(first, written, made.description(first.run_id)) if len(sweeps) == 1 else True
    return 0 if is_on_run and all(run.status == "FINISHED" for run in made.runs) else 1


def told_apart_by(runs: Sequence[SweptRun], split: str) -> list[str]:
    """What was typed differently in sweeps that went through the same keys: each is a key of one table.

    Empty where they differ in more than a table can show; the report says so then.
    """
    unlike = {name for setting in settings_of(runs, split, paired=False) for name in varying(setting)}
    return sorted(unlike) if len(unlike) <= MOST_APART else []


def runs_of(sweep: Sweep, keys: Sequence[str]) -> list[SweptRun]:
    """The cells of a sweep: from its folder, or else what the store has of them.

    Raises:
        TrackingError: the store does not answer.
    """
    if sweep.folder is not None:
        return runs_of_jobs(sweep.folder, job_statuses(sweep.folder), keys)
    assert sweep.run_id is not None
    records = children(sweep.store, sweep.run_id)
    # Cells that another sweep had finished are children of that one; the last report knows them.
    known = {record.run_id for record in records}
    records += [
        read_run(sweep.store, run_id)[0]
        for run_id in _reported(sweep.store, sweep.run_id)
        if run_id not in known
    ]
    queries = {}
    for record in records:
        path = fetch_artifact(sweep.store, record.run_id, QUERIES) if record.run_id else None
        if record.run_id and path is not None:
            queries[record.run_id] = path
    return runs_of_records(records, keys, queries)


def _reported(store: Store, run_id: str) -> list[str]:
    """The run ids that the last report of a sweep holds."""
    path = fetch_artifact(store, run_id, report.CELLS)
    if path is None:
        return []
    table = pd.read_csv(path, dtype=str)
    return [name for name in table.get("run_id", pd.Series(dtype=str)).dropna() if RUN_ID.fullmatch(name)]


def _put_on_run(sweep: Sweep, files: Sequence[Path], markdown: str) -> bool:
    """Replace the report on the parent run; say so where that was not possible."""
    if sweep.run_id is None:
        print(f"not on the parent run, which was never sent: python -m reid.sync {sweep.folder}")
        return False
    try:
        for path in files:
            attach(sweep.store, sweep.run_id, path, "")
        describe(sweep.store, sweep.run_id, markdown)
    except TrackingError as error:
        print(f"not on the parent run: {error}", file=sys.stderr)
        return False
    return True
