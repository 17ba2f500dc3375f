"""The one opener of pictures: upright 8-bit RGB comes out of whatever a file holds, or the reason why not.

The rules look at one picture at a time and never at its contrast, so that pictures stay comparable:

- EXIF's orientation is applied, all eight values of it.  A block that cannot be read says nothing.
- 16-bit grey becomes `value // 256`, which is what PIL makes of 16-bit colours too; values of a TIFF that
  declares fewer bits are brought to 16 first.  A picture whose brightest value is below 4,096 is refused:
  it holds the numbers of a 12-bit camera, which would all turn black.  One below 16,384 is counted as dark.
- 32-bit and signed integers and floats declare no range, and are refused.
- Transparent pixels show their alpha over `GROUND`.
- Of several frames the first one counts.
"""

import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from reid.data.crops import PictureError, Progress, silent
from reid.data.files import FileState, in_threads, read

#: What shows through transparent pixels: ImageNet's mean colour, which is nothing to a network once it is
#: normalised; dark and light clothes both stand out from it.
GROUND = (124, 116, 104)

#: More pixels than this is a bomb, or a scan, but no crop of a person: PIL's own limit.
MOST_PIXELS = 2**30 // 12
#: 16-bit grey with no value as high as this is 12-bit data.
LEAST_BRIGHT = 2**12
#: With no value as high as this it is of the night, or 14-bit data: one picture cannot tell.
DARK = 2**14

#: What was done to a picture beyond decoding it, by the name that counts go by.
TREATMENTS = {
    "turned": "turned upright, as their EXIF orientation says",
    "scaled": "of 16-bit grey, scaled to 8 bits (value // 256)",
    "dark": f"of these with no value from {DARK:,} on: of the night, or the numbers of a camera of 13 or 14 "
    "bits, which turn dark and want to be multiplied to fill 16 bits, all pictures alike",
    "composited": f"with transparent pixels, laid over the colour {GROUND}",
}

#: How many bad files a message names.
NAMED = 50

ORIENTATION = ExifTags.Base.Orientation

#: EXIF orientation -> what brings the picture upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Picture(NamedTuple):
    """`image` is upright 8-bit RGB.  `treatments` are keys of TREATMENTS.

    `altered` says that pixels differ from what PIL's plain `convert("RGB")` gives, as it was used before.
    """

    image: Image.Image
    treatments: tuple[str, ...]
    altered: bool

    def resized(self, height: int, width: int) -> np.ndarray:
        """(height, width, 3) uint8 RGB, by PIL's bilinear filter, as published."""
        return np.asarray(self.image.resize((width, height), Image.Resampling.BILINEAR))


@dataclass(frozen=True)
class PictureFile:
    """What a file holds: the sha256 of its bytes and its picture, or the reason why there is none.

    `state` was taken before the bytes were read.  Without a digest the file could not even be opened.
    """

    state: FileState | None
    digest: bytes | None
    picture: Picture | None
    reason: str | None


def read_picture(path: Path) -> PictureFile:
    """Read and decode one file, which is read once.

    Raises:
        OSError: the disk or the server failed, which says nothing of the picture.
    """
    try:
        state, data = read(path)
    except PictureError as error:
        return PictureFile(None, None, None, str(error))
    digest = hashlib.sha256(data).digest()
    try:
        return PictureFile(state, digest, decode(data), None)
    except PictureError as error:
        return PictureFile(state, digest, None, str(error))


