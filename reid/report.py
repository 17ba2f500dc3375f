"""Make the report of a sweep again: `python -m reid.report runs=<parent>[,<another>…]`.

A parent is an MLflow run id or the sweep's folder.  Several are told as one table.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from reid.config.dialects import CommandParser
from reid.locks import NoLocksError
from reid.sweeps.tracked_sweep import find_sweep
from reid.tracking import TrackingError


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
    except (TrackingError, NoLocksError) as error:
        print(f"reid.report: {error}", file=sys.stderr)
        return 2 if isinstance(error, TrackingError) else 1
    # Here, since what was typed wrongly is refused before pandas and matplotlib are imported.
    from reid.commands.report import run

    return run(options, sweeps)


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
