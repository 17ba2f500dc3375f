"""DukeMTMC-reID (Zheng et al., ICCV 2017): 1,404 people and 408 distractors, 8 cameras; withdrawn."""

from pathlib import Path

from reid.data.crops import Progress, ReidDataset, silent
from reid.data.layout import check_counts, read_market_layout

OFFICIAL = (16_522, 2_228, 17_661)
WHERE = (
    "DukeMTMC was withdrawn by its authors in 2019, since the people in it had not agreed: there is no "
    "download. This reader serves those who hold a copy and may still use it."
)
NOTICE = (
    "DukeMTMC-reID was withdrawn by its authors in 2019 (the people filmed had not agreed). "
    "Prefer another set for new work, and say in a paper why this one was used."
)


def load(root: Path, official: bool = True, progress: Progress = silent) -> ReidDataset:
    """Read DukeMTMC-reID from `root`; `official=False` allows another number of images.

    Raises:
        DatasetError: the folders are missing, or the counts are not the official ones.
    """
    dataset = read_market_layout(
        "duke", root, example="0001_c2_f0046182.jpg", where_to_get=WHERE, notice=NOTICE
    )
    if official:
        check_counts(dataset, OFFICIAL, "DukeMTMC-reID")
    return dataset
