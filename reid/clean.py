"""What takes the disk, and what of it can go: `python -m reid.clean`, and with `--yes` it goes.

Decoded images, the training states of finished runs, second copies of models in MLflow's folders, what killed
processes have left. Nothing that a resume needs, that a process uses, or that is the only copy is touched.
"""

import argparse
import sys
from collections.abc import Sequence

from reid.config.dialects import CommandParser
from reid.errors import UsageError
from reid.home import home
from reid.terminal import Terminal
from reid.tracking import default_store

#: The kinds of files, and what each is.
KINDS = {
    "stores": "decoded images (data.store), and what killed processes left beside them",
    "last": "last.pt of finished runs",
    "cells": "last.pt of stopped runs whose very same config was finished elsewhere",
    "copies": "copies in MLflow's folder of models that also lie in the folder of their run",
    "logged_model": "what was sent to MLflow beside the model",
    "partial": "half-written files of killed processes",
    "index": "features that no index names any more",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: listed, or all that could go is gone; 1: some of it stayed; 2: asked wrongly."""
    options = _parser().parse_args(arguments)
    try:
        default_store(home(), options.uri)
    except UsageError as error:
        Terminal(stderr=True, soft_wrap=True).print(f"reid.clean: {error}", highlight=False)
        return 2
    # Here, since what was typed wrongly is refused before the disk is looked through.
    from reid.commands.clean import run

    return run(options, {kind: KINDS[kind] for kind in options.only or KINDS})


def _kinds(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in KINDS:
            raise argparse.ArgumentTypeError(f"{name!r}: expected one of {', '.join(KINDS)}")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m reid.clean",
        description="List what takes the disk, what can go, and what is lost then. Without --yes nothing "
        "goes. Kinds: " + "; ".join(f"{kind}: {what}" for kind, what in KINDS.items()) + ".",
    )
    parser.add_argument("--yes", action="store_true", help="remove all that is listed as what can go")
    parser.add_argument(
        "--only",
        type=_kinds,
        action="extend",
        metavar="KIND",
        help="only files of this kind; several as last,partial",
    )
    parser.add_argument("--files", action="store_true", help="name every file and folder")
    parser.add_argument("--json", action="store_true", help="list everything as JSON")
    parser.add_argument(
        "--store", metavar="FOLDER", help="where the decoded images lie (default: data.store)"
    )
    parser.add_argument(
        "--uri",
        help="the tracking store whose copies are looked at (default: MLFLOW_TRACKING_URI, else mlflow.db "
        "of the project)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
