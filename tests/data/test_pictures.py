"""What pictures look like to the store, the audit and the figures, against naive references."""

import io
import os
import re
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from reid.data import Crop, DatasetError, ReidDataset
from reid.data.audit import audit
from reid.data.image_store import ImageStore, open_store
from reid.figures.pictures import pixels

#: Mean of ImageNet, which shows through what is transparent.
GROUND = np.array((124, 116, 104))

#: EXIF's orientation -> what the stored rows and columns have to go through to stand upright.
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def noise(height: int = 12, width: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def stored(path: Path, height: int, width: int) -> ImageStore:
    return open_store([Crop(path, 1, 0)], height, width, path.parent / "store")


def seen(path: Path, height: int = 12, width: int = 8) -> np.ndarray:
    """The pixels as the store and the figures show them, which is the same."""
    shown = np.array(stored(path, height, width).pixels[0])
    assert np.array_equal(shown, pixels(path))
    return shown


def refusal(path: Path) -> str:
    """What the store says of a picture; the audit says the same, and figures too."""
    with pytest.raises(DatasetError) as caught:
        stored(path, 8, 4)
    (named,) = [line.strip() for line in str(caught.value).splitlines() if line.startswith("    ")]
    (finding,) = audit(one(path)).findings
    assert finding.cases == (named,)
    with pytest.raises(OSError, match=re.escape(named)):
        pixels(path)
    return named.removeprefix(f"{path}: ")


def one(path: Path) -> ReidDataset:
    return ReidDataset("one", path.parent, (Crop(path, 1, 0),), (), ())


def treatments(path: Path, height: int = 12, width: int = 8) -> dict[str, int]:
    """What was done to a picture, as the audit and the store count it."""
    done = audit(one(path)).treatments
    assert stored(path, height, width).treatments == done
    return done


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    return block


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_a_picture_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(noise()).save(path, exif=exif(orientation), **options)
    plain = tmp_path / f"plain.{suffix}"  # JPEG does not give back what went in
    Image.fromarray(noise()).save(plain, **options)
    upright = UPRIGHT[orientation](seen(plain))
    assert np.array_equal(seen(path, *upright.shape[:2]), upright)
    assert treatments(path) == ({} if orientation == 1 else {"turned": 1})


def test_exif_that_stands_behind_the_pixels_or_in_a_text_counts_too(tmp_path: Path) -> None:
    block = exif(3).tobytes()
    behind, text = tmp_path / "behind.png", tmp_path / "text.png"
    data = png(noise(), 8)
    end = data.index(b"IEND") - 4
    behind.write_bytes(data[:end] + chunk(b"eXIf", block.removeprefix(b"Exif\0\0")) + data[end:])
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n")
    Image.fromarray(noise()).save(text, pnginfo=info)
    for path in (behind, text):
        assert np.array_equal(seen(path), noise()[::-1, ::-1])


BROKEN = [
    b"Exif\0\0", b"Exif\0\0MM\0*", b"junk" * 20, exif(6).tobytes()[:-9], exif(0).tobytes(), exif(9).tobytes(),
    exif(6).tobytes().replace(b"\x01\x12\0\x03", b"\x01\x12\0\x02"),  # the orientation is a text
]  # fmt: skip


@pytest.mark.parametrize("block", BROKEN)
def test_a_broken_exif_block_costs_nothing(tmp_path: Path, block: bytes) -> None:
    path, plain = tmp_path / "a.jpg", tmp_path / "plain.jpg"
    Image.fromarray(noise()).save(path, exif=block)
    Image.fromarray(noise()).save(plain)
    assert np.array_equal(seen(path), seen(plain))
    assert treatments(path) == {}


def test_what_is_no_exif_turns_nothing(tmp_path: Path) -> None:
    path, plain = tmp_path / "a.jpg", tmp_path / "plain.jpg"
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    Image.fromarray(noise()).save(path, xmp=xmp)
    Image.fromarray(noise()).save(plain)
    assert np.array_equal(seen(path), seen(plain))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(values: np.ndarray, bits: int, transparent: bytes = b"") -> bytes:
    """A PNG of (H, W) grey or (H, W, 3) colour, of 8 or 16 bits, which PIL cannot write in colour."""
    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, bits, 2 if values.ndim == 3 else 0, 0, 0, 0)
    lines = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in values)
    parts = chunk(b"IHDR", header) + (chunk(b"tRNS", transparent) if transparent else b"")
    return b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def tiff_12_bits(values: np.ndarray) -> bytes:
    """A TIFF that declares 12 bits a sample, two samples packed into three bytes."""
    pairs = values.reshape(-1, 2).astype(np.uint32)
    packed = pairs[:, 0] << 12 | pairs[:, 1]
    data = b"".join(int(pair).to_bytes(3, "big") for pair in packed)
    height, width = values.shape
    start = 8 + 2 + 9 * 12 + 4
    tags = [(256, width), (257, height), (258, 12), (259, 1), (262, 1), (273, start), (277, 1), (278, height),
            (279, len(data))]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, v) for tag, v in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


