"""The image store: every crop decoded and resized once, then read as uint8 through a memory map.

A store is two files in the cache folder: `<key>.npy`, an array (N, H, W, 3) of RGB, and `<key>.json`, which
names its source, its content hash and the crops that could not be read.  The key is a hash over the crops'
names, sizes and times on disk and the image size, so a changed file makes another store and an unchanged
one is shared by runs and processes.
"""

import hashlib
import io
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from PIL import Image

from reid.data.crops import Crop, DatasetError, Progress, silent

#: Raised when the pixels that a store holds change for the same file and size.
FORMAT = "1"


@dataclass(frozen=True)
class ImageStore:
    """Crops, ready as uint8.

    `crops` are those that could be read, in the order given, and `rows` (N,) where each lies in `pixels`
    (M, H, W, 3), uint8 RGB, read-only.  `content` is a sha256 over the bytes of all files of the store,
    the same on every machine that has them.  `bad` names the files that could not be read.
    """

    crops: tuple[Crop, ...]
    rows: np.ndarray
    pixels: np.ndarray
    content: str
    bad: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.crops)

    def read(self, indices: torch.Tensor) -> torch.Tensor:
        """The images at `indices` (B,) as a uint8 tensor (B, 3, H, W) with channels last in memory."""
        return torch.from_numpy(self.pixels[self.rows[indices.numpy()]]).permute(0, 3, 1, 2)

    def subset(self, crops: Sequence[Crop]) -> "ImageStore":
        """The same pixels for some of the crops; those that could not be read stay out."""
        row_of = {crop.path: int(row) for crop, row in zip(self.crops, self.rows, strict=True)}
        kept = tuple(crop for crop in crops if crop.path in row_of)
        rows = np.fromiter((row_of[crop.path] for crop in kept), np.int64, len(kept))
        return replace(self, crops=kept, rows=rows)

    @property
    def pids(self) -> torch.Tensor:
        """int64 (N,)"""
        return torch.tensor([crop.pid for crop in self.crops], dtype=torch.int64)

    @property
    def camids(self) -> torch.Tensor:
        """int64 (N,)"""
        return torch.tensor([crop.camid for crop in self.crops], dtype=torch.int64)


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

    Several processes may ask at once: one builds, the others wait.  An image is resized by PIL's bilinear
    filter, as published.

    Raises:
        DatasetError: images cannot be read (all are named) and `on_bad_image` is "raise"; or none can.
        OSError: no room for the store; nothing is left half-written.
    """
    key = _key(crops, height, width)
    array, meta = folder / f"{key}.npy", folder / f"{key}.json"
    if not meta.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{key}.lock"):
            if not meta.exists():
                _build(crops, height, width, array, meta, progress, what)
    facts = json.loads(meta.read_text())
    bad = {int(row): reason for row, reason in facts["bad"].items()}
    if bad and (on_bad_image == "raise" or len(bad) == len(crops)):
        raise DatasetError(_bad_message(crops, bad, what))
    kept = tuple(crop for row, crop in enumerate(crops) if row not in bad)
    named = tuple(str(crops[row].path) for row in bad)
    return ImageStore(kept, np.arange(len(kept)), np.load(array, mmap_mode="r"), facts["content"], named)


def _key(crops: Sequence[Crop], height: int, width: int) -> str:
    digest = hashlib.sha256(f"{FORMAT} {height}x{width}".encode())
    for crop in crops:
        try:
            stat = crop.path.stat()
            digest.update(f"{crop.path.absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
        except OSError:
            digest.update(f"{crop.path.absolute()}\0missing\0".encode())
    return digest.hexdigest()[:24]


def _build(
    crops: Sequence[Crop], height: int, width: int, array: Path, meta: Path, progress: Progress, what: str
) -> None:
    partial = array.with_suffix(f".{os.getpid()}.partial")
    size = (len(crops), height, width, 3)
    try:
        pixels = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=size)
        _reserve(partial)
        bad: dict[int, str] = {}
        content = hashlib.sha256()
        # Threads: PIL lets go of the interpreter lock while it decodes and resizes, which is all the work.
        with ThreadPoolExecutor(_cores()) as pool:
            decoded = pool.map(lambda crop: _decode(crop.path, height, width), crops)
            row = 0
            for image, file_hash, reason in progress(decoded, len(crops), f"decoding {what}"):
                content.update(file_hash)
                if reason is None:
                    pixels[row] = image
                    row += 1
                else:
                    bad[row + len(bad)] = reason
        pixels.flush()
        del pixels
        with partial.open("rb") as handle:
            os.fsync(handle.fileno())
        partial.replace(array)
        facts = {"shape": size, "content": content.hexdigest(), "bad": {str(k): v for k, v in bad.items()}}
        notes = meta.with_suffix(f".{os.getpid()}.partial")
        notes.write_text(json.dumps(facts))
        notes.replace(meta)
    finally:
        partial.unlink(missing_ok=True)


def _reserve(path: Path) -> None:
    """Claim the disk blocks now: on a full disk, writing to a sparse map kills the process by SIGBUS."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, path.stat().st_size)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _decode(path: Path, height: int, width: int) -> tuple[np.ndarray | None, bytes, str | None]:
    """(pixels (H, W, 3), hash of the file, None), or (None, hash, what is wrong with it)."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return None, b"unreadable", error.strerror or type(error).__name__
    file_hash = hashlib.sha256(data).digest()
    try:
        image = decode_image(data, height, width)
    except Exception as error:  # PIL's plugins raise anything from SyntaxError to struct.error
        return None, file_hash, f"{type(error).__name__}: {error}"
    return image, file_hash, None


def decode_image(data: bytes, height: int, width: int) -> np.ndarray:
    """Decode one image file to (height, width, 3) uint8 RGB by PIL's bilinear filter."""
    with Image.open(io.BytesIO(data)) as image:
        rgb = image.convert("RGB")
    return np.asarray(rgb.resize((width, height), Image.Resampling.BILINEAR))


def _bad_message(crops: Sequence[Crop], bad: dict[int, str], what: str) -> str:
    shown = [f"    {crops[row].path}: {reason}" for row, reason in list(bad.items())[:10]]
    more = [f"    … and {len(bad) - 10} more"] if len(bad) > 10 else []
    return "\n".join(
        [
            f"{len(bad)} of {len(crops)} {what} cannot be read:",
            *shown,
            *more,
            "Replace or delete them, or leave them out with data.on_bad_image=skip (counted and tracked).",
        ]
    )
