"""CUHK03 (Li et al., CVPR 2014), new protocol (Zhong et al., CVPR 2017): 767 + 700 people, 2 cameras."""

from pathlib import Path
from typing import Literal

from reid.data.crops import DatasetError, Progress, ReidDataset, silent
from reid.data.layout import check_counts, read_market_layout

#: Boxes drawn by a detector, or by hand: the same people in two sets of crops, each with scores of its own.
OFFICIAL = {"detected": (7_365, 1_400, 5_332), "labeled": (7_368, 1_400, 5_328)}
WHERE = (
    "CUHK03 is given for academic research by its authors (Li et al., CVPR 2014): ask there. What is read "
    "here are the folders of its new protocol, CUHK03-NP (Zhong et al., CVPR 2017), not the .mat file."
)
NOTICE = "CUHK03: people filmed on a campus, for academic research only; do not redistribute the images."


def load(
    root: Path,
    labels: Literal["detected", "labeled"] = "detected",
    official: bool = True,
    progress: Progress = silent,
) -> ReidDataset:
    """Read CUHK03-NP from `root/<labels>`; `official=False` allows another number of images.

    Raises:
        DatasetError: other `labels`, the folders are missing, or the counts are not the official ones.
    """
    if labels not in OFFICIAL:
        raise DatasetError(f"dataset.labels={labels!r}: expected one of {', '.join(OFFICIAL)}.")
    dataset = read_market_layout(
        f"cuhk03_{labels}", root / labels, example="0001_c1_1.png", where_to_get=WHERE, notice=NOTICE
    )
    if official:
        check_counts(dataset, OFFICIAL[labels], f"CUHK03-NP ({labels})")
    return dataset
