"""Make a train / val / query / gallery split by identity: `python -m reid.data.split SOURCE -o OUT.csv`."""

import argparse
import sys
from pathlib import Path

from reid.data.audit import count, splits_of
from reid.data.crops import Crop, ReidDataset
from reid.data.division import Division, divide
from reid.data.labels import canonical, is_null
from reid.data.table_files import write_table
from reid.errors import UsageError
from reid.people import DISTRACTOR, is_person

DESCRIPTION = (
    "Divide people, each with all images, into train, val and test (query and gallery), and "
    "write the CSV that dataset=table reads.  Splits that the source has are not kept.  Only people whom "
    "a query can find again (two cameras; two images, where cameras are unknown) are judged on."
)


def check_options(options: argparse.Namespace) -> None:
    """Refuse what no split can be made with.

    Raises:
        UsageError: shares, numbers or the name of the file are wrong.
    """
    if options.train <= 0 or options.val < 0 or options.train + options.val >= 1:
        raise UsageError(
            f"--train {options.train} --val {options.val}: expected shares of the people, above 0 (val: or "
            "0), that leave some to test on, such as --train 0.5 --val 0.1"
        )
    if options.query < 1 or options.seed < 0:
        raise UsageError(f"--query {options.query} --seed {options.seed}: expected 1 or more, and 0 or more")
    if options.out.suffix.lower() != ".csv":
        raise UsageError(f"-o {options.out}: expected a name that ends in .csv")


def division_of(dataset: ReidDataset, options: argparse.Namespace) -> Division:
    """All crops of `dataset`, divided anew.

    Raises:
        DatasetError: no such split can be had.
    """
    crops = [crop for some in splits_of(dataset).values() for crop in some]
    return divide(crops, dataset.cameras, options.seed, options.train, options.val, options.query)


def write(dataset: ReidDataset, division: Division, options: argparse.Namespace) -> int:
    """Write the table and say what it holds; 1 if it could not be written, else 0."""
    try:
        relative = write_split(options.out, dataset, division)
    except OSError as error:
        print(f"reid.data.split: {options.out} could not be written: {error}", file=sys.stderr)
        return 1
    for split, some in vars(division).items():
        if some:
            counts = count(some, dataset.cameras)
            cameras = f", {counts.cameras} cameras" if dataset.cameras else ", cameras unknown"
            print(f"{split:8}{counts.identities:6,} identities {counts.images:8,} images{cameras}")
    kind = f"relative to {options.out.absolute().parent}" if relative else "absolute"
    print(f"{options.out} holds them, with paths {kind}; seed {options.seed}")
    print(f"use it as dataset=table dataset.file={options.out}{reading_keys(dataset)}")
    return 0


def write_split(out: Path, dataset: ReidDataset, division: Division) -> bool:
    """Write the table; its paths are relative to its folder if all images lie there, which is returned."""
    folder = out.absolute().parent
    folder.mkdir(parents=True, exist_ok=True)
    crops = [(split, crop) for split, some in vars(division).items() for crop in some]
    relative = all(crop.path.absolute().is_relative_to(folder) for _, crop in crops)

    tracklets = any(crop.tracklet is not None for _, crop in crops)
    distractor = _distractor(dataset)

    def row(split: str, crop: Crop) -> dict[str, object]:
        path = crop.path.absolute()
        shown = path.relative_to(folder) if relative else path
        person = dataset.names.get(crop.pid, str(crop.pid)) if is_person(crop.pid) else distractor
        camera = {"camid": crop.camid} if dataset.cameras else {}
        tracklet = {} if not tracklets else {"tracklet": "" if crop.tracklet is None else crop.tracklet}
        return {"path": shown.as_posix(), "pid": person, **camera, "split": split, **tracklet}

    columns = ("path", "pid", *(["camid"] * dataset.cameras), "split", *(["tracklet"] * tracklets))
    write_table(out, (row(split, crop) for split, crop in crops), columns)
    return relative


def reading_keys(dataset: ReidDataset) -> str:
    """The keys by which a table of this dataset is read as it was written, with a blank before each."""
    keys = []
    if (distractor := _distractor(dataset)) != str(DISTRACTOR):
        distractors = any(not is_person(crop.pid) for crop in dataset.gallery)
        keys.append(f" dataset.distractor={distractor if distractors else 'null'}")
    if any(is_null(name) for name in dataset.names.values()):
        keys.append(" 'dataset.null=[]'")
    return "".join(keys)


def _distractor(dataset: ReidDataset) -> str:
    """What distractors are called in a table: 0, unless that is a person's name."""
    zero = str(DISTRACTOR)
    return "distractor" if any(canonical(name) == zero for name in dataset.names.values()) else zero


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options beside those that say which dataset is meant."""
    parser.add_argument("-o", "--out", type=Path, required=True, help="the CSV to write")
    parser.add_argument("--train", type=float, default=0.5, help="share of the people (default 0.5)")
    parser.add_argument("--val", type=float, default=0.0, help="share that eval.split=val uses (default 0)")
    parser.add_argument(
        "--query",
        type=int,
        default=1,
        help="images (or whole tracklets) of a person by one camera that become queries (default 1)",
    )
    parser.add_argument("--seed", type=int, default=0, help="who is drawn (default 0)")


if __name__ == "__main__":
    from reid.jobs import data_commands

    sys.exit(data_commands.split())
