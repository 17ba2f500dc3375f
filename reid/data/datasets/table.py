"""Own data named by a table: path, pid and, where known, camid and split."""

from collections.abc import Sequence
from pathlib import Path

from reid.data.crops import Progress, ReidDataset, silent
from reid.data.labelled_images import assemble
from reid.data.labels import People
from reid.data.table_files import read_labelled_images


def load(
    root: Path,
    file: str,
    test_fraction: float = 0.5,
    seed: int = 0,
    distractor: int | str | None = 0,
    null: Sequence[str] | None = None,
    progress: Progress = silent,
) -> ReidDataset:
    """Read the images that the CSV or Parquet `file` names, relative paths from `root` on.

    `pid` and `camid` may be numbers or names; `split` is train, val, query or gallery.  Without a camid
    column the cameras are unknown.  Without a split column `test_fraction` of the people, drawn by `seed`,
    are tested on.  Images of pid `distractor`, and those whose pid is one of the words `null`, show nobody
    who is looked for; None: no pid does, and a word such as `nan` is refused.

    Raises:
        DatasetError: what is wrong, by file and line.
        LeakError: people are in more than one of train, val and test.
    """
    rules = People.of(distractor, null)
    images = read_labelled_images(Path(file), root, rules)
    return assemble(Path(file).stem, root, images, test_fraction, seed, rules=rules)
