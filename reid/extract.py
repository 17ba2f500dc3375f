"""The features of all images below a folder: `python -m reid.extract FOLDER -o features.parquet`.

The suffix of the output chooses the format: `.parquet` (columns `path` and `feature`, a list of C float32),
`.npz` (arrays `path` and `features`) or `.csv` (columns `path`, f0, f1, …). Paths are relative to the folder.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow
import pyarrow.parquet

from reid.config.dialects import CommandParser
from reid.data import DatasetError
from reid.data.crops import refuse_foreign_names
from reid.data.image_folders import IMAGE_SUFFIXES, FoundImages, images_below
from reid.engine.compute import Compute
from reid.inference import ASKED_WRONGLY, TrainedModel, load_model, name_unreadable, newest_model, unreadable
from reid.jobs.console import ConsoleProgress
from reid.terminal import Terminal

Features = npt.NDArray[np.float32]
Writer = Callable[[Path, list[str], Features, Mapping[str, str]], None]


def write_parquet(file: Path, paths: list[str], features: Features, facts: Mapping[str, str]) -> None:
    """Columns `path` and `feature`, a fixed-size list of float32; `facts` go into the schema's metadata."""
    flat = pyarrow.array(features.ravel())
    column = pyarrow.FixedSizeListArray.from_arrays(flat, features.shape[1])
    table = pyarrow.table({"path": pyarrow.array(paths, pyarrow.string()), "feature": column})
    pyarrow.parquet.write_table(table.replace_schema_metadata(dict(facts)), file)


def write_npz(file: Path, paths: list[str], features: Features, facts: Mapping[str, str]) -> None:
    """Arrays `path` (N,), `features` (N, C), and `facts`, a JSON text."""
    with file.open("wb") as handle:
        np.savez(handle, path=np.array(paths), features=features, facts=np.array(json.dumps(dict(facts))))


def write_csv(file: Path, paths: list[str], features: Features, facts: Mapping[str, str]) -> None:
    """Columns `path`, f0, f1, …; each number with as many digits as bring the same float32 back."""
    with file.open("w", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(["path", *(f"f{number}" for number in range(features.shape[1]))])
        rows.writerows([path, *map(str, row)] for path, row in zip(paths, features, strict=True))


WRITERS: dict[str, Writer] = {".parquet": write_parquet, ".npz": write_npz, ".csv": write_csv}


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


def facts_of(model: TrainedModel) -> dict[str, str]:
    """What the features are, as text: two files of features compare only where these agree."""
    space = {f"reid.{key}": str(value) for key, value in asdict(model.space).items()}
    return {
        "reid.checkpoint": Path(model.name).name,
        "reid.config_hash": str(model.meta["config_hash"]),
        **space,
    }


def write_whole(
    file: Path, paths: list[str], features: Features, facts: Mapping[str, str], write: Writer
) -> None:
    """Write beside `file` and rename: it is there whole or not at all.

    Raises:
        OSError: no room, no rights; what was there before is untouched.
    """
    partial = file.with_name(f".{file.name}.{uuid.uuid4().hex}.partial")
    try:
        write(partial, paths, features, facts)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: written; 1: something failed; 2: asked wrongly, or images that cannot be read."""
    parser = _parser()
    options = parser.parse_args(arguments)
    output: Path = options.output
    if output.suffix.lower() not in WRITERS:
        parser.error(f"-o {output}: expected a name that ends in {', '.join(WRITERS)}")
    if not output.absolute().parent.is_dir():
        parser.error(f"-o {output}: there is no folder {output.absolute().parent}")
    if options.batch < 1:
        parser.error(f"--batch {options.batch}: expected 1 or more")
    errors = Terminal(stderr=True, soft_wrap=True)
    progress = ConsoleProgress(errors)
    try:
        found = find_images(options.folder)
        images = found.images
        Compute.set_up(options.device)
        model = load_model(options.checkpoint or newest_model(), options.device)
        bad = unreadable(images, progress)
        if bad and (options.on_bad_image == "raise" or len(bad) == len(images)):
            skip = "" if len(bad) == len(images) else ", or leave them out with --on-bad-image skip"
            raise DatasetError(f"{name_unreadable(bad)}\nReplace or delete them{skip}.")
        if bad:
            errors.print(f"left out: {name_unreadable(bad)}", highlight=False)
        kept = [image for image in images if image not in bad]
        features = model.embed(kept, options.batch, progress).numpy()
        paths = [image.relative_to(options.folder).as_posix() for image in kept]
        write_whole(output, paths, features, facts_of(model), WRITERS[output.suffix.lower()])
    except ASKED_WRONGLY as error:
        errors.print(f"reid.extract: {error}", highlight=False)
        return 2
    except OSError as error:
        errors.print(f"reid.extract: {error}", highlight=False)
        return 1
    count, width = features.shape
    skipped = f", {len(bad)} images left out" if bad else ""
    others = f". {found.describe()}" if found.left_out else ""
    print(
        f"{output}: {count:,} features of {width} numbers ({model.space.describe()}){skipped}; "
        f"{model.name}{others}"
    )
    return 0


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
        help="a file, a run's folder or an MLflow run id (default: the newest model.pt under outputs/)",
    )
    parser.add_argument(
        "--on-bad-image",
        choices=("raise", "skip"),
        default="raise",
        help="images that cannot be read: refuse them all by name (default), or leave them out",
    )
    parser.add_argument("--batch", type=int, default=128, help="images at a time (default: 128)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser


if __name__ == "__main__":
    sys.exit(main())
