"""The image store: exact pixels, built once, shared, and honest about what it could not read or write."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from PIL import Image

from reid.data import Crop, DatasetError
from reid.data.files import FileState, read
from reid.data.image_store import ImageStore, open_store
from reid.data.pictures import PictureFile, decode, read_picture

HEIGHT, WIDTH = 32, 16

T = TypeVar("T")


def draw(path: Path, seed: int, size: tuple[int, int] = (20, 44), mode: str = "RGB") -> Path:
    """A picture of random colours; PNG and JPEG by suffix.  `size` is (width, height)."""
    noise = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(path)
    return path


@pytest.fixture
def crops(tmp_path: Path) -> list[Crop]:
    """Six crops, JPEG and PNG, of several sizes."""
    folder = tmp_path / "images"
    folder.mkdir()
    return [
        Crop(draw(folder / f"{n}.{'jpg' if n % 2 else 'png'}", n, size=(12 + 7 * n, 50 - 5 * n)), n // 2, n)
        for n in range(6)
    ]


@pytest.fixture
def spoilt(crops: list[Crop]) -> list[Crop]:
    """The same crops with four files that are no images any more."""
    truncated = crops[1].path.read_bytes()
    crops[1].path.write_bytes(truncated[: len(truncated) // 2])
    crops[2].path.write_bytes(b"")
    crops[3].path.write_bytes(b"not an image at all")
    crops[4].path.unlink()
    return crops


def opened(crops: list[Crop], folder: Path, **options: Any) -> ImageStore:
    return open_store(crops, HEIGHT, WIDTH, folder, **options)


def expected(path: Path) -> torch.Tensor:
    with Image.open(path) as image:
        resized = image.convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def files_in(folder: Path) -> list[str]:
    """The files of stores, without locks and the hashes that are kept beside them."""
    return sorted(path.name for path in folder.iterdir() if path.suffix not in (".lock", ".npz"))


def test_pixels_are_those_of_pils_bilinear_filter(crops: list[Crop], tmp_path: Path) -> None:
    store = opened(crops, tmp_path / "store")
    assert len(store) == 6
    assert store.crops == tuple(crops)
    images = store.read(torch.arange(6))
    assert torch.equal(images, torch.stack([expected(crop.path) for crop in crops]))


def test_a_batch_is_uint8_in_the_order_of_the_indices_with_channels_last(
    crops: list[Crop], tmp_path: Path
) -> None:
    store = opened(crops, tmp_path / "store")
    batch = store.read(torch.tensor([4, 0, 4]))
    assert batch.dtype == torch.uint8
    assert batch.shape == (3, 3, HEIGHT, WIDTH)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch, torch.stack([expected(crops[n].path) for n in (4, 0, 4)]))
    batch.zero_()
    assert store.read(torch.tensor([4])).any(), "what is read is a copy"


def test_pids_and_camids_stand_beside_the_images(crops: list[Crop], tmp_path: Path) -> None:
    store = opened(crops, tmp_path / "store")
    assert store.pids.tolist() == [0, 0, 1, 1, 2, 2]
    assert store.camids.tolist() == [0, 1, 2, 3, 4, 5]
    assert store.pids.dtype == store.camids.dtype == torch.int64


@pytest.mark.parametrize(
    ("name", "mode"),
    [("x.png", "L"), ("x.png", "P"), ("x.png", "RGBA"), ("x.png", "1"), ("x.jpg", "CMYK"), ("x.jpg", "L")],
)
def test_every_mode_becomes_rgb(tmp_path: Path, name: str, mode: str) -> None:
    path = draw(tmp_path / name, 0, mode=mode)
    image = decode(path.read_bytes()).resized(HEIGHT, WIDTH)
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert np.array_equal(image, expected(path).permute(1, 2, 0))


def test_the_second_opening_decodes_nothing(crops: list[Crop], tmp_path: Path) -> None:
    first = opened(crops, tmp_path / "store")
    files = [tmp_path / "store" / name for name in files_in(tmp_path / "store")]
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}

    def no_work(items: Iterable[T], total: int, what: str) -> Iterable[T]:
        raise AssertionError("decoded again")

    second = opened(crops, tmp_path / "store", progress=no_work)
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in before} == before
    assert second.content == first.content
    assert np.array_equal(first.pixels, second.pixels)


def test_labels_are_no_part_of_the_store(crops: list[Crop], tmp_path: Path) -> None:
    opened(crops, tmp_path / "store")
    opened([crop._replace(pid=9) for crop in crops], tmp_path / "store")
    assert len(files_in(tmp_path / "store")) == 2


@pytest.mark.parametrize("change", ["bytes", "size", "order"])
def test_what_changes_the_pixels_makes_another_store(crops: list[Crop], tmp_path: Path, change: str) -> None:
    first = opened(crops, tmp_path / "store")
    if change == "bytes":
        draw(crops[0].path, seed=99, size=(12, 50))
        second = opened(crops, tmp_path / "store")
        assert torch.equal(second.read(torch.tensor([0]))[0], expected(crops[0].path))
    elif change == "size":
        second = open_store(crops, HEIGHT, WIDTH + 1, tmp_path / "store")
        assert second.pixels.shape == (6, HEIGHT, WIDTH + 1, 3)
    else:
        second = opened(crops[::-1], tmp_path / "store")
        assert torch.equal(second.read(torch.tensor([5]))[0], expected(crops[0].path))
    assert len(files_in(tmp_path / "store")) == 4
    assert (second.content == first.content) == (change == "size")


def test_content_is_that_of_the_bytes_wherever_they_lie(crops: list[Crop], tmp_path: Path) -> None:
    first = opened(crops, tmp_path / "store")
    shutil.copytree(tmp_path / "images", tmp_path / "elsewhere")
    moved = [crop._replace(path=tmp_path / "elsewhere" / crop.path.name) for crop in crops]
    assert opened(moved, tmp_path / "other").content == first.content
    draw(moved[2].path, seed=50)
    assert opened(moved, tmp_path / "other").content != first.content


def test_bad_images_are_all_named(spoilt: list[Crop], tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        opened(spoilt, tmp_path / "store", what="training images")
    message = str(caught.value)
    assert message.startswith("4 of 6 training images cannot be read:")
    assert all(str(spoilt[n].path) in message for n in (1, 2, 3, 4))
    assert not any(str(spoilt[n].path) in message for n in (0, 5))
    assert "No such file" in message
    assert "2.png: empty file" in message
    assert "3.jpg: no image" in message
    assert "1.jpg: OSError: image file is truncated" in message
    assert "data.on_bad_image=skip" in message


def test_a_long_list_of_bad_images_ends_with_a_count(tmp_path: Path) -> None:
    crops = [Crop(tmp_path / f"{n}.jpg", n, 0) for n in range(60)]
    for crop in crops:
        crop.path.write_bytes(b"x")
    with pytest.raises(DatasetError, match=r"60 of 60.*\n(.*\n){50} *… and 10 more"):
        opened(crops, tmp_path / "store")


def test_skipped_images_leave_everything_else_aligned(spoilt: list[Crop], tmp_path: Path) -> None:
    store = opened(spoilt, tmp_path / "store", on_bad_image="skip")
    assert store.crops == (spoilt[0], spoilt[5])
    assert store.bad == tuple(str(spoilt[n].path) for n in (1, 2, 3, 4))
    assert store.pids.tolist() == [0, 2]
    assert store.camids.tolist() == [0, 5]
    images = store.read(torch.arange(2))
    assert torch.equal(images, torch.stack([expected(spoilt[n].path) for n in (0, 5)]))
    part = store.subset(spoilt[3:])
    assert part.crops == (spoilt[5],)
    assert torch.equal(part.read(torch.tensor([0]))[0], expected(spoilt[5].path))


def test_a_subset_keeps_its_own_order_and_labels(crops: list[Crop], tmp_path: Path) -> None:
    store = opened(crops, tmp_path / "store")
    part = store.subset([crops[4]._replace(pid=70), crops[1]]).subset([crops[1], crops[4]._replace(pid=71)])
    assert part.pids.tolist() == [0, 71]
    assert torch.equal(part.read(torch.arange(2)), torch.stack([expected(crops[n].path) for n in (1, 4)]))


def test_a_store_without_any_image_is_refused_even_when_skipping(crops: list[Crop], tmp_path: Path) -> None:
    for crop in crops:
        crop.path.write_bytes(b"")
    with pytest.raises(DatasetError, match="6 of 6") as caught:
        opened(crops, tmp_path / "store", on_bad_image="skip")
    assert "skip" not in str(caught.value).splitlines()[-1]


def test_a_file_that_is_there_again_is_read(crops: list[Crop], tmp_path: Path) -> None:
    away = crops[0].path.rename(tmp_path / "away.png")
    with pytest.raises(DatasetError, match="1 of 6"):
        opened(crops, tmp_path / "store")
    away.rename(crops[0].path)
    assert len(opened(crops, tmp_path / "store")) == 6


def test_what_a_killed_build_left_is_swept_away(crops: list[Crop], tmp_path: Path) -> None:
    folder = tmp_path / "store"
    key = files_in_key(opened(crops, folder), folder)
    (lock,) = folder.glob("*.lock")
    (folder / f"{key}.npy").rename(folder / f"{lock.stem}.partial")
    (folder / f"{key}.json").unlink()
    assert torch.equal(opened(crops, folder).read(torch.tensor([3]))[0], expected(crops[3].path))
    assert files_in(folder) == [f"{key}.json", f"{key}.npy"]


@pytest.mark.parametrize("lost", [".npy", ".json"])
def test_half_a_store_is_built_again(crops: list[Crop], tmp_path: Path, lost: str) -> None:
    folder = tmp_path / "store"
    key = files_in_key(opened(crops, folder), folder)
    (folder / f"{key}{lost}").unlink()
    assert len(opened(crops, folder)) == 6
    assert files_in(folder) == [f"{key}.json", f"{key}.npy"]


def files_in_key(store: ImageStore, folder: Path) -> str:
    (array,) = folder.glob("*.npy")
    assert np.array_equal(np.load(array), store.pixels)
    return array.stem


def test_ctrl_c_does_not_wait_for_the_images_still_to_come(
    crops: list[Crop], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [Crop(draw(tmp_path / f"{n}.jpg", n, (200, 400)), 0, 0) for n in range(60)]
    looked: list[Path] = []

    def counted(path: Path) -> PictureFile:
        looked.append(path)
        return read_picture(path)

    def interrupted(items: Iterable[T], total: int, what: str) -> Iterable[T]:
        yield next(iter(items))
        raise KeyboardInterrupt

    monkeypatch.setattr("reid.data.image_store.read_picture", counted)
    with pytest.raises(KeyboardInterrupt):
        opened(many, tmp_path / "store", progress=interrupted)
    assert 1 <= len(looked) < 60
    assert files_in(tmp_path / "store") == []


OPEN_STORE = """
import sys
from pathlib import Path
from reid.data import Crop
from reid.data.image_store import open_store

