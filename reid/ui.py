"""Open the MLflow UI on the store that the runs go to: `python -m reid.ui [--port 5000] [--uri …]`.

`--upgrade` brings a store of an older MLflow up to date, which nothing else does.
"""

import argparse
import os
import sys

from reid.config.dialects import CommandParser
from reid.home import home
from reid.tracking import Store, TrackingError, default_store, prepare_views, reason, ui_command


def main() -> None:
    """The command `python -m reid.ui` and `reid-ui`: serves on 127.0.0.1 until Ctrl-C."""
    options = _parser().parse_args()
    try:
        store = default_store(home(), options.uri)
        if options.upgrade:
            sys.exit(_upgrade(store, options.copied))
        command = ui_command(store, options.port)
    except TrackingError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    try:
        # MLflow's own server would bring tables of an older version up to date without a word.
        store.refuse_other_schema()
    except Exception as error:  # databases, file systems and networks all have their own
        print(f"error: {reason(error)}", file=sys.stderr)
        sys.exit(2 if isinstance(error, TrackingError) else 1)
    print(store.public_uri)
    try:
        views = prepare_views(store)
    except TrackingError as error:
        print(f"warning: {error}", file=sys.stderr)
        views = []
    address = f"http://127.0.0.1:{options.port}"
    print(f"MLflow UI: {address}  (ready within a minute; Ctrl-C ends it)")
    for view in views:
        print(f"  {view.experiment}: {address}{view.path}")
    sys.stdout.flush()
    # MLflow's background jobs serve features that are not used here, and double the time to start.
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.execvp(command[0], command)


def _upgrade(store: Store, copied: bool) -> int:
    """Bring the tables of the store up to date, and say what was done; the exit code."""
    done = store.upgrade(copied)
    if done is None:
        print(f"{store.public_uri} is up to date: nothing was changed")
        return 0
    print(f"{store.public_uri} is up to date now: revision {done.after}, which was {done.before or 'none'}")
    if done.copy is not None:
        print(f"as it was before: {done.copy}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="reid.ui", description=__doc__)
    parser.add_argument("--port", type=int, default=5000, help="on 127.0.0.1 (default: %(default)s)")
    parser.add_argument(
        "--uri", help="the store (default: MLFLOW_TRACKING_URI, else mlflow.db of the project)"
    )
    parser.add_argument(
        "--upgrade",
        action="store_true",
        help="open nothing, but bring a store that an older MLflow has made up to date; a sqlite file is "
        "copied first",
    )
    parser.add_argument(
        "--copied", action="store_true", help="with --upgrade: another database than sqlite was copied by you"
    )
    return parser


if __name__ == "__main__":
    main()
