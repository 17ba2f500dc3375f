"""Own data: labelled images, from whatever names them, made into a dataset or refused by file and line."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from reid.data.crops import IF_A_PERSON, Crop, DatasetError, LeakError, ReidDataset
from reid.data.division import divide
from reid.data.labels import People, merged_ids, numbered, numbered_people, spellings_of
from reid.people import DISTRACTOR, JUNK

SPLITS = ("train", "val", "query", "gallery")


class LabelledImage(NamedTuple):
    """One image as its source labels it, by labels that are clean.

    `person` is "" for nobody; `camera`, `split` and `tracklet` are "" where the source says nothing of them.
     `order` sorts the images alike on every machine; `where` is what a message names: "crops.csv line 7".
    """

    path: Path
    person: str
    camera: str
    split: str
    order: str
    where: str
    tracklet: str = ""


def assemble(
    name: str,
    root: Path,
    images: Sequence[LabelledImage],
    test_fraction: float,
    seed: int,
    strays: int = 0,
    rules: People = People(),  # noqa: B008 (frozen)
    notice: str = "",
) -> ReidDataset:
    """The dataset of these images.

    Persons and cameras keep whole numbers and get a number by sorted order where they have names.  As in
    Market-1501, pid -1 is junk and 0 a distractor, also among names, unless `rules` say otherwise: it may
    stand in the gallery alone, and the notice says how many do.  Without cameras every camid is 0.  Tracklets
    are numbered by sorted order; an image may have none.  Without
    splits, `test_fraction` of the people are tested on, drawn by `seed`, and the notice says so; it begins
    with `notice`.

    Raises:
        DatasetError: nothing is there, or a label is wrong, missing on some images alone, or given twice.
        LeakError: people are in more than one of train, val and test.
    """
    if not images:
        raise DatasetError(f"{name}: there is no image in {root}.")
    _refuse_repeated(images)
    pids = numbered_people((image.person for image in images), rules.distractor)
    cameras = _all_or_none(images, "camera")
    camids = numbered((image.camera for image in images), first=0) if cameras else {"": 0}
    for image in images:
        if camids[image.camera] < 0:
            raise DatasetError(f"{image.where}: camid {image.camera} is not allowed: expected 0 or more.")
    shown = [image for image in sorted(images, key=lambda image: image.order) if pids[image.person] != JUNK]
    usable = [image for image in shown if image.person or image.split in ("", "gallery")]
    tracklets = _tracklets(images)
    crops = [
        Crop(image.path, pids[image.person], camids[image.camera], tracklets.get(image.tracklet))
        for image in usable
    ]
    names = {
        pids[some[0]]: some[0]
        for some in spellings_of(pids).values()
        if pids[some[0]] > DISTRACTOR and some[0] != str(pids[some[0]])
    }
    notice = _lines(notice, merged_ids(pids), _idle(len(shown) - len(usable)))
    junk = len(images) - len(shown)
    dataset = ReidDataset(name, root, (), (), (), strays, junk, notice, (), cameras, names)
    if not _all_or_none(images, "split"):
        return _divided(dataset, crops, test_fraction, seed, rules)
    of = {
        split: tuple(crop for crop, image in zip(crops, usable, strict=True) if image.split == split)
        for split in SPLITS
    }
    dataset = replace(
        dataset, train=of["train"], val=of["val"], query=of["query"], gallery=of["gallery"],
        notice=_lines(notice, _kept_for_choosing(of["val"]), _distractors(of["gallery"], rules)),
    )  # fmt: skip
    for image in usable:
        if pids[image.person] == DISTRACTOR and image.split != "gallery":
            raise DatasetError(
                f"{image.where}: pid {image.person} is a distractor, whom nobody looks for, and stands in "
                f"{image.split}: it may be in the gallery alone. {IF_A_PERSON}"
            )
    _refuse_shared(dataset)
    return dataset


def _divided(
    dataset: ReidDataset, crops: list[Crop], test_fraction: float, seed: int, rules: People
) -> ReidDataset:
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
            dataset.notice,
            f"{dataset.name} names no splits: {len(train)} people to train on and {len(tested)} others to "
            f"test on were drawn with dataset.seed={seed} and dataset.test_fraction={test_fraction}; "
            "python -m reid.data.split writes such a split down.",
            _distractors(parts.gallery, rules),
        ),
    )  # fmt: skip


def _kept_for_choosing(val: tuple[Crop, ...]) -> str:
    if not val:
        return ""
    people = len({crop.pid for crop in val})
    return f"{people} people of the val split are not trained on; eval.split=val judges on them."


def _distractors(gallery: tuple[Crop, ...], rules: People) -> str:
    images = sum(crop.pid == DISTRACTOR for crop in gallery)
    if not images:
        return ""
    ids = [] if rules.distractor is None else [f"pid {rules.distractor}"]
    ids += ["a word of dataset.null"] if rules.null else []
    return (
        f"{' or '.join(ids)} stands for distractors, people whom nobody looks for: {images:,} images, in the "
        f"gallery alone. {IF_A_PERSON}"
    )


def _idle(images: int) -> str:
    if not images:
        return ""
    return (
        f"{images:,} images of nobody (dataset.null) are left out: they stand outside the gallery, the "
        "one place where they are of use."
    )


def _lines(*sentences: str) -> str:
    return "\n".join(filter(None, sentences))


def _refuse_repeated(images: Sequence[LabelledImage]) -> None:
    seen: dict[Path, LabelledImage] = {}
    for image in images:
        before = seen.setdefault(image.path, image)
        if before is not image:
            raise DatasetError(
                f"{image.where}: {image.path} stands in {before.where} already. Give each image once."
            )


def _tracklets(images: Sequence[LabelledImage]) -> dict[str, int]:
    """The number of each tracklet, by its name.

    Raises:
        DatasetError: one shows two people, or was seen by two cameras.
    """
    seen: dict[str, LabelledImage] = {}
    for image in images:
        if not image.tracklet:
            continue
        before = seen.setdefault(image.tracklet, image)
        for what in ("person", "camera"):
            one, other = getattr(before, what), getattr(image, what)
            if one != other:
                raise DatasetError(
                    f"{image.where}: tracklet {image.tracklet} is of {what} {other or 'nobody'} here and "
                    f"of {what} "
                    f"{one or 'nobody'} in {before.where}. A tracklet is one person whom one camera "
                    "followed, and its name "
                    "stands once in the whole source: call it <person>-<camera>-<number>, for example."
                )
    return {name: number for number, name in enumerate(sorted(seen))}


def _all_or_none(images: Sequence[LabelledImage], what: str) -> bool:
    without = [image for image in images if not getattr(image, what)]
    if without and len(without) < len(images):
        raise DatasetError(
            f"{without[0].where}: no {what} is given for {without[0].path}, as for {len(without)} of "
            f"{len(images)} images. Give a {what} for all images or for none."
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
