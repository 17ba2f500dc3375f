"""The image store: every crop decoded and resized once, then read as uint8 through a memory map.

A store is two files in the cache folder: `<key>.npy`, an array (N, H, W, 3) of RGB, and `<key>.json`, which
holds its content hash and says which crops could not be read.  The key is a hash over the crops'
names, sizes and times on disk and the image size, so a changed file makes another store and an unchanged
one is shared by runs and processes.
"""

import hashlib
import io
import json
import mmap
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from reid.data.crops import Crop, DatasetError, Progress, silent
from reid.locks import FileLock, NoLocksError

#: Raised when the pixels that a store holds change for the same file and size.
FORMAT = "2"

#: How many bad files a message names.
NAMED = 50


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
        rows = self.rows[indices.numpy()]
        fetch(self.pixels, rows)
        return torch.from_numpy(self.pixels[rows]).permute(0, 3, 1, 2)

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
        DatasetError: images cannot be read (they are named) and `on_bad_image` is "raise"; or none can.
        OSError: the store cannot be written, for want of room or of rights; nothing is left half-written.
    """
    key = _key(crops, height, width)
    array, meta = folder / f"{key}.npy", folder / f"{key}.json"
    if not _complete(array, meta):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f"{key}.lock"):
                if not _complete(array, meta):
                    _build(crops, height, width, array, meta, progress, what)
        except NoLocksError:
            raise
        except OSError as error:
            needed = len(crops) * height * width * 3 / 2**20
            raise OSError(
                f"the store of {what} could not be written to {folder}: {error.strerror or error}. It needs "
                f"{needed:.1f} MiB there. Make room, or put it elsewhere with data.store=…"
            ) from error
    facts = json.loads(meta.read_text())
    bad = {int(row): reason for row, reason in facts["bad"].items()}
    if bad and (on_bad_image == "raise" or len(bad) == len(crops)):
        raise DatasetError(_bad_message(crops, bad, what))
    rows = np.array([row for row in range(len(crops)) if row not in bad], np.int64)
    kept = tuple(crops[row] for row in rows)
    named = tuple(str(crops[row].path) for row in bad)
    return ImageStore(kept, rows, _mapped(array), facts["content"], named)


def _mapped(array: Path) -> np.ndarray:
    """The array, of which the system reads what is asked for and nothing ahead of it.

    Reading ahead costs up to megabytes an image where the store is larger than memory and the order random.
    """
    pixels: np.ndarray = np.load(array, mmap_mode="r")
    if isinstance(pixels.base, mmap.mmap) and hasattr(mmap, "MADV_RANDOM"):
        pixels.base.madvise(mmap.MADV_RANDOM)
    return pixels


def fetch(pixels: np.ndarray, rows: np.ndarray) -> None:
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


def _complete(array: Path, meta: Path) -> bool:
    return array.exists() and meta.exists()


def _key(crops: Sequence[Crop], height: int, width: int) -> str:
    digest = hashlib.sha256(f"{FORMAT} {height}x{width}".encode())
    for crop in crops:
        state = "unreadable"  # a store that lacks a file is built again once it is there, or may be read
        if os.access(crop.path, os.R_OK):
            stat = crop.path.stat()
            state = f"{stat.st_size}\0{stat.st_mtime_ns}"
        digest.update(f"{crop.path.absolute()}\0{state}\0".encode())
    return digest.hexdigest()[:24]


def _build(
    crops: Sequence[Crop], height: int, width: int, array: Path, meta: Path, progress: Progress, what: str
) -> None:
    # The lock is held, so what lies under these names was left by a process that was killed.
    partial, notes = array.with_suffix(".partial"), meta.with_suffix(".json.partial")
    size = (len(crops), height, width, 3)
    try:
        pixels = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=size)
        _reserve(partial)
        bad: dict[int, str] = {}
        content = hashlib.sha256()

        def decode(row: int) -> tuple[bytes, str | None]:
            image, file_hash, reason = decode_file(crops[row].path, height, width)
            if image is not None:
                pixels[row] = image
            return file_hash, reason

        # Threads: PIL lets go of the interpreter lock while it decodes and resizes, which is all the work.
        with ThreadPoolExecutor(cores()) as pool:
            try:
                decoded = pool.map(decode, range(len(crops)))
                for row, (file_hash, reason) in enumerate(progress(decoded, len(crops), f"decoding {what}")):
                    content.update(file_hash)
                    if reason is not None:
                        bad[row] = reason
            except BaseException:  # Ctrl-C too: do not make it wait for all images still to come
                pool.shutdown(cancel_futures=True)
                raise
        pixels.flush()
        facts = {"shape": size, "content": content.hexdigest(), "bad": {str(k): v for k, v in bad.items()}}
        notes.write_text(json.dumps(facts))
        for path, final in ((partial, array), (notes, meta)):
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
            path.replace(final)
    finally:
        partial.unlink(missing_ok=True)
        notes.unlink(missing_ok=True)


def _reserve(path: Path) -> None:
    """Claim the disk blocks now: on a full disk, writing to a sparse map kills the process by SIGBUS."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, path.stat().st_size)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decode_file(path: Path, height: int, width: int) -> tuple[np.ndarray | None, bytes, str | None]:
    """(pixels (H, W, 3) uint8 RGB, hash of the file, None), or (None, hash, what is wrong with it).

    Raises:
        OSError: the disk or the server failed, which says nothing of the image.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        if not isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise  # a disk or a server that fails for a moment says nothing of the image
        return None, b"unreadable", error.strerror or type(error).__name__
    file_hash = hashlib.sha256(data).digest()
    if not data:
        return None, file_hash, "empty file"
    try:
        image = decode_image(data, height, width)
    except UnidentifiedImageError:
        return None, file_hash, "no image of a kind that PIL knows"
    except MemoryError:
        raise
    except Exception as error:  # PIL's plugins raise anything from SyntaxError to struct.error
        return None, file_hash, f"{type(error).__name__}: {error}"
    return image, file_hash, None


def decode_image(data: bytes, height: int, width: int) -> np.ndarray:
    """Decode one image file to (height, width, 3) uint8 RGB by PIL's bilinear filter."""
    with Image.open(io.BytesIO(data)) as image:
        rgb = image.convert("RGB")
    return np.asarray(rgb.resize((width, height), Image.Resampling.BILINEAR))


def _bad_message(crops: Sequence[Crop], bad: dict[int, str], what: str) -> str:
    shown = [f"    {crops[row].path}: {reason}" for row, reason in list(bad.items())[:NAMED]]
    more = [f"    … and {len(bad) - NAMED} more"] if len(bad) > NAMED else []
    leave_out = ", or leave them out with data.on_bad_image=skip (counted and tracked)"
    return "\n".join(
        [
            f"{len(bad)} of {len(crops)} {what} cannot be read:",
            *shown,
            *more,
            f"Replace or delete them{leave_out if len(bad) < len(crops) else ''}.",
        ]
    )