def upright_size(path: Path) -> tuple[int, int] | None:
    """Height and width of a file's picture once it is upright, from its head; None where it has none."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
            return (image.width, image.height) if turned else (image.height, image.width)
    except Exception:  # gone or damaged by now; its head or its EXIF block may be anything
        return None


def open_picture(path: str | os.PathLike[str]) -> Picture:
    """The picture of one file.

    Raises:
        OSError: there is none; the message names the file.
    """
    file = read_picture(Path(path))
    if file.picture is None:
        raise OSError(f"{path}: {file.reason}")
    return file.picture


def decode(data: bytes) -> Picture:
    """The picture of a file's bytes.

    Raises:
        PictureError: what is wrong with them.
    """
    if not data:
        raise PictureError("empty file")
    with _explained(), Image.open(io.BytesIO(data)) as image:
        return _upright(image)


def upright(image: Image.Image) -> Picture:
    """The picture of an image that PIL has opened, or made.

    Raises:
        PictureError: what is wrong with it.
    """
    with _explained():
        return _upright(image)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (PictureError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise PictureError("no image of a kind that PIL knows") from None
    except Exception as error:  # PIL's plugins raise anything from SyntaxError to struct.error
        raise PictureError(f"{type(error).__name__}: {error}") from error


def _upright(image: Image.Image) -> Picture:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise PictureError(f"{width:,} x {height:,} pixels, and a picture may have {MOST_PIXELS:,}: a bomb?")
    treatments = []
    turned_by_pil = image.format == "TIFF" and getattr(image, "tag_v2", {}).get(ORIENTATION) in TURNS
    image.load()
    # Read after the pixels: in a PNG it may stand behind them.
    turn = None if image.format == "TIFF" else _turn(image)
    grey_16 = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if grey_16:
        image, dark = _scaled(image)
        treatments += ["scaled", "dark"] if dark else ["scaled"]
    elif image.mode in ("I", "F"):
        kind = "floats" if image.mode == "F" else "integers of 32 bits, or signed"
        raise PictureError(
            f"its pixels are {kind}, which say nothing of their range. Save it with 8 bits a channel, or as "
            "16-bit grey, all pictures by one scale"
        )
    if image.has_transparency_data:
        image, transparent = _composited(image)
        if transparent:
            treatments.append("composited")
    image = image.convert("RGB")
    if turn is not None:
        image = image.transpose(turn)
    altered = bool(treatments) or turn is not None
    if turn is not None or turned_by_pil:
        treatments.append("turned")
    return Picture(image, tuple(treatments), altered)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What brings the image upright by its EXIF block, None if it is so or says nothing."""
    block = image.info.get("exif")
    text = image.info.get("Raw profile type exif", "")  # as ImageMagick writes it into a PNG
    if not block and not text:
        return None
    try:
        exif = Image.Exif()
        exif.load(block or bytes.fromhex("".join(text.split("\n")[3:])))
        return TURNS.get(exif.get(ORIENTATION, 1))
    except Exception:  # a broken block is no reason to lose a picture
        return None


def _scaled(image: Image.Image) -> tuple[Image.Image, bool]:
    """16-bit grey -> (8-bit grey, whether it is dark), with alpha where one value stands for transparent
    pixels."""
    values = np.asarray(image)
    bits = getattr(image, "tag_v2", {}).get(ExifTags.Base.BitsPerSample, (16,))[0]
    brightest = int(values.max()) << (16 - bits)
    if brightest < LEAST_BRIGHT:
        raise PictureError(
            f"16-bit grey whose brightest value is {brightest:,} of 65,535 would turn black: these are the "
            "numbers of a camera of 12 bits or less. Multiply them to fill 16 bits (x 16), all pictures alike"
        )
    grey = Image.fromarray((values >> (bits - 8)).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey, brightest < DARK


def _composited(image: Image.Image) -> tuple[Image.Image, bool]:
    """RGB with transparent pixels over `GROUND`, and whether there are any."""
    rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return rgba, False
    return Image.composite(rgba.convert("RGB"), Image.new("RGB", image.size, GROUND), alpha), True


def unreadable(paths: Sequence[Path], progress: Progress = silent) -> dict[Path, str]:
    """The pictures that cannot be read, each with what is wrong; every file is decoded."""
    with in_threads(lambda path: read_picture(path).reason, paths, progress, "checking images") as reasons:
        return {path: reason for path, reason in zip(paths, reasons, strict=True) if reason is not None}


def name_unreadable(bad: Mapping[Path, str] | Mapping[str, str]) -> str:
    """The message that names them, each with what is wrong."""
    images = "1 image" if len(bad) == 1 else f"{len(bad)} images"
    return "\n".join([f"{images} cannot be read:", *bad_lines(list(bad.items()))])


def bad_lines(bad: Sequence[tuple[Path | str, str]]) -> list[str]:
    """A line for each of the first `NAMED` files that cannot be read, and one that counts the others."""
    lines = [f"    {path}: {reason}" for path, reason in bad[:NAMED]]
    return lines + ([f"    … and {len(bad) - NAMED} more"] if len(bad) > NAMED else [])


def describe_treatments(counts: Mapping[str, int]) -> list[str]:
    """A line for each treatment that any picture got: how many, and what was done."""
    return [f"{counts[name]:,} images {done}" for name, done in TREATMENTS.items() if counts.get(name)]


def count_treatments(pictures: Iterable[Sequence[str]]) -> dict[str, int]:
    """How many pictures got each treatment, from the treatments of each."""
    counts = Counter(name for treatments in pictures for name in treatments)
    return {name: counts[name] for name in TREATMENTS if counts[name]}
