"""Who is this? `python -m reid.search query.jpg --gallery gallery/ [--top 20] [-o hits.png] [--json]`.

Looks a person up in an index that `python -m reid.index` made. Several images are of one person; a folder or
a table holds many queries, one an image, or one a tracklet where the table has a column of that name.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from reid.config.dialects import CommandParser
from reid.data import DatasetError
from reid.data.pictures import name_unreadable, unreadable
from reid.errors import UsageError
from reid.terminal import Terminal

#: What `-o` may end in: a picture, or a table of all hits.
OUTPUTS = (".png", ".csv", ".parquet")
#: A folder, or a file of these, holds many queries.
_TABLES = (".csv", ".parquet")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: searched; 1: something failed; 2: asked wrongly."""
    parser = _parser()
    options = parser.parse_args(arguments)
    _check(parser, options)
    try:
        # pyarrow, which help and argparse's errors do without.
        from reid.commands.gallery_source import checkpoint_of, parse_time, read_source
        from reid.gallery.index import remembered_checkpoint

        for name in ("since", "until"):
            try:
                word = getattr(options, name)
                setattr(options, name, None if word is None else parse_time(word))
            except ValueError:
                parser.error(f"--{name} {word}: expected a number, or a date such as 2026-05-01T12:30:00")
        remembered_checkpoint(options.gallery)  # refuses a folder that holds no index
        options.many, options.notes = _is_many(options.images), []
        if options.many:
            options.source, options.option, options.split = options.images[0], [], None
            source = read_source(options)
            options.images, options.notes = [Path(row.path) for row in source.rows], source.notes
            options.camids = [row.camid for row in source.rows]
            options.tracklets = [row.tracklet for row in source.rows]
        if bad := unreadable(options.images):
            raise DatasetError(name_unreadable(bad))
        options.checkpoint = checkpoint_of(options.gallery, options.checkpoint)
        # Here, since what was typed wrongly is refused before torch is imported.
        from reid.commands.search import run

        return run(options)
    except (UsageError, OSError) as error:
        Terminal(stderr=True, soft_wrap=True).print(f"reid.search: {error}", highlight=False)
        return 2 if isinstance(error, UsageError) else 1


def _is_many(images: Sequence[Path]) -> bool:
    """Whether a folder or a table of queries is given, which comes alone."""
    holders = [image for image in images if image.is_dir() or image.suffix.lower() in _TABLES]
    if holders and len(images) > 1:
        raise DatasetError(
            f"{holders[0]} holds many queries, one an image, and comes alone: several images that are typed "
            "show one person"
        )
    return bool(holders)


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    for name, least in (("top", 1), ("expand", 0)):
        if getattr(options, name) < least:
            parser.error(f"--{name} {getattr(options, name)}: expected {least} or more")
    endings = [output.suffix.lower() for output in options.output]
    for output, ending in zip(options.output, endings, strict=True):
        if ending not in OUTPUTS:
            parser.error(f"-o {output}: expected a name that ends in {', '.join(OUTPUTS)}")
        if not output.absolute().parent.is_dir():
            parser.error(f"-o {output}: there is no folder {output.absolute().parent}")


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m reid.search", description="Look people up in an index of a gallery."
    )
    parser.add_argument(
        "images",
        nargs="+",
        type=Path,
        help="crops of one person; or one folder or table (column path) of many queries, one an image or, "
        "with a column tracklet, one a tracklet",
    )
    parser.add_argument(
        "--gallery", type=Path, default=Path("gallery"), help="the index (default: the folder gallery)"
    )
    parser.add_argument("--top", type=int, default=20, help="hits of a query (default: 20)")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="draw the hits (.png), or write them down (.csv, .parquet); may be given again",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--checkpoint", help="a file, a run's folder or an MLflow run id (default: that of the index)"
    )
    parser.add_argument(
        "--combine",
        choices=("mean", "best"),
        default="mean",
        help="several images of a person: search with the mean of their features (default), or take the "
        "distance to the nearest of them",
    )
    parser.add_argument(
        "--rerank", action="store_true", help="order the nearest by what they have for neighbours"
    )
    parser.add_argument(
        "--expand", type=int, default=0, metavar="N", help="search again with the mean of query and N nearest"
    )
    parser.add_argument(
        "--camid",
        type=int,
        action="append",
        metavar="N",
        help="only images of this camera, counted from 0 as in the table; may be given again",
    )
    parser.add_argument(
        "--camera", metavar="N",
        help="of a model that has learnt cameras: the one that the queries are of; own for those that their "
        "table says, or mean for any other",
    )  # fmt: skip
    for name, words in (("since", "from"), ("until", "up to")):
        parser.add_argument(
            f"--{name}", metavar="TIME", help=f"only images {words} this time: a number, or a date (UTC)"
        )
    parser.add_argument("--root", help="where the relative paths of a table of queries start")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser


if __name__ == "__main__":
    sys.exit(main())
