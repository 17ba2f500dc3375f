"""CUHK01 (Li et al., ACCV 2012): 971 people, each seen twice by both of two cameras."""

import re
from pathlib import Path

import numpy as np

from reid.data.crops import Crop, DatasetError, Progress, ReidDataset, silent
from reid.data.image_folders import images_in
from reid.data.layout import NO_DATA_NEEDED, check_counts, missing_message

PEOPLE, A_CAMERA = 971, 2
#: Four digits of identity, three of the image: 001 and 002 are camera A's, 003 and 004 camera B's.
NAME = re.compile(r"(\d{4})00([1-4])")
EXAMPLE = "0001001.png"
WHERE = "CUHK01 is given for academic research by its authors (Li et al., ACCV 2012): ask there."
NOTICE = "CUHK01: people filmed on a campus, for academic research only; do not redistribute the images."


def load(
    root: Path,
    split_seed: int = 0,
    train_identities: int = 485,
    official: bool = True,
    progress: Progress = silent,
) -> ReidDataset:
    """Read CUHK01 from `root/campus` and split it by identity, since it has no official split.

    `split_seed` draws the `train_identities` to train on (485, the rest being 486, or 871, the rest being
    100, are the usual numbers; papers often average ten draws).  Of the others, camera A's crops are the
    queries and camera B's the gallery.  `official=False` allows another number of images.

    Raises:
        DatasetError: the folder is missing, a name does not tell identity and camera, nobody would be left
            to train or to test on, or the counts are not the official ones.
    """
    folder = root / "campus"
    if not folder.is_dir():
        reading = "4 digits of identity, then image 001 to 004, of which camera A took 001 and 002"
        raise DatasetError(missing_message("cuhk01", [folder], [f"{folder}/{EXAMPLE}"], WHERE, reading))
    if split_seed < 0:
        raise DatasetError(f"dataset.split_seed={split_seed}: expected 0 or more.")
    images, strays = images_in(folder)
    crops = tuple(map(_crop_of, images))
    if not crops:
        raise DatasetError(f"cuhk01: no crops in {folder}. {NO_DATA_NEEDED}")
    pids = sorted({crop.pid for crop in crops})
    if not 0 < train_identities < len(pids):
        raise DatasetError(
            f"dataset.train_identities={train_identities}: {folder} has {len(pids)} people, and some must be "
            f"left to test on. Expected 1 to {len(pids) - 1}."
        )
    order = np.random.default_rng(split_seed).permutation(len(pids))
    trained_on = {pids[index] for index in order[:train_identities]}
    tested = [crop for crop in crops if crop.pid not in trained_on]
    dataset = ReidDataset(
        "cuhk01",
        root,
        train=tuple(crop for crop in crops if crop.pid in trained_on),
        query=tuple(crop for crop in tested if crop.camid == 0),
        gallery=tuple(crop for crop in tested if crop.camid == 1),
        strays=strays,
        notice=NOTICE,
    )
    if official:
        rest = A_CAMERA * (PEOPLE - train_identities)
        check_counts(dataset, (2 * A_CAMERA * train_identities, rest, rest), "CUHK01", market_layout=False)
    return dataset


def _crop_of(path: Path) -> Crop:
    match = NAME.fullmatch(path.stem)
    if match is None:
        raise DatasetError(
            f"{path} does not say whose crop it is: expected a name like {EXAMPLE} (4 digits of identity, "
            f"then 001 to 004). Rename it, or move it out of {path.parent}."
        )
    return Crop(path, int(match[1]), (int(match[2]) - 1) // A_CAMERA)
