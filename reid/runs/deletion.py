"""Deleting tracked runs as `reid.runs delete` does it: look, refuse or ask, delete, say what was freed."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from reid.home import home
from reid.runs.selection import busy, families, short_ids, with_children
from reid.runs.tables import run_table, size
from reid.tracking import (
    RunRecord,
    Store,
    artifact_bytes,
    delete_runs,
    folder_bytes,
    registered_runs,
    run_folders,
)


def delete(
    console: Console,
    errors: Console,
    store: Store,
    runs: Sequence[RunRecord],
    chosen: Sequence[RunRecord],
    *,
    yes: bool,
    folders: bool,
    dry_run: bool,
) -> int:
    """Delete the chosen ones of `runs` and their children; the exit code.

    0 done (or nobody wanted it), 1 refused since a run is under way or registered, 2 nobody could be asked.
    Raises TrackingError and OSError where the store or a disk fails.
    """
    doomed = with_children(chosen, runs)
    known = run_folders([home() / "outputs", home() / "multirun"])
    places = {run.run_id: known.get(run.tags.get("reid.run_key", "")) for run in doomed}
    in_use = [(run, why) for run in doomed if (why := busy(run, places[run.run_id]))]
    registered = registered_runs(store)
    in_use += [
        (
            run,
            f"it is registered as {', '.join(registered[str(run.run_id)])}: delete that in MLflow first",
        )
        for run in doomed
        if str(run.run_id) in registered
    ]
    for run, why in in_use:
        errors.print(f"reid.runs: {run.run_id} ({run.name}) is not deleted: {why}")
    if in_use:
        errors.print("nothing was deleted. Choose others, or see to these first")
        return 1
    mine = [place for place in places.values() if place is not None] if folders else []
    stored = sum(artifact_bytes(store, run) for run in doomed)
    on_disk = sum(folder_bytes(place) for place in _outermost(mine))
    console.print(
        run_table(families(_in_order(doomed, runs)), "to delete, with all artifacts", short_ids(runs))
    )
    what = f"{len(doomed)} runs with {size(stored)} of artifacts"
    if folders:
        what += f", and {len(mine)} folders with {size(on_disk)}"
    if dry_run:
        console.print(f"would delete {what}")
        return 0
    if not yes:
        if not sys.stdin.isatty():
            errors.print("reid.runs delete: nobody is there to be asked: add --yes")
            return 2
        if console.input(f"delete {what}, for good? [y/N] ").strip().lower() not in ("y", "yes"):
            console.print("nothing was deleted")
            return 0
    removal = delete_runs(store, doomed)
    freed = removal.freed
    for place in _outermost(mine):
        freed += folder_bytes(place)
        shutil.rmtree(place)
    console.print(f"deleted {removal.runs} runs, {size(freed)} freed")
    if removal.left:
        console.print(removal.left, soft_wrap=True)
    kept = [] if folders else _outermost([place for place in places.values() if place is not None])
    if kept:
        taken = size(sum(folder_bytes(place) for place in kept))
        console.print(
            f"their folders stay, with {taken} (--folders takes them along): {', '.join(map(str, kept))}",
            soft_wrap=True,
        )
    return 0


def _in_order(doomed: Sequence[RunRecord], runs: Sequence[RunRecord]) -> list[RunRecord]:
    ids = {run.run_id for run in doomed}
    return [run for run in runs if run.run_id in ids]


def _outermost(folders: Sequence[Path]) -> list[Path]:
    """The folders that lie in no other of them: a sweep's holds those of its jobs."""
    return sorted(
        {one for one in folders if not any(one != other and one.is_relative_to(other) for other in folders)}
    )
