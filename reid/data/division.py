"""Splits by identity: a validation set out of the training set, and own data into train, val and test."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from reid.data.crops import Crop, DatasetError, ReidDataset
from reid.people import DISTRACTOR, is_person


@dataclass(frozen=True)
class Division:
    """Crops divided by identity: `query` and `gallery` show the same people, the gallery distractors too."""

    train: tuple[Crop, ...]
    val: tuple[Crop, ...]
    query: tuple[Crop, ...]
    gallery: tuple[Crop, ...]


def validation_split(dataset: ReidDataset, identities: int, seed: int) -> ReidDataset:
    """Judge on people who are neither trained on nor tested on.

    They are those of `dataset.val` where the set names them.  Otherwise `identities` people are held out of
    the training set, drawn by `seed` from those whom at least two cameras saw.  Their first crop by each
    camera becomes a query if one by another camera is left for it to find; the rest is the gallery.  The
    remaining people are trained on.  Neither the test query nor the test gallery is part of the result.

    Corrections change neither who is held out nor whom their crops show: with another file of them, or
    without it, a model is judged on the same people, and on nobody whom it was trained on.

    Raises:
        DatasetError: fewer than `identities` + 1 people could be held out.
    """
    if dataset.val:
        query, gallery = _judged(_by_pid(dataset.val).values(), dataset.cameras)
        return replace(dataset, query=query, gallery=gallery, val=())
    labelled = dataset.uncorrected or dataset.train
    by_pid = _by_pid(crop for crop in labelled if is_person(crop.pid))
    fit = [pid for pid in sorted(by_pid) if _can_be_judged(by_pid[pid], dataset.cameras)]
    if identities > len(fit) or identities >= len(by_pid):
        seen = "seen by two cameras and more than once by one" if dataset.cameras else "seen more than once"
        raise DatasetError(
            f"eval.val_identities={identities}: {dataset.name} has {len(by_pid)} people to train on, "
            f"{len(fit)} of them {seen}. Hold fewer out."
        )
    chosen = np.random.default_rng(seed).permutation(len(fit))[:identities]
    held_out = {fit[index] for index in chosen}
    query, gallery = _judged([by_pid[pid] for pid in held_out], dataset.cameras)
    # Whom corrections join with one of them is the same person.
    images = {crop.path for pid in held_out for crop in by_pid[pid]} if dataset.uncorrected else set()
    out = held_out | {crop.pid for crop in dataset.train if crop.path in images}
    train = tuple(crop for crop in dataset.train if crop.pid not in out)
    return replace(dataset, train=train, query=query, gallery=gallery)


def divide(
    crops: Sequence[Crop],
    cameras: bool,
    seed: int,
    train: float = 0.5,
    val: float = 0.0,
    queries: int = 1,
) -> Division:
    """Divide `crops` by identity: shares `train` and `val` of the people, the others tested on.

    Those to be judged are drawn by `seed` from the people whom a query can find again (see
    `choose_queries`), so nobody is tested who cannot be; all who cannot are trained on.  Distractors (pid 0)
    go to the gallery.  The same crops in another order are divided alike.

    Args:
        cameras: whether the camids are known.
        train, val: shares of the people, 0 <= val, 0 < train, train + val < 1.
        queries: how many crops of a person by one camera (of a person, without cameras) become queries; of
            people with tracklets, how many tracklets, each with all its frames.

    Raises:
        DatasetError: nobody would be left to train or to test on, or too few can be found again.
    """
    ordered = sorted(crops)
    by_pid = _by_pid(crop for crop in ordered if crop.pid != DISTRACTOR)
    fit = [pid for pid in sorted(by_pid) if choose_queries(by_pid[pid], cameras, queries)[0]]
    for_val = round(val * len(by_pid))
    for_test = len(by_pid) - round(train * len(by_pid)) - for_val
    if for_test < 1 or for_test + for_val >= len(by_pid) or (val > 0 and for_val < 1):
        raise DatasetError(
            f"{len(by_pid)} people are too few to train on {train:.0%}, to choose on {val:.0%} and to test "
            "on the others: each part needs one at least."
        )
    if for_test + for_val > len(fit):
        seen = "were seen by two cameras" if cameras else "have two images"
        remedy = f"Train on {1 - len(fit) / len(by_pid):.0%} or more."
        if not fit:
            remedy = (
                "If there is one camera only, name none: a table without the column camid, folders with "
                "dataset.cameras=none."
                if cameras
                else "Give more than one image of a person."
            )
        raise DatasetError(
            f"{for_test + for_val} of {len(by_pid)} people are to be judged on, but "
            f"{f'only {len(fit)}' if fit else 'none'} {seen}, so that a query finds them again. {remedy}"
        )
    drawn = [fit[index] for index in np.random.default_rng(seed).permutation(len(fit))]
    tested, chosen_on = drawn[:for_test], set(drawn[for_test : for_test + for_val])
    query, gallery = _judged([by_pid[pid] for pid in sorted(tested)], cameras, queries)
    distractors = tuple(crop for crop in ordered if crop.pid == DISTRACTOR)
    trained = set(by_pid) - set(tested) - chosen_on
    return Division(
        train=tuple(crop for crop in ordered if crop.pid in trained),
        val=tuple(crop for crop in ordered if crop.pid in chosen_on),
        query=tuple(sorted(query)),
        gallery=tuple(sorted(gallery + distractors)),
    )


def choose_queries(crops: Sequence[Crop], cameras: bool, each: int = 1) -> tuple[list[Crop], list[Crop]]:
    """The crops of one person as (queries, gallery); no queries if none would find another.

    The first `each` crops by each camera become queries where one by another camera is left to find.  Where
    that leaves nothing (each camera saw the person once), and where cameras are unknown, the first `each`
    crops do.  The frames of a tracklet stay together: it is chosen like one crop.
    """
    of_head = _tracklets(crops)
    heads = [frames[0] for frames in of_head]

    def findable(candidates: Sequence[Crop]) -> list[Crop]:
        chosen = set(candidates)
        left = [crop.camid for crop in heads if crop not in chosen]
        return [crop for crop in candidates if any(not cameras or camid != crop.camid for camid in left)]

    by_camera: dict[int, list[Crop]] = defaultdict(list)
    for crop in heads:
        by_camera[crop.camid].append(crop)
    first = [crop for seen in by_camera.values() for crop in seen[:each]]
    queries = (findable(first) if cameras else []) or findable(heads[:each])
    chosen = set(queries)
    if len(heads) < len(crops):
        queries = [crop for frames in of_head if frames[0] in chosen for crop in frames]
        chosen = set(queries)
    return queries, [crop for crop in crops if crop not in chosen]


def _judged(
    people: Iterable[Sequence[Crop]], cameras: bool, queries: int = 1
) -> tuple[tuple[Crop, ...], tuple[Crop, ...]]:
    query: list[Crop] = []
    gallery: list[Crop] = []
    for crops in people:
        chosen, rest = choose_queries(crops, cameras, queries)
        query.extend(chosen)
        gallery.extend(rest)
    return _by_name(query), _by_name(gallery)


def _by_pid(crops: Iterable[Crop]) -> dict[int, list[Crop]]:
    by_pid: dict[int, list[Crop]] = defaultdict(list)
    for crop in crops:
        by_pid[crop.pid].append(crop)
    return by_pid


def _tracklets(crops: Sequence[Crop]) -> list[list[Crop]]:
    """The crops of one person by tracklet, in the order of their first frames; one without any is alone."""
    found: dict[tuple[bool, int], list[Crop]] = defaultdict(list)
    for place, crop in enumerate(crops):
        found[(False, place) if crop.tracklet is None else (True, crop.tracklet)].append(crop)
    return list(found.values())


def _by_name(crops: list[Crop]) -> tuple[Crop, ...]:
    return tuple(sorted(crops, key=lambda crop: (crop.path.name, crop)))


def _can_be_judged(crops: list[Crop], cameras: bool) -> bool:
    """Two cameras at least, and one of them twice: then a query has a match in the gallery."""
    seen_by = {crop.camid for crop in crops}
    return len(_tracklets(crops)) > len(seen_by) and (len(seen_by) > 1 or not cameras)
