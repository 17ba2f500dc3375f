"""Crops of which nobody says whom they show: what a model is adapted to.

A table without pids, a folder of images or of cameras, or the training crops of any labelled dataset, whose
labels are then left alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reid.data import DatasetError, ReidDataset, load_dataset, refuse_foreign_names, silent
from reid.data.crops import Crop, Progress
from reid.data.datasets import folders
from reid.data.labelled_images import SPLITS, of_nobody
from reid.data.table_files import has_people, read_images_of_nobody
from reid.people import DISTRACTOR

#: The readers that also take data without labels.
UNLABELLED = ("folders", "table")


@dataclass(frozen=True)
class Target:
    """What a model is adapted to.

    crops: the pid of each is DISTRACTOR, whatever its label. cameras: whether the camids are known.
    labelled: the same data with their labels, for judging alone; None where they have none. Its training
        crops may be others than `crops` where these have no labels.
    """

    name: str
    root: Path
    crops: tuple[Crop, ...]
    cameras: bool
    labelled: ReidDataset | None = None


def read_target(dataset: Mapping[str, Any], labels: str = "auto", progress: Progress = silent) -> Target:
    """The target that the keys of a dataset name, as `load_dataset` takes them.

    labels: `none` leaves labels unread where the reader can do without them, and never judges by them. `auto`
        takes a table without a column of pids, and a folder of images or of cameras (`cam1/`, `c2/`), as
        unlabelled, and everything else as labelled. A folder with `train/` may be unlabelled there, and
        labelled in `query/` and `gallery/`.

    Raises:
        DatasetError: no such data, or nothing in them to adapt to.
    """
    name, root = str(dataset["name"]), Path(str(dataset["root"])).expanduser()
    without = labels == "none"
    if name == "table":
        file = Path(str(dataset["file"])).expanduser()
        if without or (file.is_file() and not has_people(file)):
            crops, cameras = of_nobody(file.stem, root, read_images_of_nobody(file, root))
            return _checked(Target(file.stem, root, crops, cameras))
    if name == "folders" and root.is_dir():
        parts = [path.name for path in root.iterdir() if path.name in SPLITS and path.is_dir()]
        place = root / "train" if "train" in parts else root
        if without or (not (parts and place == root) and not folders.has_people(place)):
            images = folders.images_of_nobody(place, dataset.get("cameras", "auto"))
            crops, cameras = of_nobody(root.name, place, images)
            judged = {"query", "gallery"} <= {*parts} and not without
            labelled = load_dataset(**dataset, progress=progress) if judged else None
            return _checked(Target(root.name, root, crops, cameras, labelled))
    whole = load_dataset(**dataset, progress=progress)
    crops = whole.uncorrected or whole.train
    return _checked(Target(whole.name, whole.root, crops, whole.cameras, None if without else whole))


def with_crops_of(target: Target, dataset: ReidDataset) -> Target:
    """`target` with the training crops of `dataset`, such as those that are left once some people are held
    out."""
    return _checked(replace(target, crops=dataset.train, labelled=dataset))


def _checked(target: Target) -> Target:
    if not target.crops:
        raise DatasetError(
            f"{target.name} in {target.root} has no crops to adapt to: expected training crops "
            "(bounding_box_train/, train/, or rows of the split train), or crops without labels: a folder of "
            "images (dataset=folders), a table with a column path (dataset=table). adapt.labels=none takes a "
            "folder of people for a folder of images"
        )
    refuse_foreign_names(crop.path for crop in target.crops)
    return replace(target, crops=tuple(crop._replace(pid=DISTRACTOR) for crop in target.crops))
