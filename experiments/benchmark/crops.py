"""Crops on disk, as many as wanted: drawn pedestrians, each file under several names."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from reid.data import Crop, ReidDataset, load_dataset

CAMERAS = 6


def linked_crops(folder: Path, identities: int, each: int, first: int = 1) -> tuple[Crop, ...]:
    """`identities` x `each` crops in Market's naming under `folder`, hard links to some 200 drawn files.

    The people are numbered from `first`.

    Links are files to whoever opens them: each is read, decoded and resized by itself.
    """
    tiny = load_dataset("synthetic", folder.parent / "drawn", preset="tiny")
    drawn = itertools.cycle(crop.path for crop in (*tiny.train, *tiny.query, *tiny.gallery))
    folder.mkdir(parents=True, exist_ok=True)
    crops = []
    for pid in range(first, first + identities):
        for number in range(each):
            camid = 1 + number % CAMERAS
            path = folder / f"{pid:06d}_c{camid}s1_{number:06d}_00.jpg"
            if not path.exists():
                os.link(next(drawn), path)
            crops.append(Crop(path, pid, camid))
    return tuple(crops)


def linked_market(folder: Path, identities: int, each: int) -> ReidDataset:
    """A dataset in Market's layout: people to train on with `each` crops, and half as many to test on, each
    of them with one query and `each` gallery crops."""
    tested = max(1, identities // 2)
    linked_crops(folder / "bounding_box_train", identities, each)
    linked_crops(folder / "query", tested, 1, first=identities + 1)
    linked_crops(folder / "bounding_box_test", tested, each, first=identities + 1)
    return load_dataset("folder", folder)
