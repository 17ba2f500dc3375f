"""Own data named by a table: path, pid and, where known, camid and split."""

from pathlib import Path

from reid.data.crops import Progress, ReidDataset, silent
from reid.data.own import assemble
from reid.data.tables import read_entries


def load(
    root: Path, file: str, test_fraction: float = 0.5, seed: int = 0, progress: Progress = silent
) -> ReidDataset:
    """Read the images that the CSV or Parquet `file` names, relative paths from `root` on.

    `pid` and `camid` may be numbers or names; `split` is train, val, query or gallery.  Without a camid
    column the cameras are unknown.  Without a split column `test_fraction` of the people, drawn by `seed`,
    are tested on.

    Raises:
        DatasetError: what is wrong, by file and line.
        LeakError: people are in more than one of train, val and test.
    """
    entries = read_entries(Path(file), root)
    return assemble(Path(file).stem, root, entries, test_fraction, seed)