images, folder = map(Path, sys.argv[1:])
crops = [Crop(path, 0, 0) for path in sorted(images.iterdir())]
builds = []
def progress(items, total, what):
    builds.append(what)
    return items
print("ready", flush=True)
sys.stdin.readline()
store = open_store(crops, 32, 16, folder, progress=progress)
print(len(builds), int(store.pixels.sum()), store.content)
"""


@pytest.mark.slow
def test_processes_that_ask_at_once_share_one_build(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    crops = [Crop(draw(images / f"{n:02d}.jpg", n, size=(128, 256)), 0, 0) for n in range(60)]
    command = [sys.executable, "-c", OPEN_STORE, str(images), str(tmp_path / "store")]
    builds: list[str] = []

    def progress(items: Iterable[T], total: int, what: str) -> Iterable[T]:
        builds.append(what)
        return items

    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        assert other.stdin is not None
        other.stdin.write("go\n")
        other.stdin.flush()
        store = opened(crops, tmp_path / "store", progress=progress)
        built_there, pixels, content = other.stdout.read().split()
    assert len(builds) + int(built_there) == 1
    assert (int(pixels), content) == (int(store.pixels.sum()), store.content)
    assert len(files_in(tmp_path / "store")) == 2


@pytest.fixture
def files_of_4_kib() -> Iterator[None]:
    """No file of this process may grow beyond 4 KiB: the kernel refuses what is longer, as a full disk does.

    Python ignores the signal that comes with it.
    """
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("files_of_4_kib")
def test_a_refused_file_is_explained_and_leaves_nothing(crops: list[Crop], tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"File too large") as caught:
        open_store(crops, 256, 128, tmp_path / "store", what="training images")
    message = str(caught.value)
    assert message.startswith(f"the store of training images could not be written to {tmp_path / 'store'}:")
    assert "0.6 MiB" in message
    assert "data.store=" in message
    assert files_in(tmp_path / "store") == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB, where this process may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True)
    if done.returncode != 0:
        pytest.skip("mounting is not permitted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_really_full(crops: list[Crop], small_disk: Path) -> None:
    with pytest.raises(OSError, match=r"No space left on device.*0\.6 MiB.*data\.store="):
        open_store(crops, 256, 128, small_disk / "store")
    assert files_in(small_disk / "store") == []
    assert len(open_store(crops, 64, 32, small_disk / "store")) == 6


def test_a_folder_that_cannot_be_made_is_explained(crops: list[Crop], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"could not be written.*Not a directory.*data\.store="):
        opened(crops, tmp_path / "file" / "store")


@pytest.fixture(params=[False, True], ids=["new files", "settled files"])
def settled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the files count as old enough for their hashes to be kept: those of a test never are."""
    if request.param:
        monkeypatch.setattr("reid.data.store_files.SETTLED_NS", 0)
        time.sleep(0.02)  # a tick of the file system's clock
    return bool(request.param)


