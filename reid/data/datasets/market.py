"""Market-1501 (Zheng et al., ICCV 2015): 1,501 people, 6 cameras."""

from pathlib import Path

from reid.data.crops import Progress, ReidDataset, silent
from reid.data.layout import check_counts, read_market_layout

OFFICIAL = (12_936, 3_368, 15_913)
WHERE = "Market-1501 is given for academic research by its authors (Zheng et al., ICCV 2015): ask there."
NOTICE = "Market-1501: people filmed on a campus, for academic research only; do not redistribute the images."


def load(root: Path, official: bool = True, progress: Progress = silent) -> ReidDataset:
    """Read Market-1501 from `root`; `official=False` allows another number of images.

    Raises:
        DatasetError: the folders are missing, or the counts are not the official ones.
    """
    dataset = read_market_layout("market", root, where_to_get=WHERE, notice=NOTICE)
    if official:
        check_counts(dataset, OFFICIAL, "Market-1501")
    return dataset
