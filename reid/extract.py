"""The features of all images below a folder: `python -m reid.extract FOLDER -o features.parquet`.

The suffix of the output chooses the format: `.parquet` (columns `path` and `feature`, a list of C float32),
`.npz` (arrays `path` and `features`) or `.csv` (columns `path`, f0, f1, …). `--quality` adds `quality`.
Paths are relative to the folder.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from reid.config.dialects import CommandParser
from reid.data import DatasetError
from reid.data.crops import refuse_foreign_names
from reid.data.image_folders import IMAGE_SUFFIXES, FoundImages, images_below
from reid.engine.checkpoint_source import check_checkpoint, newest_model
from reid.errors import UsageError
from reid.terminal import Terminal

FORMATS = (".parquet", ".npz", ".csv")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: written; 1: something failed; 2: asked wrongly, or images that cannot be read."""
    parser = _parser()
    options = parser.parse_args(arguments)
    output: Path = options.output
    if output.suffix.lower() not in FORMATS:
        parser.error(f"-o {output}: expected a name that ends in {', '.join(FORMATS)}")
    if not output.absolute().parent.is_dir():
        parser.error(f"-o {output}: there is no folder {output.absolute().parent}")
    if options.batch < 1:
        parser.error(f"--batch {options.batch}: expected 1 or more")
    try:
        found = find_images(options.folder)
        options.checkpoint = options.checkpoint or str(newest_model())
        check_checkpoint(options.checkpoint)
        # Here, since what was typed wrongly is refused before torch is imported.
        from reid.commands.extract import run

        return run(options, found)
    except (UsageError, OSError) as error:
        Terminal(stderr=True, soft_wrap=True).print(f"reid.extract: {error}", highlight=False)
        return 2 if isinstance(error, UsageError) else 1


def find_images(folder: Path) -> FoundImages:
    """The image files at or below `folder`, in linked folders too, and what is left out.

    Raises:
        DatasetError: no such folder, no image in it, or a name that is not UTF-8.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder} is no folder: give one that holds images, at any depth")
    found = images_below(folder)
    if not found.images:
        rest = f". {found.describe()}" if found.left_out else ""
        raise DatasetError(f"no image below {folder}: looked for {', '.join(sorted(IMAGE_SUFFIXES))}{rest}")
    refuse_foreign_names(found.images)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m reid.extract", description="Write the features of all images below a folder."
    )
    parser.add_argument("folder", type=Path, help="images, at any depth, linked folders too")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="features.parquet, .npz or .csv"
    )
    parser.add_argument(
        "--checkpoint",
        help="a file, a run's folder, an MLflow run id or models:/<name>@<alias> (default: the newest "
        "model.pt under outputs/)",
    )
    parser.add_argument(
        "--on-bad-image",
        choices=("raise", "skip"),
        default="raise",
        help="images that cannot be read: refuse them all by name (default), or leave them out",
    )
    parser.add_argument(
        "--camera", metavar="N",
        help="of a model that has learnt cameras: the one that all images are of, or mean for any other",
    )  # fmt: skip
    parser.add_argument(
        "--quality",
        action="store_true",
        help="also a column quality: the average precision that each crop leads one to expect",
    )
    parser.add_argument("--batch", type=int, default=128, help="images at a time (default: 128)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser


if __name__ == "__main__":
    sys.exit(main())
