"""Any dataset in Market-1501's layout and naming: the way in for one's own crops."""

from pathlib import Path

from reid.data.crops import Progress, ReidDataset, silent
from reid.data.layout import read_market_layout


def load(root: Path, progress: Progress = silent) -> ReidDataset:
    """Read `root/{bounding_box_train,query,bounding_box_test}`, files named `<pid>_c<camera>…`.

    Raises:
        DatasetError: a folder is missing, or a name does not tell identity and camera.
    """
    return read_market_layout("folder", root)
