"""A validation set out of the training set, so that nothing is ever chosen on the test set."""

from collections import defaultdict
from dataclasses import replace

import numpy as np

from reid.data.crops import Crop, DatasetError, ReidDataset


def validation_split(dataset: ReidDataset, identities: int, seed: int) -> ReidDataset:
    """Hold `identities` people out of the training set and judge on them.

    They are drawn by `seed` from those whom at least two cameras saw.  Their first crop by each camera
    becomes a query if one by another camera is left for it to find; the rest is the gallery.  The remaining
    people are trained on.  Neither the test query nor the test gallery is part of the result.

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
    for pid in held_out:
        first: dict[int, Crop] = {}
        for crop in by_pid[pid]:
            first.setdefault(crop.camid, crop)
        rest = [crop for crop in by_pid[pid] if first[crop.camid] is not crop]
        cameras = {crop.camid for crop in rest}
        gallery.extend(rest)
        for crop in first.values():
            (query if cameras - {crop.camid} else gallery).append(crop)
    train = tuple(crop for crop in dataset.train if crop.pid not in held_out)
    return replace(dataset, train=train, query=_by_name(query), gallery=_by_name(gallery))


def _by_name(crops: list[Crop]) -> tuple[Crop, ...]:
    return tuple(sorted(crops, key=lambda crop: crop.path.name))


def _can_be_judged(crops: list[Crop]) -> bool:
    """Two cameras at least, and one of them twice: then a query has a match in the gallery."""
    cameras = {crop.camid for crop in crops}
    return len(cameras) > 1 and len(crops) > len(cameras)
