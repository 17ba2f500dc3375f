"""The image store: every crop decoded and resized once, then read as uint8 through a memory map.

A store is two files in the cache folder: `<key>.npy`, an array (N, H, W, 3) of RGB, and `<key>.json`, which
holds its content hash and says which crops could not be read.  The key is a hash over the bytes of the crops'
files, in their order, and the image size: a changed file makes another store, and the same files under other
paths have the same one.  `store_files.py` knows which files have to be read again for that.
"""

import hashlib
import json
import mmap
import os
import time
import uuid
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reid.data.crops import Crop, DatasetError, Progress, silent
from reid.data.files import in_threads
from reid.data.pictures import PictureFile, bad_lines, count_treatments, read_picture
from reid.data.store_files import (
    CHECKSUMS,
    FORMAT,
    UNREADABLE,
    FileHashes,
    map_and_hold,
    read_facts,
    store_key,
)
from reid.locks import FileLock, NoLocksError
from reid.people import NO_TRACKLET


@dataclass(frozen=True)
class ImageStore:
    """Crops, ready as uint8.

    `crops` are those that could be read, in the order given, and `rows` (N,) where each lies in `pixels`
    (M, H, W, 3), uint8 RGB, read-only.  `content` is a sha256 over the bytes of all files of the store,
    the same on every machine that has them.  `bad` names the files that could not be read, and `treatments`
    counts the pictures of the store that were turned, scaled or composited, see `reid.data.pictures`.
    `damage` compares the pixels with what was written, where the store knows that.
    """

    crops: tuple[Crop, ...]
    rows: np.ndarray
    pixels: np.ndarray
    content: str
    bad: tuple[str, ...] = ()
    treatments: Mapping[str, int] = field(default_factory=dict)
    damage: "Damage | None" = field(default=None, compare=False)

    def __len__(self) -> int:
        return len(self.crops)

    def read(self, indices: torch.Tensor) -> torch.Tensor:
        """The images at `indices` (B,) as a uint8 tensor (B, 3, H, W) with channels last in memory."""
        return torch.from_numpy(self.pixels[self.places(indices)]).permute(0, 3, 1, 2)

    def places(self, indices: torch.Tensor) -> np.ndarray:
        """The rows of `pixels` of the images at `indices` (B,), which are there and as they were written.

        Raises:
            DatasetError: a disk or somebody has changed them; the next opening builds the store anew.
        """
        rows: np.ndarray = self.rows[indices.numpy()]
        read_ahead(self.pixels, rows)
        if self.damage is not None:
            self.damage.refuse(self.pixels, rows)
        return rows

    def subset(self, crops: Sequence[Crop]) -> "ImageStore":
        """The same pixels for some of the crops; those that could not be read stay out."""
        row_of = {crop.path: int(row) for crop, row in zip(self.crops, self.rows, strict=True)}
        readable = tuple(crop for crop in crops if crop.path in row_of)
        rows = np.fromiter((row_of[crop.path] for crop in readable), np.int64, len(readable))
        return replace(self, crops=readable, rows=rows)

    @property
    def pids(self) -> torch.Tensor:
        """int64 (N,)"""
        return torch.tensor([crop.pid for crop in self.crops], dtype=torch.int64)

    @property
    def tracklets(self) -> torch.Tensor | None:
        """int64 (N,), -1 for an image of none; None where no image is a frame of a tracklet."""
        if all(crop.tracklet is None for crop in self.crops):
            return None
        numbers = [NO_TRACKLET if crop.tracklet is None else crop.tracklet for crop in self.crops]
        return torch.tensor(numbers, dtype=torch.int64)

    @property
    def camids(self) -> torch.Tensor:
        """int64 (N,)"""
        return torch.tensor([crop.camid for crop in self.crops], dtype=torch.int64)