def bitmaps(folder: Path) -> list[Crop]:
    """Three BMPs, which have one size in bytes, of one time."""
    folder.mkdir()
    crops = [Crop(draw(folder / f"{n}.bmp", n, (WIDTH, HEIGHT)), n, 0) for n in range(3)]
    for crop in crops:
        os.utime(crop.path, (1e9, 1e9))
    return crops


@pytest.mark.parametrize("change", ["rewritten", "replaced", "swapped"])
def test_content_decides_and_not_size_and_time(tmp_path: Path, settled: bool, change: str) -> None:
    crops = bitmaps(tmp_path / "images")
    if settled:
        time.sleep(0.02)
    first = opened(crops, tmp_path / "store")
    one, other, _ = (crop.path for crop in crops)
    if change == "rewritten":
        one.write_bytes(other.read_bytes())
    elif change == "replaced":
        shutil.copy2(other, tmp_path / "copy.bmp")
        (tmp_path / "copy.bmp").replace(one)
    else:
        away = one.rename(tmp_path / "away.bmp")
        other.rename(one)
        away.rename(other)
    for path in (one, other):
        os.utime(path, (1e9, 1e9))
    second = opened(crops, tmp_path / "store")
    assert torch.equal(second.read(torch.tensor([0]))[0], expected(one))
    assert torch.equal(second.read(torch.tensor([1]))[0], expected(other))
    assert second.content != first.content


