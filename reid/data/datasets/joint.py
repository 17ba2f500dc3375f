"""Several datasets trained on at once, their people and cameras kept apart."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from reid.data import load_dataset
from reid.data.crops import DatasetError, Progress, ReidDataset, silent
from reid.people import is_person


def load(
    root: Path,
    parts: list[dict[str, Any]],
    test: str | None = None,
    left_out: int | None = None,
    progress: Progress = silent,
) -> ReidDataset:
    """Read every part and join their training images; test on the query and the gallery of one part.

    With `left_out` that part is tested on and nobody of it is trained on; the name says so, `a+b -> c`.

    The pids, camids and tracklets of each part start above those of the parts before it; distractors stay 0.

    Args:
        root: where the parts lie by default; each says it itself.
        parts: a mapping each, as `load_dataset` takes them: name, root, options.
        test: the name of the part to test on, such as "market"; None for the first.
        left_out: the place of a part, from 0: it is the one to test on, and is not trained on.

    Raises:
        DatasetError: what is wrong with which part.
    """
    if len(parts) < 2:
        raise DatasetError(f"dataset.parts holds {len(parts)} parts: expected two or more, [market,cuhk01].")
    if left_out is not None and (test is not None or not 0 <= left_out < len(parts)):
        raise DatasetError(
            f"dataset.left_out={left_out} with dataset.test={test}: expected the place of one of "
            f"{len(parts)} "
            f"parts, 0 to {len(parts) - 1}, which is then the one to test on. Leave dataset.test out."
        )
    read = [_read(number, part, progress) for number, part in enumerate(parts)]
    names = [dataset.name for dataset in read]
    if test is not None and test not in names:
        raise DatasetError(f"dataset.test={test} is no part: expected one of {', '.join(names)}.")
    tested = names.index(test) if test is not None else left_out or 0
    apart = _kept_apart(read)
    if left_out is not None:
        apart[tested] = replace(apart[tested], train=(), val=(), uncorrected=())
    sources = [part for place, part in enumerate(read) if place != left_out]
    _refuse_repeated(apart)
    _refuse_tested(apart, tested)
    train = tuple(crop for dataset in apart for crop in dataset.train)
    counted = [
        f"{part.name} ({len({crop.pid for crop in part.train}):,} people, {len(part.train):,} images)"
        for part in sources
    ]
    notices = [f"{dataset.name}: {dataset.notice}" for dataset in read if dataset.notice]
    return ReidDataset(
        "+".join(part.name for part in sources) + ("" if left_out is None else f" -> {names[tested]}"),
        root,
        train,
        apart[tested].query,
        apart[tested].gallery,
        strays=sum(dataset.strays for dataset in read),
        junk=sum(dataset.junk for dataset in read),
        notice="\n".join([f"trained on {'; '.join(counted)}; tested on {names[tested]}", *notices]),
        val=apart[tested].val,
        cameras=read[tested].cameras,
        names={pid: name for dataset in apart for pid, name in dataset.names.items()},
        corrections=tuple(applied for part in sources for applied in part.corrections),
        uncorrected=tuple(crop for part in apart for crop in part.uncorrected)
        if any(part.corrections for part in sources)
        else (),
    )


def _read(number: int, part: dict[str, Any], progress: Progress) -> ReidDataset:
    try:
        return load_dataset(**part, progress=progress)
    except DatasetError as error:
        raise DatasetError(f"dataset.parts[{number}], {part.get('name')}: {error}") from error


def _kept_apart(parts: list[ReidDataset]) -> list[ReidDataset]:
    """The parts with pids and camids that no other part has."""
    apart: list[ReidDataset] = []
    people = cameras = tracklets = 0
    for part in parts:
        train, val, query, gallery, uncorrected = (
            tuple(
                crop._replace(
                    pid=crop.pid + people if is_person(crop.pid) else crop.pid,
                    camid=crop.camid + cameras,
                    tracklet=None if crop.tracklet is None else crop.tracklet + tracklets,
                )
                for crop in crops
            )
            for crops in (part.train, part.val, part.query, part.gallery, part.uncorrected or part.train)
        )
        names = {pid + people: name for pid, name in part.names.items()}
        apart.append(
            replace(
                part, train=train, val=val, query=query, gallery=gallery, names=names, uncorrected=uncorrected
            )
        )
        labelled = part.uncorrected or part.train  # corrections give nobody else another number
        of_all = [crop for crops in (labelled, part.val, part.query, part.gallery) for crop in crops]
        people += max(crop.pid for crop in of_all) + 1
        cameras += max(crop.camid for crop in of_all) + 1
        tracklets += max((crop.tracklet for crop in of_all if crop.tracklet is not None), default=-1) + 1
    return apart


def _refuse_repeated(parts: list[ReidDataset]) -> None:
    part_of: dict[Path, str] = {}
    for part in parts:
        for path in {crop.path for crop in part.train}:
            if path in part_of:
                raise DatasetError(
                    f"dataset.parts: {path} is trained on twice, by {part_of[path]} and by {part.name}. "
                    "Give each part once."
                )
            part_of[path] = part.name


def _refuse_tested(parts: list[ReidDataset], tested: int) -> None:
    """Other parts may hold the images that are tested on under pids of their own, which no pid can tell."""
    judged = {crop.path for crop in (*parts[tested].query, *parts[tested].gallery, *parts[tested].val)}
    for part in parts:
        if shared := judged & {crop.path for crop in part.train}:
            raise DatasetError(
                f"dataset.parts: {part.name} trains on {len(shared)} images that {parts[tested].name} is "
                f"tested on (for example {min(shared)}). Leave that part out, or test on another."
            )
