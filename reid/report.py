"""Make the report of a sweep again: `python -m reid.report runs=<parent>[,<another>…]`.

A parent is an MLflow run id or the sweep's folder.  Several are told as one table.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from reid.config.dialects import CommandParser
from reid.config.schema import RUN_ID
from reid.home import home
from reid.judging.queries import QUERIES
from reid.locks import NoLocksError
from reid.sweeps import summary
from reid.sweeps.callback import job_statuses
from reid.sweeps.outcome import SweptRun, runs_of_jobs, runs_of_records, settings_of, varying
from reid.tracking import (
    JOURNAL,
    Store,
    TrackingError,
    attach,
    children,
    default_store,
    describe,
    fetch_artifact,
    read_record,
    read_run,
    store_of,
)
from reid.tracking.journal import Journal

#: So many parameters may tell sweeps apart in a table beside the keys that they swept.
MOST_APART = 4


@dataclass(frozen=True)
class Sweep:
    """A sweep as it was found: `folder` is None where only the store knows it, `run_id` where it does not."""

    experiment: str
    tags: dict[str, str]
    store: Store
    run_id: str | None
    folder: Path | None

    @property
    def keys(self) -> list[str]:
        return [key for key in self.tags.get(summary.KEYS_TAG, "").split(", ") if key]

    @property
    def split(self) -> str:
        return self.tags.get(summary.SPLIT_TAG, "test")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: all is reported; 1: cells are missing, or it was not put on its run; 2: asked wrongly."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    try:
        names = [name for word in options.runs for name in word.removeprefix("runs=").split(",") if name]
        if not names:
            raise TrackingError(
                "runs= names no run. Give the id of a sweep's parent run, or the sweep's folder"
            )
        sweeps = [find_sweep(name, options.uri) for name in names]
        splits = sorted({sweep.split for sweep in sweeps})
        if len(splits) > 1:
            raise TrackingError(
                f"the sweeps were judged on {' and '.join(splits)}: their scores do not compare"
            )
        keys = list(dict.fromkeys(key for sweep in sweeps for key in sweep.keys))
        first = sweeps[0]
        usual = "+".join(
            dict.fromkeys(
                sweep.tags.get(summary.NAME_TAG) or summary.default_name(sweep.keys) for sweep in sweeps
            )
        )
        name = options.name or usual
        runs = [run for sweep in sweeps for run in runs_of(sweep, keys)]
        apart = told_apart_by(runs, splits[0]) if len(sweeps) > 1 else []
        if apart:
            keys += apart
            runs = [run for sweep in sweeps for run in runs_of(sweep, keys)]
        made = summary.build(runs, keys, splits[0], f"{first.experiment}: {name}", options.reference)
    except (TrackingError, ValueError) as error:
        print(f"reid.report: {error}", file=sys.stderr)
        return 2
    except NoLocksError as error:
        print(f"reid.report: {error}", file=sys.stderr)
        return 1
    try:
        place = summary.results_folder(first.experiment, name)
        written = summary.put(made, place, ",".join(sweep.run_id or str(sweep.folder) for sweep in sweeps))
    except OSError as error:
        print(f"reid.report: the report could not be written: {error}", file=sys.stderr)
        return 1
    print(summary.said(made, written, place))
    # One report of several sweeps belongs to none of them.
    told = _put_on_run(first, written, made.description(first.run_id)) if len(sweeps) == 1 else True
    return 0 if told and all(run.status == "FINISHED" for run in made.runs) else 1


def told_apart_by(runs: Sequence[SweptRun], split: str) -> list[str]:
    """What was typed differently in sweeps that went through the same keys: each is a key of one table.

    Empty where they differ in more than a table can show; the report says so then.
    """
    unlike = {name for setting in settings_of(runs, split, paired=False) for name in varying(setting)}
    return sorted(unlike) if len(unlike) <= MOST_APART else []


def find_sweep(name: str, uri: str | None = None) -> Sweep:
    """The sweep of this parent: a folder, or a run id, whose folder is used where it is still there.

    Raises:
        TrackingError: there is no such sweep.
    """
    folder = Path(name).expanduser().absolute()
    if RUN_ID.fullmatch(name) and not folder.exists():
        found = _folder_of(name)
        if found is None:
            store = default_store(home(), uri)
            record, experiment = read_run(store, name)
            if record.tags.get("reid.kind") != "sweep":
                raise TrackingError(f"run {name} ({record.name}) is not the parent of a sweep")
            return Sweep(experiment, record.tags, store, name, None)
        folder = found
    if not (folder / JOURNAL).is_file():
        raise TrackingError(
            f"{name} is no sweep: expected the id of a parent run (32 hexadecimal digits), or a folder such "
            "as multirun/2026-01-31_12-00-00-000000"
        )
    record = read_record(folder)
    if record.tags.get("reid.kind") != "sweep":
        raise TrackingError(f"{name} is a single run. Name the folder of the sweep that it belongs to")
    store = default_store(home(), uri) if uri else store_of(folder)
    return Sweep(str(Journal(folder).creation["experiment"]), record.tags, store, record.run_id, folder)


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
    path = fetch_artifact(store, run_id, summary.CELLS)
    if path is None:
        return []
    table = pd.read_csv(path, dtype=str)
    return [name for name in table.get("run_id", pd.Series(dtype=str)).dropna() if RUN_ID.fullmatch(name)]


def _folder_of(run_id: str) -> Path | None:
    """The folder of a sweep under multirun/ that is still there, by the id of its parent run."""
    for path in (home() / "multirun").glob(f"*/{JOURNAL}"):
        sent = Journal(path.parent).sent()
        if sent is not None and sent.run_id == run_id:
            return path.parent
    return None


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


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m reid.report",
        description="Make the report of a sweep again: table, figure, and whether the best setting is more "
        "than noise. It goes to the parent run and to outputs/reports/<experiment>/<name>, of a study in "
        "experiments/ to its results/<name>.",
        epilog="example: python -m reid.report runs=multirun/2026-01-31_12-00-00-000000",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="runs=PARENT[,PARENT…]",
        help="the MLflow run id of a sweep's parent, or the sweep's folder; several give one table",
    )
    parser.add_argument("--name", help="of the folder of the results (default: the sweep's own)")
    parser.add_argument("--reference", help="the setting that the others are compared with")
    parser.add_argument("--uri", help="the tracking store (default: that of the sweep)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
