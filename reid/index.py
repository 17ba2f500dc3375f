"""An index of a gallery on disk: `python -m reid.index crops/ -o gallery/ [--checkpoint model.pt]`.

Builds it, or adds to it what is new or has changed. `python -m reid.search` looks people up in it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from reid.config.dialects import CommandParser
from reid.data.labelled_images import SPLITS
from reid.errors import UsageError
from reid.gallery.approximate import KINDS
from reid.jobs.data_source import SPELLINGS
from reid.terminal import Terminal


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: done; 1: something failed, or --check found something; 2: asked wrongly."""
    parser = _parser()
    options = parser.parse_args(arguments)
    _check(parser, options)
    try:
        # pyarrow, which help and argparse's errors do without.
        from reid.commands.gallery_source import checkpoint_of, read_source
        from reid.gallery.index import remembered_checkpoint

        if options.source is None:
            remembered_checkpoint(options.output)  # refuses a folder that holds no index
            from reid.commands.index import look_after

            return look_after(options)
        source = read_source(options)
        options.checkpoint = checkpoint_of(options.output, options.checkpoint)
        # Here, since what was typed wrongly is refused before torch is imported.
        from reid.commands.index import run

        return run(options, source)
    except (UsageError, OSError) as error:
        Terminal(stderr=True, soft_wrap=True).print(f"reid.index: {error}", highlight=False)
        return 2 if isinstance(error, UsageError) else 1


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse options that mean nothing together."""
    tasks = [options.check, bool(options.remove_path or options.remove_person), options.remove_gone]
    if options.source is None and not any(tasks) and options.kind is None:
        parser.error("nothing to do: give images to add, --check, --kind, or what to remove")
    if options.source is not None and any(tasks):
        parser.error("adding, checking and removing are asked for one at a time")
    if sum(tasks) > 1:
        parser.error(
            "--check, --remove-gone and --remove-path or --remove-person are asked for one at a time"
        )
    if options.batch < 1:
        parser.error(f"--batch {options.batch}: expected 1 or more")
    if options.memory is not None and not 0 < options.memory < 2**20:
        parser.error(f"--memory {options.memory}: expected a number of GiB")


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        also=SPELLINGS,
        prog="python -m reid.index",
        description="Build an index of a gallery, or add to it; check it, or remove images from it.",
    )
    parser.add_argument(
        "source",
        nargs="?",
        help="a folder of images at any depth, a table (path and, where known, pid, camid, time, split), a "
        "folder in Market's layout, or the name of a dataset, as in dataset=NAME",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FOLDER", help="the index: a folder of its own"
    )
    parser.add_argument(
        "--checkpoint",
        help="a file, a run's folder or an MLflow run id (default: that of the index, or the newest model.pt "
        "under outputs/)",
    )
    parser.add_argument("--root", help="where a dataset lies, or where a table's relative paths start")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other key of the dataset, as in dataset.KEY=VALUE; may be given again",
    )
    parser.add_argument(
        "--split",
        choices=(*SPLITS, "all"),
        help="of a dataset (default: gallery) or of a table (default: all)",
    )
    parser.add_argument(
        "--on-bad-image",
        choices=("raise", "skip"),
        default="raise",
        help="images that cannot be read: stop and name them (default), or leave them out",
    )
    parser.add_argument(
        "--kind",
        choices=("auto", "exact", *KINDS),
        help="how the index is searched: by comparing all images, or by codes of a large gallery; kept with "
        "the index (default: auto, by number and memory)",
    )
    parser.add_argument(
        "--memory", type=float, metavar="GIB", help="what searching may take (default: what is free here)"
    )
    parser.add_argument(
        "--camera", metavar="N",
        help="of a model that has learnt cameras: the one that all images are of; own for those that the "
        "dataset or table says, or mean for any other",
    )  # fmt: skip
    parser.add_argument("--batch", type=int, default=128, help="images at a time (default: 128)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--check",
        action="store_true",
        help="name the files that have gone or changed, and damage to the index",
    )
    parser.add_argument(
        "--remove-path",
        action="append",
        default=[],
        metavar="PATH",
        help="remove an image; may be given again",
    )
    parser.add_argument(
        "--remove-person",
        action="append",
        default=[],
        metavar="PID",
        help="remove all images of a person, by number or name; may be given again",
    )
    parser.add_argument("--remove-gone", action="store_true", help="remove the images whose files have gone")
    return parser


if __name__ == "__main__":
    sys.exit(main())