def test_only_what_may_have_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crops = bitmaps(tmp_path / "images")
    monkeypatch.setattr("reid.data.store_files.SETTLED_NS", 0)
    time.sleep(0.02)
    opened(crops, tmp_path / "store")
    hashed: list[str] = []

    def counted(path: Path) -> tuple[FileState, bytes]:
        hashed.append(path.name)
        return read(path)

    monkeypatch.setattr("reid.data.store_files.read", counted)
    monkeypatch.setattr("reid.data.image_store.read_picture", lambda path: pytest.fail("decoded again"))
    opened(crops, tmp_path / "store")
    assert hashed == []
    crops[1].path.chmod(0o600)
    time.sleep(0.02)
    opened(crops, tmp_path / "store")
    assert hashed == ["1.bmp"]
    opened(crops, tmp_path / "store")
    assert hashed == ["1.bmp"]


@pytest.mark.parametrize("how", ["moved", "copied", "copied with times", "linked"])
def test_a_moved_project_decodes_nothing(crops: list[Crop], tmp_path: Path, how: str) -> None:
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    project.mkdir()
    (tmp_path / "images").rename(project / "images")
    here = [crop._replace(path=project / "images" / crop.path.name) for crop in crops]
    first = opened(here, project / "store")
    if how == "moved":
        project.rename(elsewhere)
    elif how == "linked":
        elsewhere.symlink_to(project)
    else:
        shutil.copytree(project, elsewhere, copy_function=shutil.copy if how == "copied" else shutil.copy2)
    work: list[str] = []

    def progress(items: Iterable[T], total: int, what: str) -> Iterable[T]:
        work.append(what)
        return items

    there = [crop._replace(path=elsewhere / "images" / crop.path.name) for crop in crops]
    second = opened(there, elsewhere / "store", progress=progress)
    assert work == ["reading changed files"]
    assert np.array_equal(first.pixels, second.pixels)
    assert second.content == first.content


