"""Open the MLflow UI on the store that the runs go to: `python -m reid.ui [--port 5000] [--uri …]`."""

import argparse
import os
import sys

from reid.config.dialects import CommandParser
from reid.home import home
from reid.tracking import TrackingError, default_store, prepare_views, ui_command


def main() -> None:
    """The command `python -m reid.ui` and `reid-ui`: serves on 127.0.0.1 until Ctrl-C."""
    options = _parser().parse_args()
    try:
        store = default_store(home(), options.uri)
        command = ui_command(store, options.port)
    except TrackingError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
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


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="reid.ui", description=__doc__)
    parser.add_argument("--port", type=int, default=5000, help="on 127.0.0.1 (default: %(default)s)")
    parser.add_argument(
        "--uri", help="the store (default: MLFLOW_TRACKING_URI, else mlflow.db of the project)"
    )
    return parser


if __name__ == "__main__":
    main()
