"""The doors of `python -m reid.data.check`, `.split` and `.stores`.

The room `reid.data` knows no config and no console: what its commands need of them is handed over here.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from reid.config.dialects import CommandParser
from reid.config.schema import DataConfig, register
from reid.data import check as checking
from reid.data import silent
from reid.data import split as splitting
from reid.data import stores as storing
from reid.errors import UsageError
from reid.jobs.data_source import SPELLINGS, add_source, open_source
from reid.terminal import Terminal


def check_parser() -> CommandParser:
    parser = CommandParser(also=SPELLINGS, prog="python -m reid.data.check", description=checking.DESCRIPTION)
    add_source(parser)
    checking.add_options(parser)
    return parser


def check(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: nothing found; 1: trouble; 2: asked wrongly, or no dataset that could be looked at."""
    options = check_parser().parse_args(arguments)
    from reid.jobs.console import ConsoleProgress  # help and argparse's errors need not wait for it

    console = Terminal(soft_wrap=True, highlight=False)
    progress = silent if options.json else ConsoleProgress(console)
    try:
        dataset = open_source(options, progress)
    except (UsageError, OSError) as error:
        print(f"reid.data.check: {error}", file=sys.stderr)
        return 2
    return checking.check(dataset, options, console, progress)


def split_parser() -> CommandParser:
    parser = CommandParser(
        also=SPELLINGS, prog="python -m reid.data.split", description=splitting.DESCRIPTION
    )
    add_source(parser)
    splitting.add_options(parser)
    return parser


def split(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: written; 1: it could not be written; 2: asked wrongly, or no such split can be had."""
    options = split_parser().parse_args(arguments)
    try:
        splitting.check_options(options)
        dataset = open_source(options)
        division = splitting.division_of(dataset, options)
    except (UsageError, OSError) as error:
        print(f"reid.data.split: {error}", file=sys.stderr)
        return 2
    return splitting.write(dataset, division, options)


def stores_parser() -> CommandParser:
    parser = CommandParser(prog="python -m reid.data.stores", description=storing.DESCRIPTION)
    storing.add_options(parser)
    return parser


def stores(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: listed or pruned; 1: a store is in use or could not be removed; 2: asked wrongly."""
    parser = stores_parser()
    options = parser.parse_args(arguments)
    if options.action == "list" and (options.names or options.unused_days is not None):
        parser.error("names and --unused-days say what to prune: python -m reid.data.stores prune …")
    folder = Path(options.store).expanduser() if options.store else store_folder()
    try:
        return storing.list_or_prune(folder, options)
    except OSError as error:
        print(f"reid.data.stores: {error}", file=sys.stderr)
        return 1


def store_folder() -> Path:
    """The folder of `data.store`."""
    register()
    return Path(OmegaConf.create({"data": OmegaConf.structured(DataConfig)}).data.store)
