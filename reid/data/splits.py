"""A validation set out of the training set, so that nothing is ever chosen on the test set."""

from collections import defaultdict
from dataclasses import replace

import numpy as np

from reid.data.crops import Crop, DatasetError, ReidDataset


def validation_split(dataset: ReidDataset, identities: int, seed: int) -> ReidDataset:
    """Hold `identities` people out of the training set and judge on them.

    They are drawn by `seed` from those whom at least two cameras saw.  Their first crop by each camera
    becomes a query and the others the gallery; the remaining people are trained on.  Neither the test
    query nor the test gallery is part of the result.

    Raises:
        DatasetError: fewer than `identities` + 1 people could be held out.
    """
    by_pid: dict[int, list[Crop]] = defaultdict(list)
    for crop in dataset.train:
        by_pid[crop.pid].append(crop)
    fit = [pid for pid in sorted(by_pid) if _can_be_judged(by_pid[pid])]
    if identities > len(fit) or identities >= len(by_pid):
        raise DatasetError(
            f"eval.val_identities={identities}: {dataset.name} has {len(by_pid)} people to train on, "
            f"{len(fit)} of them seen by two cameras and more than once by one. Hold fewer out."
        )
    chosen = np.random.default_rng(seed).permutation(len(fit))[:identities]
    held_out = {fit[index] for index in chosen}
    query: list[Crop] = []
    gallery: list[Crop] = []
    for pid in sorted(held_out):
        seen: set[int] = set()
        for crop in by_pid[pid]:
            (gallery if crop.camid in seen else query).append(crop)
            seen.add(crop.camid)
    train = tuple(crop for crop in dataset.train if crop.pid not in held_out)
    return replace(dataset, train=train, query=tuple(query), gallery=tuple(gallery))


def _can_be_judged(crops: list[Crop]) -> bool:
    """Two cameras at least, and one of them twice: then a query has a match in the gallery."""
    cameras = {crop.camid for crop in crops}
    return len(cameras) > 1 and len(crops) > len(cameras)