@pytest.mark.parametrize("by", [256, 257])
@pytest.mark.parametrize("kind", ["png", "pgm", "tif", "jp2", "big-endian.tif"])
def test_16_bit_grey_is_scaled_by_one_rule(tmp_path: Path, kind: str, by: int) -> None:
    grey = noise()[..., 0]
    path = tmp_path / f"a.{kind}"
    wide = Image.fromarray(grey.astype(np.uint16) * by)
    if kind == "big-endian.tif":
        wide = Image.frombytes("I;16B", wide.size, (grey.astype(">u2") * by).astype(">u2").tobytes())
    wide.save(path, irreversible=False)  # which JPEG 2000 alone knows
    assert np.array_equal(seen(path), np.repeat(grey[..., None], 3, axis=2))
    assert treatments(path) == {"scaled": 1}


def test_16_bit_grey_and_colour_are_scaled_alike(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 2**16, (12, 8), np.uint16)
    grey, colour = tmp_path / "grey.png", tmp_path / "colour.png"
    grey.write_bytes(png(values, 16))
    colour.write_bytes(png(np.repeat(values[..., None], 3, axis=2), 16))
    assert np.array_equal(seen(grey), seen(colour))
    assert np.array_equal(seen(grey)[..., 0], values // 256)


def test_14_bits_in_16_are_counted_as_dark(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for brightest, dark in ((2**14 - 1, {"scaled": 1, "dark": 1}), (2**14, {"scaled": 1})):
        path.write_bytes(png(np.full((12, 8), brightest, np.uint16), 16))
        assert treatments(path) == dark


def test_12_bits_that_are_declared_are_scaled_by_them(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 2**12, (12, 8), np.uint16)
    tiff, pgm = tmp_path / "a.tif", tmp_path / "a.pgm"
    tiff.write_bytes(tiff_12_bits(values))
    pgm.write_bytes(b"P5 8 12 4095\n" + values.astype(">u2").tobytes())
    assert np.array_equal(seen(tiff)[..., 0], values // 16)
    assert np.array_equal(seen(pgm)[..., 0], np.round(values / 4095 * 65535).astype(int) // 256)


def test_values_whose_range_nobody_knows_are_refused_by_name(tmp_path: Path) -> None:
    values = np.arange(96).reshape(12, 8)
    for name, array, kind in (
        ("int.tif", values.astype(np.int32), "integers of 32 bits, or signed, which say nothing"),
        ("signed.tif", values.astype(np.int16), "integers of 32 bits, or signed, which say nothing"),
        ("float.tif", values.astype(np.float32), "floats, which say nothing of their range"),
    ):
        if array.dtype == np.int16:  # which PIL reads and does not write
            buffer = io.BytesIO()
            Image.fromarray(array.astype(np.uint16)).save(buffer, "TIFF", tiffinfo={339: 2})
            (tmp_path / name).write_bytes(buffer.getvalue())
        else:
            Image.fromarray(array).save(tmp_path / name)
        assert kind in refusal(tmp_path / name)
    thermal = tmp_path / "thermal.png"
    Image.fromarray((values * 42).astype(np.uint16)).save(thermal)
    assert refusal(thermal).startswith(
        "16-bit grey whose brightest value is 3,990 of 65,535 would turn black"
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L", "I;16"])
def test_hidden_colours_stay_hidden(tmp_path: Path, mode: str) -> None:
    """Left half transparent over two different hidden colours."""
    shown = []
    for hidden in (60, 200):
        path = tmp_path / f"{hidden}.png"
        grey = np.full((12, 8), 120, np.uint8)
        grey[:, :4] = hidden
        alpha = np.where(np.arange(8) < 4, 0, 255).astype(np.uint8) + np.zeros_like(grey)
        if mode in ("RGBA", "LA"):
            image = Image.fromarray(grey).convert(mode[:-1])
            image.putalpha(Image.fromarray(alpha))
            image.save(path)
        elif mode == "P":
            Image.fromarray(grey).convert("P").save(
                path, transparency=bytes(255 * (i != hidden) for i in range(256))
            )
        elif mode == "I;16":
            path.write_bytes(png(grey.astype(np.uint16) * 257, 16, struct.pack(">H", hidden * 257)))
        else:
            image = Image.fromarray(grey).convert(mode)
            image.save(path, transparency=(hidden,) * 3 if mode == "RGB" else hidden)
        shown.append(seen(path))
        assert treatments(path).pop("composited") == 1
    assert np.array_equal(shown[0], shown[1])
    assert (shown[0][:, :4] == GROUND).all()
    assert (shown[0][:, 4:] == 120).all()


def test_half_transparent_pixels_are_a_mixture(tmp_path: Path) -> None:
    colours, alpha = noise(), noise(seed=1)[..., :1]
    Image.fromarray(np.concatenate([colours, alpha], axis=2)).save(tmp_path / "a.png")
    mixed = (colours * (alpha / 255.0) + GROUND * (1 - alpha / 255.0)).round()
    assert np.abs(seen(tmp_path / "a.png") - mixed).max() <= 1


def test_opaque_pictures_with_an_alpha_channel_are_as_they_were(tmp_path: Path) -> None:
    Image.fromarray(noise()).convert("RGBA").save(tmp_path / "a.png")
    assert np.array_equal(seen(tmp_path / "a.png"), noise())
    assert treatments(tmp_path / "a.png") == {}


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_the_first_frame_counts(tmp_path: Path, suffix: str) -> None:
    first, second = (Image.new("RGB", (8, 12), colour) for colour in ("red", "blue"))
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[second], **options)
    assert (seen(tmp_path / f"a.{suffix}") == (255, 0, 0)).all()


def test_bombs_are_refused_by_name(tmp_path: Path) -> None:
    wide, huge, long = (tmp_path / f"{name}.png" for name in ("wide", "huge", "long"))
    blank = png(np.zeros((1, 1), np.uint8), 8)
    for path, side in ((wide, 11_000), (huge, 60_000)):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        path.write_bytes(blank[:8] + header + blank[8 + len(header) :])
    with pytest.warns(Image.DecompressionBombWarning):  # PIL's own, which names no file
        assert refusal(wide) == "11,000 x 11,000 pixels, and a picture may have 89,478,485: a bomb?"
    assert refusal(huge).startswith("DecompressionBombError: Image size (3600000000 pixels)")
    with long.open("wb") as handle:
        handle.truncate(2**40)
    assert refusal(long) == "a file of 1,048,576 MiB: a picture may have 256"


def test_what_is_no_file_is_refused_by_name_and_never_waited_for(tmp_path: Path) -> None:
    names = ("fifo", "socket", "device", "folder", "loop", "gone", "x" * 5000, "nu\0l")
    fifo, place, device, folder, loop, gone, long, nul = (tmp_path / f"{name}.jpg" for name in names)
    os.mkfifo(fifo)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place))
    device.symlink_to("/dev/zero")
    folder.mkdir()
    loop.symlink_to(loop)
    assert refusal(fifo) == "a FIFO, where a picture's file was expected"
    assert refusal(place) == "a socket, where a picture's file was expected"
    assert refusal(device) == "a device, where a picture's file was expected"
    assert refusal(folder) == "a folder, where a picture's file was expected"
    assert refusal(loop) == "Too many levels of symbolic links"
    assert refusal(gone) == "No such file or directory"
    assert refusal(long) == "File name too long"
    assert refusal(nul).startswith("no name of a file (embedded null")
