"""Any dataset in Market-1501's layout and naming: the way in for one's own crops."""

from pathlib import Path

from reid.data.crops import Progress, ReidDataset, silent
from reid.data.layout import read_market_layout


def load(root: Path, distractor: int | str | None = 0, progress: Progress = silent) -> ReidDataset:
    """Read `root/{bounding_box_train,query,bounding_box_test}`, files named `<pid>_c<camera>…`.

    Without bounding_box_train it can be judged on, not trained on.  Images of pid `distractor` show nobody
    who is looked for; None: no pid does.

    Raises:
        DatasetError: a folder is missing, or a name does not tell identity and camera.
    """
    return read_market_layout("folder", root, train_needed=False, distractor=distractor)
