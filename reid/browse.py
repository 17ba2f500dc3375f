"""Look at what a model does: `python -m reid.browse [RUN]` opens a page on this machine.

RUN is a checkpoint, a run's folder or an MLflow run id. `--against` adds a second one, `--dataset`
takes other data than the model was trained on, and `--gallery` opens an index of `reid.index`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from reid.config.dialects import CommandParser
from reid.engine.checkpoint_source import check_checkpoint, newest_model
from reid.engine.errors import CheckpointError
from reid.errors import UsageError
from reid.home import home
from reid.jobs.data_source import SPELLINGS, open_source
from reid.terminal import Terminal


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: the page was closed by Ctrl-C; 1: something failed; 2: asked wrongly."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not 0 <= options.port < 2**16:
        parser.error(f"--port {options.port}: expected 0 (any that is free) to 65535")
    if options.source is None and (options.root is not None or options.option):
        parser.error("--root and --option say more of --dataset: name that too")
    if options.gallery is not None and (options.source or options.against):
        parser.error("--gallery opens an index, which is its own data: leave out --dataset and --against")
    try:
        for name, key in ((options.run, "RUN"), (options.against, "--against")):
            if name is not None:
                check_checkpoint(name, key)
        if options.gallery is not None:
            from reid.gallery import Index

            Index.open(options.gallery)  # refused here where there is none
        else:
            options.run = options.run or _newest()
        terminal = Terminal(stderr=True, soft_wrap=True)
        from reid.jobs.console import ConsoleProgress  # help and argparse's errors need not wait for it

        dataset = open_source(options, ConsoleProgress(terminal)) if options.source else None
        # Here, since what was typed wrongly is refused before torch is imported.
        from reid.commands.browse import run

        return run(options, dataset)
    except (UsageError, OSError) as error:
        Terminal(stderr=True, soft_wrap=True).print(f"reid.browse: {error}", highlight=False)
        return 2 if isinstance(error, UsageError) else 1


def _newest() -> str:
    try:
        return str(newest_model())
    except CheckpointError as error:
        raise CheckpointError(
            f"there is nothing to look at yet: no run under {home() / 'outputs'} has a model.pt. Train one "
            "with make quickstart (python -m reid.train experiment=quickstart), or name a checkpoint"
        ) from error


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        also={**SPELLINGS, "dataset": "--dataset {value}", "checkpoint": "{value}"},
        prog="python -m reid.browse",
        description="Look at what a model does: queries, ranked lists, a map of the features, labels that it "
        "doubts, a search by a picture. A page on this machine alone.",
    )
    parser.add_argument(
        "run",
        nargs="?",
        metavar="RUN",
        help="a checkpoint, a run's folder or an MLflow run id (default: the newest model.pt under outputs/)",
    )
    parser.add_argument("--against", metavar="OTHER", help="a second model, compared query by query")
    parser.add_argument(
        "--dataset",
        dest="source",
        metavar="SOURCE",
        help="a table (crops.csv), a folder, or a dataset's name (default: that of the model's training)",
    )
    parser.add_argument("--root", help="where that dataset lies, or where a table's relative paths start")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other key of that dataset, as in dataset.KEY=VALUE; may be given again",
    )
    parser.add_argument("--gallery", metavar="INDEX", help="an index of reid.index, in place of a dataset")
    parser.add_argument(
        "--corrections",
        type=Path,
        metavar="FILE.csv",
        help="where verdicts on labels go (default: outputs/corrections/<dataset>.csv)",
    )
    parser.add_argument(
        "--camera", metavar="N",
        help="of a model that has learnt cameras: the one that pictures to search for are of, or mean for "
        "any other",
    )  # fmt: skip
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1 (default: any that is free)")
    parser.add_argument("--no-open", action="store_true", help="print the address, and open no browser")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser


if __name__ == "__main__":
    sys.exit(main())
