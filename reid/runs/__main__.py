"""The tracked runs: `python -m reid.runs list | show | compare | register | delete`.

A run is named by its MLflow id or the beginning of it. Parents are the runs of whole sweeps, their children
the jobs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from reid.config.dialects import CommandParser
from reid.home import home
from reid.runs.deletion import delete
from reid.runs.details import details, show_details
from reid.runs.selection import (
    STATUSES,
    RunFilter,
    died,
    find_run,
    incomparable,
    known_experiment,
    newest_families,
    seconds,
    short_ids,
)
from reid.runs.tables import comparison, run_row, run_table, show_comparison, write_csv
from reid.terminal import Terminal
from reid.tracking import (
    SCHEME,
    RunRecord,
    Store,
    TrackingError,
    all_runs,
    check_names_to_register,
    children,
    default_store,
    experiment_names,
    newest_runs,
    register,
    runs_of_ids,
    runs_that_begin,
)

# Nobody waits in a training loop here, so a slow server gets more time than MLflow is given there.
_TIMEOUT_S = "30"


@dataclass(frozen=True)
class Request:
    """One call: where to answer, every run of the store, those that were named, and the options."""

    console: Console
    errors: Console
    store: Store
    runs: Sequence[RunRecord]
    chosen: Sequence[RunRecord]
    options: argparse.Namespace


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: done; 1: the store failed, or a run must not be deleted; 2: asked wrongly."""
    parser = _parser()
    options = parser.parse_args(arguments)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", _TIMEOUT_S)
    console, errors = Terminal(highlight=False), Terminal(stderr=True, soft_wrap=True, highlight=False)
    try:
        store = default_store(home(), options.uri)
        if options.act is _register:
            check_names_to_register(options.name, options.alias)
    except TrackingError as error:
        errors.print(f"reid.runs: {error}")
        return 2
    try:
        runs = _needed_runs(store, options)
        experiment = getattr(options, "experiment", None)
        experiments = [] if experiment is None else experiment_names(store)
    except TrackingError as error:
        errors.print(f"reid.runs: {error}")
        return 1
    try:
        if experiment is not None:
            known_experiment(experiments, experiment)
        chosen = [find_run(runs, name) for name in getattr(options, "runs", [])]
    except TrackingError as error:
        errors.print(f"reid.runs: {error}")
        return 2
    try:
        return int(options.act(Request(console, errors, store, runs, chosen, options)))
    except (TrackingError, OSError) as error:
        errors.print(f"reid.runs: {error}")
        return 1


def _needed_runs(store: Store, options: argparse.Namespace) -> list[RunRecord]:
    """The runs that are named, with their parents and the children of either; or all, for a filter.

    All, too, where a name is not that of one run, for the words that say what may be meant.
    """
    if options.act is _list:
        return []
    names = [name.lower() for name in getattr(options, "runs", [])]
    if not names or not all(re.fullmatch("[0-9a-f]{1,32}", name) for name in names):
        return all_runs(store)
    found = [runs_that_begin(store, name) for name in names]
    if any(len(runs) != 1 for runs in found):
        return all_runs(store)
    chosen = [run for runs in found for run in runs]
    heads = {run.parent or str(run.run_id) for run in chosen}
    parents = runs_of_ids(store, {run.parent for run in chosen if run.parent})
    known = {str(run.run_id) for run in [*parents, *chosen]}
    kin = [run for head in heads & known for run in children(store, head)]
    near = {run.run_id: run for run in [*chosen, *parents, *kin]}
    return sorted(near.values(), key=lambda run: run.started or 0.0, reverse=True)


def _list(request: Request) -> int:
    options, console, now = request.options, request.console, time.time()
    run_filter = _run_filter(options)
    # A family is shown whole where any of it fits: what failed is seen beside what did not.
    shown, taken, more = newest_families(
        newest_runs(request.store, options.experiment),
        options.limit,
        lambda run: run_filter.fits(run, now),
        lambda ids: {str(run.run_id) for run in runs_of_ids(request.store, ids)},
    )
    rows = [run_row(run) for head, kin in shown for run in [head, *kin]]
    if options.json:
        print(json.dumps(rows, indent=2))
    elif options.csv:
        write_csv(rows, list(_CSV_COLUMNS))
    elif not shown:
        console.print(f"no such runs in {request.store.public_uri}", soft_wrap=True)
    else:
        ids, gone = short_ids(taken), died(run for head, kin in shown for run in [head, *kin])
        for name in dict.fromkeys(head.experiment for head, _ in shown):
            of_it = [family for family in shown if family[0].experiment == name]
            console.print(run_table(of_it, f"experiment {name}", ids, gone))
        if gone:
            console.print(
                "died: says RUNNING, but its process is gone; `python -m reid.sync` marks it FAILED"
            )
        if more:
            console.print("older ones are not shown: --limit 0 shows all")
    return 0


def _show(request: Request) -> int:
    facts = details(request.store, request.chosen[0], request.runs)
    if request.options.json:
        print(json.dumps(facts, indent=2))
    else:
        show_details(request.console, facts)
    return 0


