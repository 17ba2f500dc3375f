"""Own data as one folder a person, perhaps under train/, val/, query/ and gallery/."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from reid.data.crops import DatasetError, Progress, ReidDataset, silent
from reid.data.image_folders import images_below, is_system_folder
from reid.data.labelled_images import SPLITS, LabelledImage, assemble
from reid.data.labels import LabelError, People, clean

#: The camera in a name, counted from 1 as in Market's, 0002_c1s1_000451_03.jpg, anna_C3.png, and in MARS's,
#: 0001C1T0001F001.jpg.
CAMERA = re.compile(r"(?:_|^\d+(?=[cC]\d+[tT]\d))[cC](\d+)")
#: A camera's folder below a person's: cam2, c2, camera_2, 2.
CAMERA_FOLDER = re.compile(r"(?:c|cam|camera)[ _-]?(\d+)|(\d{1,2})", re.IGNORECASE)
#: Folders that hold people and are none.
NO_PERSON = re.compile(
    r"(bounding_box_)?(train|training|trainval|test|testing|val|valid|validation|eval|images)", re.IGNORECASE
)

Cameras = Literal["auto", "name", "none", "folder"]
Tracklets = Literal["none", "folder"]


class FolderImage(NamedTuple):
    """One image of a person, with the numbers of the camera in its own name and in a folder's above it."""

    path: Path
    person: str
    split: str
    in_name: int | None
    in_folder: int | None
    folder: str


def load(
    root: Path,
    cameras: Cameras = "auto",
    test_fraction: float = 0.5,
    seed: int = 0,
    distractor: int | str | None = 0,
    null: Sequence[str] | None = None,
    tracklets: Tracklets = "none",
    progress: Progress = silent,
) -> ReidDataset:
    """Read `root/<person>/*.jpg`, or `root/{train,val,query,gallery}/<person>/*.jpg`.

    A person's folder may have any name, and folders in it.  The camera is the N of `_cN` in a file's name or
    that of a folder `camN` (`cameras="auto"`: if any file's name has one, all images must have one; if only
    folders name some, all images must lie in one, or all cameras are unknown); `none` takes no notice of
    either, `name` insists on the file's, `folder` takes the folder below the person's, whatever its name.
    Without split folders `test_fraction` of the people, drawn by `seed`, are tested on.  The images of the
    person `distractor`, and of those called by one of the words `null`, show nobody who is looked for; None:
    no name does, and a word such as `nan` is refused.  With `tracklets="folder"` the images of one folder
    below a person's are the frames of a tracklet; those directly in the person's folder are of none.

    Raises:
        DatasetError: no such folder, or images that do not tell whom they show.
        LeakError: people are in more than one of train, val and test.
    """
    if not root.is_dir():
        raise DatasetError(
            f"there is no folder {root}: expected {root}/<person>/<image>.jpg, one folder a person. "
            "Set dataset.root."
        )
    rules = People.of(distractor, null)
    images: list[FolderImage] = []
    strays = 0
    for split, parent in _parents(root):
        people = sorted(path for path in parent.iterdir() if _is_person(path))
        strays += sum(1 for _ in parent.iterdir()) - len(people)
        for person in people:
            found = images_below(person)
            _refuse_no_person(person, found.images, root, people)
            strays += found.left_out.total()
            label = _label(person, rules)
            images += [_image(path, person, label, split) for path in found.images]
    named, notice = _cameras(images, cameras)
    labelled = [
        LabelledImage(
            image.path, image.person, camera, image.split, image.path.relative_to(root).as_posix(),
            image.path.parent.name, _tracklet(image, root) if tracklets == "folder" else "",
        )
        for image, camera in zip(images, named, strict=True)
    ]  # fmt: skip
    return assemble(root.name, root, labelled, test_fraction, seed, strays, rules, notice)