class Damage:
    """Whether the images of a store are those that were written, each looked at when it is first read."""

    def __init__(self, file: Path, checksums: Sequence[int]) -> None:
        self._file = file
        self._checksums = checksums
        self._checked = np.zeros(len(checksums), bool)

    def refuse(self, pixels: np.ndarray, rows: np.ndarray) -> None:
        """Raise DatasetError, and give the store up, where one of its `rows` was changed."""
        for row in rows[~self._checked[rows]].tolist():
            if zlib.crc32(np.ascontiguousarray(pixels[row]).data) != self._checksums[row]:
                with suppress(OSError):  # others may own it: then they have to
                    self._file.unlink()
                raise DatasetError(
                    f"{self._file.with_suffix('.npy')} is damaged: image {row} is not what was written. Its "
                    "notes were removed, so that the store is built anew: type the same command again, and "
                    "look after the disk"
                )
            self._checked[row] = True


def open_store(
    crops: Sequence[Crop],
    height: int,
    width: int,
    folder: Path,
    on_bad_image: str = "raise",
    progress: Progress = silent,
    what: str = "images",
) -> ImageStore:
    """The store of `crops` at `height` x `width` pixels, built in `folder` if it is not there yet.

    Several processes may call this at once: one builds, the others wait.  An image is resized by PIL's
    bilinear filter, as published.

    Raises:
        DatasetError: images cannot be read (they are named) and `on_bad_image` is "raise"; or none can.
        OSError: the store cannot be written, for want of room or of rights; nothing is left half-written.
    """
    hashes = FileHashes([crop.path for crop in crops], folder)
    while True:
        key = _find(hashes, height, width, folder, progress)
        if key is None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                name = f"{hashes.name}-{height}x{width}"
                with FileLock(folder / f"{name}.lock"):
                    key = _find(hashes, height, width, folder, progress)  # another may have built it
                    key = key or _build(hashes, height, width, folder, name, progress, what)
            except NoLocksError:
                raise
            except OSError as error:
                needed = len(crops) * height * width * 3 / 2**20
                raise OSError(
                    f"the store of {what} could not be written to {folder}: {error.strerror or error}. It "
                    f"needs {needed:.1f} MiB there. Make room, or put it elsewhere with data.store=…"
                ) from error
        array, meta = folder / f"{key}.npy", folder / f"{key}.json"
        with suppress(FileNotFoundError):  # it was pruned at this moment: once more
            pixels, facts = _mapped(array), json.loads(meta.read_text())
            break
    _note_use(array, meta, facts, hashes.folder())
    content_bad = {int(row): reason for row, reason in facts["bad"].items()}
    bad = dict(sorted((content_bad | hashes.reasons).items()))
    if bad and (on_bad_image == "raise" or len(bad) == len(crops)):
        raise DatasetError(_bad_message(crops, bad, what))
    rows = np.array([row for row in range(len(crops)) if row not in bad], np.int64)
    readable = tuple(crops[row] for row in rows)
    named = tuple(str(crops[row].path) for row in bad)
    damage = Damage(meta, facts[CHECKSUMS]) if facts.get(CHECKSUMS) is not None else None
    return ImageStore(readable, rows, pixels, facts["content"], named, facts["treatments"], damage)


def _find(hashes: FileHashes, height: int, width: int, folder: Path, progress: Progress) -> str | None:
    """The key of the store of these files, None if it is not there."""
    known = hashes.load()
    if not known and not _any_of_shape((len(hashes.paths), height, width, 3), folder):
        return None  # so the files need not be read before they are decoded
    hashes.update(progress)
    key = store_key(hashes.digests, height, width)
    return key if read_facts(folder / f"{key}.json") is not None else None


def _any_of_shape(shape: tuple[int, ...], folder: Path) -> bool:
    every = map(read_facts, folder.glob("*.json"))
    return any(facts is not None and facts["shape"] == list(shape) for facts in every)


def _mapped(array: Path) -> np.ndarray:
    """The array, mapped so that the system reads the images that are used and nothing beside them.

    Reading ahead costs up to megabytes an image where the store is larger than memory and the order random.
    """
    pixels = map_and_hold(array)
    if isinstance(pixels.base, mmap.mmap) and hasattr(mmap, "MADV_RANDOM"):
        pixels.base.madvise(mmap.MADV_RANDOM)
    return pixels