def test_the_content_of_ordinary_files_is_what_it_always_was(crops: list[Crop], tmp_path: Path) -> None:
    digests = b"".join(hashlib.sha256(crop.path.read_bytes()).digest() for crop in crops)
    assert opened(crops, tmp_path / "store").content == hashlib.sha256(digests).hexdigest()


def test_other_pixels_of_the_same_bytes_are_other_content(tmp_path: Path) -> None:
    """Cells that were trained on pictures lying on their side are not taken for those of upright ones."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 44)).save(tmp_path / "a.jpg", exif=exif)
    Image.new("RGB", (20, 44)).save(tmp_path / "a.tif", exif=exif)  # PIL has always turned these itself
    for name, same in (("a.jpg", False), ("a.tif", True)):
        plain = hashlib.sha256(hashlib.sha256((tmp_path / name).read_bytes()).digest()).hexdigest()
        assert (opened([Crop(tmp_path / name, 1, 0)], tmp_path / "store").content == plain) == same


def test_stores_of_another_format_are_built_again(crops: list[Crop], tmp_path: Path) -> None:
    folder = tmp_path / "store"
    key = files_in_key(opened(crops, folder), folder)
    facts = json.loads((folder / f"{key}.json").read_text())
    older: list[object] = [
        {**facts, "format": 2},
        {name: facts[name] for name in ("shape", "content", "bad")},
        [],
    ]
    for broken in older:
        (folder / f"{key}.json").write_text(json.dumps(broken))
        np.save(folder / f"{key}.npy", np.zeros((6, HEIGHT, WIDTH, 3), np.uint8))
        assert torch.equal(opened(crops, folder).read(torch.tensor([3]))[0], expected(crops[3].path))
    with (folder / f"{key}.npy").open("r+b") as array:  # a copy that was cut off
        array.truncate(1000)
    assert torch.equal(opened(crops, folder).read(torch.tensor([3]))[0], expected(crops[3].path))


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [6, HEIGHT, WIDTH]}, {"shape": [6, WIDTH, HEIGHT, 3]}, {"shape": [-6, -HEIGHT, WIDTH, 3]},
        {"bad": []}, {"bad": {"x": "gone"}}, {"bad": {"6": "gone"}}, {"bad": {"0": 1}}, {"content": None},
        {"treatments": None}, {"data": 1}, {"crc32": [1]}, {"crc32": "none"},
    ],
    ids=str,
)  # fmt: skip
def test_a_store_that_says_of_itself_what_cannot_be_is_built_again(
    crops: list[Crop], tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = tmp_path / "store"
    file = folder / f"{files_in_key(opened(crops, folder), folder)}.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps({**facts, **change}))
    assert torch.equal(opened(crops, folder).read(torch.tensor([3]))[0], expected(crops[3].path))
    assert json.loads(file.read_text()) == facts


def test_a_store_whose_array_has_another_header_is_built_again(crops: list[Crop], tmp_path: Path) -> None:
    folder = tmp_path / "store"
    array = folder / f"{files_in_key(opened(crops, folder), folder)}.npy"
    whole = array.read_bytes()
    endless = whole.replace(b"'shape': (", b"'shape':(((")  # numpy's parser raises an error of Python's
    for wrong in (
        endless,
        whole.replace(b"|u1", b"|i1"),
        whole.replace(b"False", b"True "),
        b"x" + whole[1:],
    ):
        array.write_bytes(wrong)
        assert torch.equal(opened(crops, folder).read(torch.tensor([3]))[0], expected(crops[3].path))


def test_a_flipped_bit_among_the_pixels_is_refused_and_then_built_again(
    crops: list[Crop], tmp_path: Path
) -> None:
    folder = tmp_path / "store"
    file = folder / f"{files_in_key(opened(crops, folder), folder)}.npy"
    whole = file.read_bytes()
    place = len(whole) - 5  # of the last image
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
    store = opened(crops, folder)
    assert torch.equal(store.read(torch.tensor([3]))[0], expected(crops[3].path))  # the others are whole
    with pytest.raises(DatasetError, match=r"is damaged: image 5 .* type the same command again"):
        store.read(torch.tensor([4, 5]))
    assert torch.equal(opened(crops, folder).read(torch.tensor([5]))[0], expected(crops[5].path))
    assert file.read_bytes() == whole


def test_a_store_of_older_code_has_no_checksums_and_is_read(crops: list[Crop], tmp_path: Path) -> None:
    folder = tmp_path / "store"
    file = folder / f"{files_in_key(opened(crops, folder), folder)}.json"
    facts = json.loads(file.read_text())
    del facts["crc32"]
    file.write_text(json.dumps(facts))
    assert torch.equal(opened(crops, folder).read(torch.tensor([5]))[0], expected(crops[5].path))
    assert json.loads(file.read_text()) == facts


def test_hashes_of_other_files_are_made_again(crops: list[Crop], tmp_path: Path) -> None:
    opened(crops, tmp_path / "store")
    (hashes,) = (tmp_path / "store").glob("*.npz")
    states, digests = np.zeros((6, 4), np.uint64), np.zeros((6, 32), np.uint8)
    for wrong in (
        (states[:5], digests[:5]),
        (states[:, :3], digests),
        (states, digests[:, :31]),
        (states, digests[:5]),
    ):
        np.savez(hashes, states=wrong[0], digests=wrong[1])
        assert len(opened(crops, tmp_path / "store")) == 6
    with zipfile.ZipFile(hashes, "w") as archive:  # what numpy gives as plain bytes
        archive.writestr("states.npy", b"x")
        archive.writestr("digests.npy", b"y")
    assert len(opened(crops, tmp_path / "store")) == 6
    np.savez_compressed(hashes, states=states, digests=digests)
    assert len(opened(crops, tmp_path / "store")) == 6


def test_hashes_that_cannot_be_read_are_made_again(crops: list[Crop], tmp_path: Path) -> None:
    opened(crops, tmp_path / "store")
    (hashes,) = (tmp_path / "store").glob("*.npz")
    hashes.write_bytes(hashes.read_bytes()[:100])
    assert len(opened(crops, tmp_path / "store")) == 6


def test_a_store_opens_where_nothing_can_be_written(crops: list[Crop], small_disk: Path) -> None:
    folder = small_disk / "store"
    open_store(crops, 64, 32, folder)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    elsewhere = [crop._replace(path=Path(shutil.copy(crop.path, f"{crop.path}x"))) for crop in crops]
    assert len(open_store(crops, 64, 32, folder)) == len(open_store(elsewhere, 64, 32, folder)) == 6
    draw(crops[0].path, seed=99)
    with pytest.raises(OSError, match=r"could not be written.*Read-only.*data\.store="):
        open_store(crops, 64, 32, folder)


def test_a_signal_ends_the_wait_for_another_process(crops: list[Crop], tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    opened(crops, tmp_path / "store")
    (lock,) = (tmp_path / "store").glob("*.lock")
    for file in (tmp_path / "store").glob("*.json"):
        file.unlink()

    def stop(signum: int, frame: object) -> None:
        raise InterruptedError("stopped")

    before = signal.signal(signal.SIGTERM, stop)
    killer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
    try:
        with lock.open("r+b") as handle, pytest.raises(OSError, match="stopped"):
            fcntl.flock(handle, fcntl.LOCK_EX)  # as another process would
            killer.start()
            opened(crops, tmp_path / "store")
    finally:
        killer.join()
        signal.signal(signal.SIGTERM, before)
