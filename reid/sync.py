"""Send what a tracking store has not got yet: `python -m reid.sync [folders…]`.

Runs keep a journal beside themselves, so a run that outlived its tracking server can be sent later.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from reid.config.dialects import CommandParser
from reid.home import home
from reid.tracking import (
    JOURNAL,
    LateDelivery,
    Store,
    TrackingError,
    default_store,
    reason,
    send_late,
    store_of,
)

# Nobody waits in a training loop here, so a slow server gets more time than MLflow is given there.
_TIMEOUT_S = "30"
# A store that let us wait this long for a failure (its timeout) is not asked again for every other run.
_SLOW_S = 3.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: everything is sent; 1: something is not; 2: asked wrongly."""
    options = _parser().parse_args(arguments)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", _TIMEOUT_S)
    folders: list[Path] = options.folders or [home() / "outputs", home() / "multirun"]
    try:
        missing = [str(folder) for folder in options.folders if not folder.is_dir()]
        if missing:
            raise TrackingError(f"no such folder: {', '.join(missing)}. Give folders that hold runs")
        store = default_store(home(), options.uri) if options.uri else None
    except TrackingError as error:
        print(f"reid.sync: {error}", file=sys.stderr)
        return 2

    runs = find_runs(folders)
    if not runs:
        print(f"no runs under {', '.join(map(str, folders))}")
        return 0
    dead: set[Store] = set()
    unsent = sum(not _sync(folder, store, options.again, dead) for folder in runs)
    print(f"{len(runs)} runs, {unsent} of them not wholly sent" if unsent else f"{len(runs)} runs, all sent")
    return 1 if unsent else 0


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """The folders at or below `folders` that hold a journal, a sweep's own before those of its jobs."""
    found = {path.parent for folder in folders for path in folder.resolve().rglob(JOURNAL)}
    return sorted(found, key=lambda folder: (len(folder.parts), folder))


def _sync(folder: Path, store: Store | None, again: bool, dead: set[Store]) -> bool:
    """Send one run, print a line if there was anything to send, return whether the store has all of it."""
    started = time.monotonic()
    try:
        store = store or store_of(folder)
        if store in dead:
            raise TrackingError(f"{store.public_uri} does not answer")
        late = send_late(folder, store, again)
    except (TrackingError, OSError) as error:
        print(f"{folder}: not sent: {error}")
        return False
    delivery = late.delivery
    if delivery.error is not None and time.monotonic() - started > _SLOW_S:
        dead.add(store)
    if delivery.sent or delivery.left:
        print(f"{folder}: {_outcome(late)}")
    return delivery.error is None


def _outcome(late: LateDelivery) -> str:
    delivery = late.delivery
    parts = ["its process had died, marked FAILED"] if late.died else []
    parts.append(f"{delivery.sent} operations sent to {late.store.public_uri}")
    parts += [f"refused there: {refusal}" for refusal in delivery.refused]
    if delivery.error is not None:
        parts.append(f"{delivery.left} left: {reason(delivery.error)}")
    return "; ".join(parts)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m reid.sync",
        description="Send what a tracking store has not got yet of the runs on disk.",
    )
    parser.add_argument(
        "folders",
        nargs="*",
        type=Path,
        help="where to look for runs, at any depth (default: outputs/ and multirun/)",
    )
    parser.add_argument("--uri", help="send to this store (default: the one that each run was started with)")
    parser.add_argument(
        "--again",
        action="store_true",
        help="send whole journals, for a store that lost its runs; what it still has stays as it is",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