def _compare(request: Request) -> int:
    if len({run.run_id for run in request.chosen}) < 2:
        request.errors.print("reid.runs compare: give two runs or more")
        return 2
    found = {**comparison(request.chosen), "warnings": incomparable(request.chosen)}
    if request.options.json:
        print(json.dumps(found, indent=2))
        return 0
    show_comparison(request.console, request.chosen, found)
    for warning in found["warnings"]:
        request.errors.print(f"warning: {warning}: not a comparison of the settings alone")
    return 0


def _register(request: Request) -> int:
    options, run = request.options, request.chosen[0]
    if run.tags.get("reid.kind") != "run":
        request.errors.print(
            f"reid.runs register: {run.run_id} ({run.name}) is a {run.tags.get('reid.kind')}, which has no "
            "model. Name a run of reid.train: `python -m reid.runs show` lists those of a sweep"
        )
        return 2
    version = register(request.store, str(run.run_id), options.name, options.alias)
    names = [f"{SCHEME}{options.name}/{version}"]
    if options.alias:
        names.insert(0, f"{SCHEME}{options.name}@{options.alias}")
    request.console.print(
        f"registered as version {version} of {options.name}: every command takes it as checkpoint="
        f"{' or '.join(names)}",
        soft_wrap=True,
    )
    return 0


def _delete(request: Request) -> int:
    options, run_filter, now = request.options, _run_filter(request.options), time.time()
    if not request.chosen and not run_filter:
        request.errors.print(
            "reid.runs delete: name runs, or say which by --experiment, --status or --older-than"
        )
        return 2
    doomed = [run for run in request.chosen or request.runs if run_filter.fits(run, now)]
    if not doomed:
        request.console.print("no run fits: nothing to delete")
        return 0
    return delete(
        request.console,
        request.errors,
        request.store,
        request.runs,
        doomed,
        yes=options.yes,
        folders=options.folders,
        dry_run=options.dry_run,
    )


def _run_filter(options: argparse.Namespace) -> RunFilter:
    return RunFilter(options.experiment, options.status, options.older_than)


_CSV_COLUMNS = run_row(RunRecord(None, "", ""))


def _age(text: str) -> float:
    try:
        return seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of runs, 0 for all")
    return int(text)


def _filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--experiment", help="only those of this experiment (study)")
    parser.add_argument("--status", choices=STATUSES, type=str.upper, help="only those that ended so")
    parser.add_argument(
        "--older-than", type=_age, metavar="AGE", help="only those that ended so long ago: 30d, 12h, 2w"
    )


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m reid.runs",
        description="The tracked runs, sweeps with their jobs. A run is named by (the beginning of) its id.",
    )
    common = CommandParser(add_help=False)
    common.add_argument(
        "--uri", help="the store (default: MLFLOW_TRACKING_URI, else mlflow.db of the project)"
    )
    commands = parser.add_subparsers(required=True, metavar="list | show | compare | register | delete")

    listing = commands.add_parser(
        "list", parents=[common], help="all runs, newest first, jobs below their sweep"
    )
    _filters(listing)
    listing.add_argument(
        "--limit", type=_count, default=20, help="sweeps and single runs to show, 0 for all (default: 20)"
    )
    form = listing.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for scripts: scores are fractions, times UTC")
    form.add_argument("--csv", action="store_true", help="the same as a table")
    listing.set_defaults(act=_list)

    showing = commands.add_parser("show", parents=[common], help="everything about one run")
    showing.add_argument("runs", nargs=1, metavar="run")
    showing.add_argument("--json", action="store_true", help="for scripts")
    showing.set_defaults(act=_show)

    comparing = commands.add_parser(
        "compare", parents=[common], help="what differs between runs, side by side"
    )
    comparing.add_argument("runs", nargs="+", metavar="run")
    comparing.add_argument("--json", action="store_true", help="for scripts")
    comparing.set_defaults(act=_compare)

    registering = commands.add_parser(
        "register", parents=[common], help="give the model of a run a name in MLflow's registry"
    )
    registering.add_argument("runs", nargs=1, metavar="run")
    registering.add_argument("--name", required=True, help="such as reid-market")
    registering.add_argument(
        "--alias", help="of this version, such as champion; it moves from the version that had it"
    )
    registering.set_defaults(act=_register)

    deleting = commands.add_parser(
        "delete", parents=[common], help="delete runs for good, with their artifacts; a sweep with its jobs"
    )
    deleting.add_argument("runs", nargs="*", metavar="run")
    _filters(deleting)
    deleting.add_argument("--yes", action="store_true", help="do not ask")
    deleting.add_argument("--dry-run", action="store_true", help="show what would go, delete nothing")
    deleting.add_argument(
        "--folders", action="store_true", help="the runs' folders under outputs/ and multirun/ too"
    )
    deleting.set_defaults(act=_delete)
    return parser


if __name__ == "__main__":
    sys.exit(main())
