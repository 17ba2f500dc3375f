"""Images as Python code has them: what is taken, what is refused in words, and how many are held at once."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from reid.data import DatasetError
from reid.data.image_inputs import decoded_batches, is_one

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 20, 3), dtype=np.uint8)


def pixels(images: Any, batch: int = 8) -> torch.Tensor:
    """All of them, (N, 3, 32, 16)."""
    return torch.cat([batch for _, batch in decoded_batches(images, batch, 32, 16)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def opened_and_closed(path: Path) -> Iterator[Image.Image]:
    for _ in range(3):
        with Image.open(path) as image:
            yield image


def one_buffer() -> Iterator[np.ndarray]:
    """As a video is read: each frame into the same memory."""
    buffer = np.empty_like(PIXELS)
    for _ in range(3):
        buffer[:] = PIXELS
        yield buffer
        buffer[:] = 0


ONE: dict[str, Callable[[Path], Any]] = {
    "path": lambda path: path,
    "text": str,
    "PIL": lambda path: Image.open(path),
    "array": lambda _: PIXELS,
    "a view of an array": lambda _: PIXELS[:, :, ::-1].copy()[:, :, ::-1],
    "tensor": lambda _: torch.from_numpy(PIXELS).permute(2, 0, 1),
}
MANY: dict[str, Callable[[Path], Any]] = {
    "array": lambda _: np.stack([PIXELS] * 3),
    "array of paths": lambda path: np.array([str(path)] * 3),
    "tensor": lambda _: torch.from_numpy(PIXELS).permute(2, 0, 1).expand(3, -1, -1, -1),
    "mixed": lambda path: (str(path), PIXELS, Image.open(path)),
    "files that are closed again": opened_and_closed,
    "one buffer": lambda _: one_buffer(),
}


@pytest.mark.parametrize("kind", ONE)
def test_one_image_is_the_same_in_every_form(kind: str, path: Path) -> None:
    assert is_one(ONE[kind](path))
    assert torch.equal(pixels(ONE[kind](path)), pixels([path]))


@pytest.mark.parametrize("kind", MANY)
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_many_images_are_the_same_in_every_form(kind: str, batch: int, path: Path) -> None:
    assert not is_one(MANY[kind](path))
    assert torch.equal(pixels(MANY[kind](path), batch), pixels([path] * 3))


#: What is refused, and what the message says of it.
REFUSED: dict[str, tuple[Any, list[str]]] = {
    "floats": (PIXELS / 255, ["array of float64 and shape (40, 20, 3)", "np.rint(image * 255)"]),
    "float tensor": (torch.rand(3, 40, 20), ["torch.float32", "(image * 255).round().to(torch.uint8)"]),
    "floats to 255": (PIXELS.astype(np.float32), ["from 0 to 255: np.rint(image).astype(np.uint8)"]),
    "float tensor to 255": (torch.full((3, 40, 20), 255.0), ["255: image.round().to(torch.uint8)"]),
    "a mask": (PIXELS > 100, ["array of bool", "expected uint8"]),
    "integers": (PIXELS.astype(int), ["array of int64", "expected uint8"]),
    "grey": (PIXELS[:, :, 0], ["shape (40, 20), but expected (H, W, 3)", "Grey: np.stack"]),
    "grey tensor": (torch.zeros(1, 40, 20, dtype=torch.uint8), ["(1, 40, 20)", "Grey: image.expand(3"]),
    "alpha": (np.zeros((40, 20, 4), np.uint8), ["alpha: PIL.Image.fromarray(image)"]),
    "channels first": (np.zeros((3, 40, 20), np.uint8), ["image.transpose(1, 2, 0)"]),
    "channels last": (torch.zeros(40, 20, 3, dtype=torch.uint8), ["image.permute(2, 0, 1)"]),
    "empty": (np.zeros((0, 20, 3), np.uint8), ["shape (0, 20, 3)"]),
    "a number": (7, ["int, but expected a path, a PIL image"]),
    "bytes": (b"\x89PNG", ["bytes, but expected", "io.BytesIO"]),
    "an open file": (io.BytesIO(b"a\nb"), ["BytesIO, but expected", "PIL.Image.open(image)"]),
    "an empty cut": (Image.new("RGB", (0, 5)), ["0 x 5 pixels shows nothing"]),
    "an array of no shape": (np.array("a.jpg"), ["shape (), but expected uint8"]),
    "a list": ([PIXELS, PIXELS], ["list, but expected"]),
    "no file": ("/nowhere/a.jpg", ["/nowhere/a.jpg: No such file"]),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_is_named_by_its_place(kind: str) -> None:
    image, fragments = REFUSED[kind]
    with pytest.raises(DatasetError) as refusal:
        pixels([PIXELS, PIXELS, PIXELS, image])
    for fragment in fragments:
        assert fragment in str(refusal.value)
    if kind != "no file":
        assert "images[3]: " in str(refusal.value)


@pytest.mark.parametrize("kind", ["an open file", "an empty cut", "an array of no shape", "bytes"])
def test_what_is_one_image_by_mistake_is_refused_as_one(kind: str) -> None:
    with pytest.raises(DatasetError, match="the image: "):
        pixels(REFUSED[kind][0])


def test_a_tilde_is_the_home_folder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(path.parent))
    assert torch.equal(pixels(f"~/{path.name}"), pixels(path))


def test_the_hints_of_a_refusal_lead_to_the_image(path: Path) -> None:
    floats, first = PIXELS / 255, torch.from_numpy(PIXELS).permute(2, 0, 1)
    expected = pixels(path)
    assert torch.equal(pixels(np.rint(floats * 255).astype(np.uint8)), expected)
    assert torch.equal(pixels((first / 255 * 255).round().to(torch.uint8)), expected)
    grey = pixels(np.stack([PIXELS[:, :, :1].squeeze()] * 3, axis=2))
    assert torch.equal(pixels(first[:1].expand(3, 40, 20)), grey)


def test_a_folder_is_refused_with_a_way_to_its_pictures(path: Path) -> None:
    with pytest.raises(DatasetError, match=r"a folder, .*sorted\(Path\(.*\)\.glob\("):
        pixels(str(path.parent))


def test_an_error_of_the_generator_itself_comes_through() -> None:
    def broken() -> Iterator[np.ndarray]:
        yield PIXELS
        raise RuntimeError("the camera is gone")

    with pytest.raises(RuntimeError, match="camera is gone"):
        pixels(broken(), batch=1)
