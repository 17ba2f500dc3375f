"""Own data: labelled images, from whatever names them, made into a dataset or refused by file and line."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from reid.data.crops import Crop, DatasetError, LeakError, ReidDataset
from reid.data.labels import WHOLE, numbered
from reid.data.splits import DISTRACTOR, divide

SPLITS = ("train", "val", "query", "gallery")

#: As in Market-1501: crops of nobody, which are counted and left out.
JUNK = -1


class Entry(NamedTuple):
    """One image as its source labels it: `camera` and `split` are "" where it says nothing of them.

    `order` sorts the images alike on every machine; `where` is what a message names: "crops.csv line 7".
    """

    path: Path
    person: str
    camera: str
    split: str
    order: str
    where: str


def assemble(
    name: str, root: Path, entries: Sequence[Entry], test_fraction: float, seed: int, strays: int = 0
) -> ReidDataset:
    """The dataset of these images.

    Persons and cameras keep whole numbers and get a number by sorted order where they have names; pid -1 is
    junk, also among names, and 0 a distractor where all are numbers, as in Market-1501: it may stand in the
    gallery alone, and `notice` says how many do.  Without cameras every camid is 0.  Without splits,
    `test_fraction` of the people are tested on, drawn by `seed`, and `notice` says so.

    Raises:
        DatasetError: nothing is there, or a label is wrong, missing on some images alone, or given twice.
        LeakError: people are in more than one of train, val and test.
    """
    if not entries:
        raise DatasetError(f"{name}: there is no image in {root}.")
    _refuse_repeated(entries)
    people = {entry.person for entry in entries}
    junk = {person for person in people if (match := WHOLE.fullmatch(person)) and int(match[1]) == JUNK}
    pids = {**numbered(people - junk, first=1), **dict.fromkeys(junk, JUNK)}
    cameras = _all_or_none(entries, "camera")
    camids = numbered((entry.camera for entry in entries), first=0) if cameras else {"": 0}
    for entry in entries:
        if pids[entry.person] < JUNK:
            raise DatasetError(
                f"{entry.where}: pid {entry.person} is not allowed: expected 0 or more, or -1 for junk."
            )
        if camids[entry.camera] < 0:
            raise DatasetError(f"{entry.where}: camid {entry.camera} is not allowed: expected 0 or more.")
    kept = [entry for entry in sorted(entries, key=lambda entry: entry.order) if pids[entry.person] != JUNK]
    crops = [Crop(entry.path, pids[entry.person], camids[entry.camera]) for entry in kept]
    dataset = ReidDataset(
        name, root, (), (), (), strays, len(entries) - len(kept), "", (), cameras,
        {pid: label for label, pid in pids.items() if str(pid) != label},
    )  # fmt: skip
    if not _all_or_none(entries, "split"):
        return _divided(dataset, crops, test_fraction, seed)
    of = {
        split: tuple(crop for crop, entry in zip(crops, kept, strict=True) if entry.split == split)
        for split in SPLITS
    }
    dataset = replace(
        dataset, train=of["train"], val=of["val"], query=of["query"], gallery=of["gallery"],
        notice=_lines(_kept_for_choosing(of["val"]), _distractors(of["gallery"])),
    )  # fmt: skip
    for entry in kept:
        if pids[entry.person] == DISTRACTOR and entry.split != "gallery":
            raise DatasetError(
                f"{entry.where}: pid 0 is a distractor, whom nobody looks for, and stands in {entry.split}: "
                "it may be in the gallery alone. If it is a person, count people from 1, or give them names."
            )
    _refuse_shared(dataset)
    return dataset


def _divided(dataset: ReidDataset, crops: list[Crop], test_fraction: float, seed: int) -> ReidDataset:
    if not 0 < test_fraction < 1:
        raise DatasetError(f"dataset.test_fraction={test_fraction}: expected more than 0 and less than 1.")
    if seed < 0:
        raise DatasetError(f"dataset.seed={seed}: expected 0 or more.")
    try:
        parts = divide(crops, dataset.cameras, seed, train=1 - test_fraction)
    except DatasetError as error:
        raise DatasetError(
            f"{dataset.name} names no splits, and dataset.test_fraction={test_fraction} is not to be had: "
            f"{error}"
        ) from error
    train, tested = ({crop.pid for crop in some} for some in (parts.train, parts.query))
    return replace(
        dataset, train=parts.train, query=parts.query, gallery=parts.gallery,
        notice=_lines(
            f"{dataset.name} names no splits: {len(train)} people to train on and {len(tested)} others to "
            f"test on were drawn with dataset.seed={seed} and dataset.test_fraction={test_fraction}; "
            "python -m reid.data.split writes such a split down.",
            _distractors(parts.gallery),
        ),
    )  # fmt: skip


def _kept_for_choosing(val: tuple[Crop, ...]) -> str:
    if not val:
        return ""
    people = len({crop.pid for crop in val})
    return f"{people} people of the val split are not trained on; eval.split=val judges on them."


def _distractors(gallery: tuple[Crop, ...]) -> str:
    images = sum(crop.pid == DISTRACTOR for crop in gallery)
    if not images:
        return ""
    return (
        f"pid 0 stands for distractors, people whom nobody looks for: {images:,} images, in the gallery "
        "alone. If it is a person, count people from 1, or give them names."
    )


def _lines(*sentences: str) -> str:
    return "\n".join(filter(None, sentences))


def _refuse_repeated(entries: Sequence[Entry]) -> None:
    seen: dict[Path, Entry] = {}
    for entry in entries:
        before = seen.setdefault(entry.path, entry)
        if before is not entry:
            raise DatasetError(
                f"{entry.where}: {entry.path} stands in {before.where} already. Give each image once."
            )


def _all_or_none(entries: Sequence[Entry], what: str) -> bool:
    without = [entry for entry in entries if not getattr(entry, what)]
    if without and len(without) < len(entries):
        raise DatasetError(
            f"{without[0].where}: no {what} is given for {without[0].path}, as for {len(without)} of "
            f"{len(entries)} images. Give a {what} for all images or for none."
        )
    return not without


def _refuse_shared(dataset: ReidDataset) -> None:
    tested = dataset.query + dataset.gallery
    people = {
        what: {crop.pid for crop in crops} - {DISTRACTOR}
        for what, crops in (("train", dataset.train), ("val", dataset.val), ("query or gallery", tested))
    }
    for one, other in (("train", "query or gallery"), ("train", "val"), ("val", "query or gallery")):
        shared = people[one] & people[other]
        if shared:
            example = dataset.names.get(min(shared), str(min(shared)))
            raise LeakError(
                f"{dataset.name}: {len(shared)} identities are both in {one} and in {other} (for example "
                f"{example}). The people who are tested must not be trained on: split them by identity, as "
                "python -m reid.data.split does.",
                dataset,
            )
