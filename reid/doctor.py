"""What is wrong here? One page on this machine, to paste into a bug report: `python -m reid.doctor`.

It looks at what is installed, at memory, disks, cores and the GPU, at the tracking store, the data and the
weights, and, where one is named, at a checkpoint. It changes nothing, and names neither folders nor people.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from reid.config.dialects import CommandParser
from reid.engine.checkpoint_source import check_checkpoint
from reid.errors import UsageError
from reid.home import home
from reid.terminal import Terminal
from reid.tracking import default_store

_CHECKPOINT = "checkpoint="


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: nothing is wrong; 1: a problem was found; 2: asked wrongly."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.seconds <= 0:
        parser.error(f"--seconds {options.seconds}: expected a number above 0")
    try:
        if options.checkpoint is not None:
            if not Path(options.checkpoint).exists():
                options.checkpoint = options.checkpoint.removeprefix(_CHECKPOINT)
            check_checkpoint(options.checkpoint)
        if options.uri is not None:
            default_store(home(), options.uri)
    except (UsageError, OSError) as error:
        Terminal(stderr=True, soft_wrap=True).print(f"reid.doctor: {error}", highlight=False)
        return 2
    # Here, since what was typed wrongly is refused before anything is looked at.
    from reid.commands.doctor import run

    return run(options)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m reid.doctor",
        description="Say what is wrong on this machine, or with a checkpoint, on one page for a bug report. "
        "Nothing is changed, and neither your folders nor people are named on it.",
    )
    parser.add_argument(
        "checkpoint",
        nargs="?",
        metavar="CHECKPOINT",
        help="look at a trained model too: a file, a run's folder, an MLflow run id",
    )
    parser.add_argument(
        "--uri", help="the tracking store (default: MLFLOW_TRACKING_URI, else mlflow.db of the project)"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=20.0,
        metavar="N",
        help="to wait for one answer, such as that of a server or a disk (default: 20; four times as long "
        "for PyTorch and for a checkpoint)",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
