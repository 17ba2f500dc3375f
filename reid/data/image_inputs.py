"""Images as Python code holds them, one or many: read in their order, a batch or two at a time.

| what | how it is taken |
|---|---|
| a path | the file, by the rules of `reid.data.pictures`; `~` is the home folder |
| a PIL image | by the same rules: turned upright, grey and transparent pixels to RGB |
| an array (H, W, 3), or (N, H, W, 3) for many | uint8, red first |
| a tensor (3, H, W), or (N, 3, H, W) for many | uint8, red first; on any device |
| a list, a generator, anything else that gives such images | many |

Nothing is guessed: floats, grey arrays and a fourth channel are refused, and the message says how to convert
them. One thing cannot be seen: OpenCV gives blue first. Turn such an array round before: `array[..., ::-1]`.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from io import IOBase
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from reid.data.crops import DatasetError, PictureError
from reid.data.pictures import Picture, name_unreadable, read_picture, upright
from reid.limits import cores

ImageInput: TypeAlias = str | PathLike[str] | Image.Image | npt.NDArray[np.uint8] | torch.Tensor
#: An image as it waits for its batch. What is no file is copied at once: its owner may close or change it.
_Source: TypeAlias = Path | Picture | PictureError

EXPECTED = "expected a path, a PIL image, an array (H, W, 3) or a tensor (3, H, W) of uint8 RGB"


def is_one(images: object) -> bool:
    """Whether this is one image, or what is meant to be one, and no collection of them."""
    if isinstance(images, np.ndarray):
        return images.ndim == 0 or (images.ndim < 4 and images.dtype.kind not in "OU")  # of paths: many
    if isinstance(images, torch.Tensor):
        return images.ndim < 4
    # An open file would give its lines.
    kinds = str | bytes | PathLike | Image.Image | IOBase
    return isinstance(images, kinds) or not isinstance(images, Iterable)


def named_images(images: ImageInput | Iterable[ImageInput]) -> Iterator[tuple[str, ImageInput]]:
    """Each image with what a message calls it: its path, or its place as in `images[3]`."""
    if is_one(images):
        yield str(images) if isinstance(images, str | PathLike) else "the image", images  # type: ignore[misc]
        return
    for number, image in enumerate(images):  # type: ignore[arg-type]
        yield str(image) if isinstance(image, str | PathLike) else f"images[{number}]", image


def decoded_batches(
    images: ImageInput | Iterable[ImageInput], batch: int, height: int, width: int
) -> Iterator[tuple[list[str], torch.Tensor]]:
    """Names and pixels, (B, 3, height, width) uint8, of `batch` images after `batch` images.

    One batch is decoded by all cores while its predecessor is worked with, and no more than these two are
    held. The images are asked for in the calling thread.

    Raises:
        DatasetError: images cannot be used; the message names those of their batch.
    """
    named = named_images(images)
    waiting: deque[tuple[list[str], list[Future[npt.NDArray[np.uint8] | str]]]] = deque()
    with ThreadPoolExecutor(cores()) as pool:
        try:
            while chunk := [(name, _taken(image)) for name, image in islice(named, batch)]:
                names = [name for name, _ in chunk]
                waiting.append((names, [pool.submit(_pixels, source, height, width) for _, source in chunk]))
                del chunk  # or its pictures would be held while those of the next two arrive
                if len(waiting) == 2:
                    yield _stacked(*waiting.popleft())
            while waiting:
                yield _stacked(*waiting.popleft())
        except BaseException:  # Ctrl-C too: do not make it wait for all images still to come
            pool.shutdown(cancel_futures=True)
            raise


def _taken(image: ImageInput) -> _Source:
    try:
        if isinstance(image, str | PathLike):
            return Path(os.path.expanduser(image))
        if isinstance(image, Image.Image):
            if 0 in image.size:  # PIL would make black of it
                raise PictureError(f"a PIL image of {image.width} x {image.height} pixels shows nothing")
            return upright(image)
        if isinstance(image, np.ndarray):
            return _of_array(image)
        if isinstance(image, torch.Tensor):
            return _of_tensor(image)
    except PictureError as error:
        return error
    hint = ""
    if isinstance(image, bytes | IOBase):
        file = "io.BytesIO(image)" if isinstance(image, bytes) else "image"
        hint = f". The bytes of a file: PIL.Image.open({file})"
    return PictureError(f"{type(image).__name__}, but {EXPECTED}{hint}")


def _of_array(image: npt.NDArray[Any]) -> Picture:
    what = f"an array of {image.dtype} and shape {image.shape}"
    if image.dtype != np.uint8:
        hint = ""
        if image.dtype.kind == "f" and image.size:
            scaled, end = ("image * 255", 1) if image.max() <= 1 else ("image", 255)
            hint = f". Values from 0 to {end}: np.rint({scaled}).astype(np.uint8)"
        raise PictureError(f"{what}, but expected uint8{hint}")
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        hint = ""
        if image.ndim == 2 or image.shape[2:] == (1,):
            hint = ". Grey: np.stack([image.squeeze()] * 3, axis=2)"
        elif image.shape[2:] == (4,):
            hint = ". Red, green, blue and alpha: PIL.Image.fromarray(image)"
        elif image.ndim == 3 and image.shape[0] == 3:
            hint = ". Channels first: image.transpose(1, 2, 0)"
        raise PictureError(f"{what}, but expected (H, W, 3), RGB{hint}")
    return Picture(Image.fromarray(image), (), False)  # a copy


def _of_tensor(image: torch.Tensor) -> Picture:
    what = f"a tensor of {image.dtype} and shape {tuple(image.shape)}"
    if image.dtype != torch.uint8:
        hint = ""
        if image.is_floating_point() and image.numel():
            scaled, end = ("(image * 255)", 1) if image.max() <= 1 else ("image", 255)
            hint = f". Values from 0 to {end}: {scaled}.round().to(torch.uint8)"
        raise PictureError(f"{what}, but expected torch.uint8{hint}")
    if image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
        hint = ""
        if image.ndim == 2 or image.shape[:1] == (1,):
            hint = ". Grey: image.expand(3, *image.shape[-2:])"
        elif image.ndim == 3 and image.shape[2] == 3:
            hint = ". Channels last: image.permute(2, 0, 1)"
        raise PictureError(f"{what}, but expected (3, H, W), RGB{hint}")
    return Picture(Image.fromarray(image.permute(1, 2, 0).cpu().contiguous().numpy()), (), False)


def _pixels(source: _Source, height: int, width: int) -> npt.NDArray[np.uint8] | str:
    """(height, width, 3) RGB, or the reason why there are none."""
    if isinstance(source, PictureError):
        return str(source)
    try:
        picture = source if isinstance(source, Picture) else _read(source)
        return picture.resized(height, width)
    except PictureError as error:
        return str(error)


def _read(path: Path) -> Picture:
    found = read_picture(path)
    if found.picture is None:
        hint = f". Its pictures: sorted(Path({str(path)!r}).glob('*.jpg'))" if path.is_dir() else ""
        raise PictureError(f"{found.reason}{hint}")
    return found.picture


def _stacked(
    names: list[str], decoded: Sequence[Future[npt.NDArray[np.uint8] | str]]
) -> tuple[list[str], torch.Tensor]:
    results = [future.result() for future in decoded]
    bad = {name: reason for name, reason in zip(names, results, strict=True) if isinstance(reason, str)}
    if bad:
        raise DatasetError(name_unreadable(bad))
    return names, torch.from_numpy(np.stack(results)).permute(0, 3, 1, 2)