def _note_use(array: Path, file: Path, facts: dict[str, Any], data: str) -> None:
    """Let `reid.data.stores` say when the store was used last, and for which data."""
    with suppress(OSError):  # others may own it, and it is only a note
        os.utime(array, ns=(time.time_ns(), array.stat().st_mtime_ns))
        if facts["data"] != data:
            partial = file.with_name(f"{file.name}.{uuid.uuid4().hex}.partial")
            try:
                partial.write_text(json.dumps({**facts, "data": data}))
                partial.replace(file)
            finally:
                partial.unlink(missing_ok=True)


def read_ahead(pixels: np.ndarray, rows: np.ndarray) -> None:
    """Let the system read the images at `rows` (B,) side by side, those that are not in memory."""
    mapping = pixels.base
    if not (
        isinstance(pixels, np.memmap) and isinstance(mapping, mmap.mmap) and hasattr(mmap, "MADV_WILLNEED")
    ):
        return
    begin = pixels.offset % mmap.ALLOCATIONGRANULARITY
    for row in rows.tolist():
        start = begin + row * pixels.strides[0]
        early = start % mmap.PAGESIZE
        mapping.madvise(mmap.MADV_WILLNEED, start - early, pixels.strides[0] + early)


def _build(
    hashes: FileHashes, height: int, width: int, folder: Path, name: str, progress: Progress, what: str
) -> str:
    """Decode all files, reading each once, and return the key of what came out."""
    # The lock is held, so what lies under these names was left by a process that was killed.
    partial, notes = folder / f"{name}.partial", folder / f"{name}.json.partial"
    paths = hashes.paths
    size = (len(paths), height, width, 3)
    try:
        pixels = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=size)
        _reserve(partial)
        bad: dict[int, str] = {}
        treatments: dict[int, tuple[str, ...]] = {}
        content = hashlib.sha256()

        def decode(row: int) -> tuple[PictureFile, bytes]:
            file = read_picture(paths[row])
            if file.picture is not None:
                pixels[row] = file.picture.resized(height, width)
                treatments[row] = file.picture.treatments
            return replace(file, picture=None), _fingerprint(file)  # not all pictures at once in memory

        with in_threads(decode, range(len(paths)), progress, f"decoding {what}") as decoded:
            for row, (file, fingerprint) in enumerate(decoded):
                hashes.note(row, file.state, file.digest, file.reason)
                content.update(fingerprint)
                if file.digest is not None and file.reason is not None:
                    bad[row] = file.reason
        pixels.flush()
        facts = {
            "format": FORMAT, "shape": size, "content": content.hexdigest(),
            "bad": {str(row): reason for row, reason in bad.items()},
            "treatments": count_treatments(treatments.values()), "what": what, "data": hashes.folder(),
            CHECKSUMS: [zlib.crc32(image.data) for image in pixels],
        }  # fmt: skip
        notes.write_text(json.dumps(facts))
        key = store_key(hashes.digests, height, width)
        for path, final in ((partial, folder / f"{key}.npy"), (notes, folder / f"{key}.json")):
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
            path.replace(final)
    finally:
        partial.unlink(missing_ok=True)
        notes.unlink(missing_ok=True)
    hashes.save()
    return key


def _fingerprint(file: PictureFile) -> bytes:
    """What a file adds to the content hash: other pixels of the same bytes are other content."""
    if file.digest is None:
        return UNREADABLE
    if file.picture is not None and file.picture.altered:
        return hashlib.sha256(file.digest + f" {FORMAT}".encode()).digest()
    return file.digest


def _reserve(path: Path) -> None:
    """Claim the disk blocks now: on a full disk, writing to a sparse map kills the process by SIGBUS."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, path.stat().st_size)


def _bad_message(crops: Sequence[Crop], bad: dict[int, str], what: str) -> str:
    lines = bad_lines([(crops[row].path, reason) for row, reason in bad.items()])
    leave_out = ", or leave them out with data.on_bad_image=skip (counted and tracked)"
    return "\n".join(
        [
            f"{len(bad)} of {len(crops)} {what} cannot be read:",
            *lines,
            f"Replace or delete them{leave_out if len(bad) < len(crops) else ''}.",
        ]
    )