def _parents(root: Path) -> Iterator[tuple[str, Path]]:
    """Each folder that holds persons' folders, and the split that it stands for."""
    folders = {path.name for path in root.iterdir() if _is_person(path)}
    named = folders & set(SPLITS)
    if not named:
        yield "", root
        return
    if others := sorted(folders - named):
        raise DatasetError(
            f"{root} holds {', '.join(sorted(named))} and also {others[0]}: expected either one folder a "
            f"person, or {', '.join(SPLITS)} alone with the persons' folders in them."
        )
    for split in SPLITS:
        if split in named:
            yield split, root / split


def _refuse_no_person(person: Path, images: Sequence[Path], root: Path, people: Sequence[Path]) -> None:
    """Refuse a folder without images, and one that holds people, who would all become one."""
    layout = (
        f"{root}/<person>/<image>.jpg, {root}/<person>/cam2/<image>.jpg or {root}/train/<person>/<image>.jpg"
    )
    if not images:
        raise DatasetError(f"{person} holds no image: expected one folder a person, {layout}.")
    if any(path.parent == person for path in images):
        return
    all_cameras = all(CAMERA_FOLDER.fullmatch(path.name) and not path.name.isdigit() for path in people)
    if all_cameras or NO_PERSON.fullmatch(person.name):
        what = "a camera" if all_cameras else "a part of a set"
        raise DatasetError(
            f"{person} bears the name of {what} and has no image directly in it, so it is no person's "
            f"folder: expected {layout}."
        )


def _label(person: Path, rules: People) -> str:
    try:
        return rules.read(person.name)
    except LabelError as error:
        raise DatasetError(f"{person}: {error}.") from error


def _image(path: Path, person: Path, label: str, split: str) -> FolderImage:
    in_name = CAMERA.search(path.name)
    folders = path.relative_to(person).parts[:-1]
    in_folder = next((match for name in folders if (match := CAMERA_FOLDER.fullmatch(name))), None)
    return FolderImage(
        path,
        label,
        split,
        int(in_name[1]) if in_name else None,
        int(in_folder[1] or in_folder[2]) if in_folder else None,
        folders[0] if folders else "",
    )


def _tracklet(image: FolderImage, root: Path) -> str:
    return image.path.parent.relative_to(root).as_posix() if image.folder else ""


def _cameras(images: Sequence[FolderImage], cameras: Cameras) -> tuple[list[str], str]:
    """The camera of each image, from 0 or "" where it is unknown, and what a user has to know of them."""
    if cameras == "none":
        return [""] * len(images), ""
    if cameras == "folder":
        for image in images:
            if not image.folder:
                raise DatasetError(
                    f"{image.path} lies in no camera's folder (<person>/<camera>/<image>.jpg), and "
                    "dataset.cameras=folder insists on one."
                )
        return [clean(image.folder) for image in images], ""
    for image in images:
        _check_camera(image, cameras)
    numbers = [
        image.in_name if image.in_name is not None or cameras == "name" else image.in_folder
        for image in images
    ]
    unknown = numbers.count(None)
    if unknown and all(image.in_name is None for image in images):
        known = len(images) - unknown
        notice = (
            f"{known:,} of {len(images):,} images lie in a camera's folder and the others in none, so all "
            "cameras are taken as unknown; dataset.cameras=folder insists on them."
        )
        return [""] * len(images), notice if known else ""
    first = 0 if 0 in numbers else 1
    return ["" if number is None else str(number - first) for number in numbers], ""


def _check_camera(image: FolderImage, cameras: Cameras) -> None:
    if image.in_name is None:
        if cameras == "name":
            raise DatasetError(
                f"{image.path} names no camera (_c1, _c2, …), and dataset.cameras=name insists on one."
            )
        return
    if image.in_name < 1:
        raise DatasetError(
            f"{image.path}: cameras count from 1 in names, not c{image.in_name}. Rename the file, or set "
            "dataset.cameras=none."
        )
    if cameras == "auto" and image.in_folder not in (None, image.in_name):
        raise DatasetError(
            f"{image.path}: its name says camera {image.in_name}, its folder camera {image.in_folder}. Set "
            "dataset.cameras=name, folder or none."
        )


def _is_person(path: Path) -> bool:
    return path.is_dir() and not is_system_folder(path.name)
