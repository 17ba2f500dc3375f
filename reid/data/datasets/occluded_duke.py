"""Occluded-DukeMTMC (Miao et al., ICCV 2019): DukeMTMC-reID split anew, every query occluded; withdrawn.

702 people to train on, 519 to look for, 1,110 in the gallery, 8 cameras.
"""

from pathlib import Path

from reid.data.crops import Progress, ReidDataset, silent
from reid.data.layout import check_counts, read_market_layout

OFFICIAL = (15_618, 2_210, 17_661)
WHERE = (
    "Its images are those of DukeMTMC, which was withdrawn by its authors in 2019, since the people in it "
    "had not agreed: there is no download. The authors of Occluded-DukeMTMC (Miao et al., ICCV 2019) gave "
    "out lists of names alone, and a script that makes these folders from a copy of DukeMTMC-reID. This "
    "reader serves those who hold one and may still use it."
)
NOTICE = (
    "Occluded-DukeMTMC consists of images of DukeMTMC, withdrawn by its authors in 2019 (the people filmed "
    "had not agreed). Prefer another set for new work, and say in a paper why this one was used."
)


def load(root: Path, official: bool = True, progress: Progress = silent) -> ReidDataset:
    """Read Occluded-DukeMTMC from `root`; `official=False` allows another number of images.

    Raises:
        DatasetError: the folders are missing, or the counts are not the official ones.
    """
    dataset = read_market_layout(
        "occluded_duke", root, example="0001_c2_f0046182.jpg", where_to_get=WHERE, notice=NOTICE
    )
    if official:
        check_counts(dataset, OFFICIAL, "Occluded-DukeMTMC")
    return dataset
