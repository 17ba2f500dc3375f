"""`python -m reid.data.stores`: what it lists, what it frees, and what it leaves."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from reid.data import Crop
from reid.data.image_store import open_store
from reid.jobs.data_commands import stores as main

DAY_S = 86_400


@pytest.fixture
def crops(tmp_path: Path) -> list[Crop]:
    (tmp_path / "images").mkdir()
    paths = [tmp_path / "images" / f"{n}.png" for n in range(3)]
    for n, path in enumerate(paths):
        Image.new("RGB", (8, 12), (n, 0, 0)).save(path)
    return [Crop(path, 1, 0) for path in paths]


@pytest.fixture
def folder(crops: list[Crop], tmp_path: Path) -> Path:
    """Two stores: of three images at 32x16, of two at 64x32, which was last used ten days ago."""
    folder = tmp_path / "store"
    open_store(crops, 32, 16, folder, what="training images")
    open_store(crops[:2], 64, 32, folder)
    (old,) = (file for file in folder.glob("*.json") if json.loads(file.read_text())["shape"][0] == 2)
    used = time.time() - 10 * DAY_S
    os.utime(old.with_suffix(".npy"), (used, used))
    return folder


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str) -> tuple[int, str]:
        code = main([*words, "--store", str(folder)])
        out, err = capsys.readouterr()
        return code, out + err

    return run


def listed(run: Run) -> list[dict[str, object]]:
    code, out = run("list", "--json")
    assert code == 0
    stores: list[dict[str, object]] = json.loads(out)["stores"]
    return stores


def test_the_list_says_what_there_is_and_when_it_was_used(run: Run, folder: Path, tmp_path: Path) -> None:
    new, old = listed(run)
    size = 3 * 32 * 16 * 3 + 128 + (folder / f"{new['name']}.json").stat().st_size
    assert (new["images"], new["height"], new["width"], new["bytes"]) == (3, 32, 16, size)
    assert (new["what"], new["data"]) == ("training images", str(tmp_path / "images"))
    assert time.time() - float(str(new["used"])) < 60
    assert 9.9 < (time.time() - float(str(old["used"]))) / DAY_S < 10.1
    code, out = run()
    assert code == 0
    (line,) = [line for line in out.splitlines() if line.startswith(str(new["name"])[:12])]
    assert line.split()[1:5] == ["3", "32x16", "0.0", "MiB"]
    assert line.endswith(f"training images in {tmp_path / 'images'}")
    assert "2 stores" in out


def test_opening_is_use_and_tells_where_the_data_lie_now(
    crops: list[Crop], run: Run, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "images").rename(tmp_path / "moved")
    open_store(
        [crop._replace(path=tmp_path / "moved" / crop.path.name) for crop in crops[:2]], 64, 32, folder
    )
    opened = listed(run)[0]
    assert (opened["images"], opened["data"]) == (2, str(tmp_path / "moved"))


def test_prune_leaves_what_is_whole(run: Run, folder: Path) -> None:
    before = {path.name for path in folder.iterdir() if path.suffix != ".lock"}
    code, out = run("prune")
    assert code == 0
    assert {path.name for path in folder.iterdir()} == before
    assert f"0.0 MiB freed in {folder}" in out


def test_prune_by_age_and_by_name(run: Run, folder: Path) -> None:
    new, old = (str(store["name"]) for store in listed(run))
    code, out = run("prune", "--unused-days", "9.5")
    assert code == 0
    assert f"removed: {old} (2 images of 64x32" in out
    assert [store["name"] for store in listed(run)] == [new]
    code, out = run("prune", new[:8])
    assert (code, listed(run)) == (0, [])
    assert f"removed: {new} (3 training images of 32x16" in out
    assert list(folder.iterdir()) == [], "the hashes of their files go too"


def test_a_name_of_no_store_is_refused(run: Run) -> None:
    code, out = run("prune", "nothing")
    assert code == 2
    assert "0 stores" in out
    assert len(listed(run)) == 2


def test_prune_removes_what_no_opening_will_use(run: Run, folder: Path) -> None:
    other = "0" * 24
    np.save(folder / f"{other}.npy", np.zeros((1, 2, 2, 3), np.uint8))
    (folder / f"{other}.json").write_text('{"shape": [1, 2, 2, 3], "content": "", "bad": {}}')
    (folder / f"{other}.lock").touch()
    newer = [folder / f"{'5' * 24}.{ending}" for ending in ("npy", "json")]
    np.save(newer[0], np.zeros((1, 2, 2, 3), np.uint8))
    newer[1].write_text('{"format": 99, "shape": [1, 2, 2, 3], "content": "", "bad": {}}')
    (folder / f"{'1' * 24}.npy").write_bytes(b"half")
    (folder / f"{'2' * 24}-8x8.partial").write_bytes(b"killed")
    (folder / f"{'2' * 24}-8x8.lock").touch()
    (folder / f"{'3' * 24}-8x8.partial").write_bytes(b"under way")
    (folder / f"{'4' * 24}.files.npz").write_bytes(b"no hashes")
    strangers = [folder / "notes.npy", folder / "README.json", folder / f"{other}.jpg"]
    for stranger in strangers:
        stranger.write_text("mine")
    with FileLock(folder / f"{'3' * 24}-8x8.lock"):
        code, out = run("prune")
    assert code == 0
    assert f"removed: {other}.json, {other}.npy (of an older format)" in out
    assert f"left: {newer[1].name}, {newer[0].name} (of a newer version of the suite" in out
    assert all(file.exists() for file in newer)
    for file in newer:
        file.unlink()
    assert f"removed: {'1' * 24}.npy (half a store)" in out
    assert f"removed: {'2' * 24}-8x8.partial (left by a process that was killed)" in out
    assert "under way" not in out
    assert (folder / f"{'3' * 24}-8x8.partial").exists()
    assert all(stranger.read_text() == "mine" for stranger in strangers)
    left = {path.name[:24] for path in folder.iterdir() if path not in strangers}
    assert not left & {digit * 24 for digit in "0124"}
    assert len(listed(run)) == 2


USE_STORE = """
import sys
from pathlib import Path
from reid.data import Crop
from reid.data.image_store import open_store

images, folder = map(Path, sys.argv[1:])
store = open_store([Crop(path, 0, 0) for path in sorted(images.iterdir())], 32, 16, folder)
print("open", flush=True)
sys.stdin.readline()
print(store.pixels.sum())
"""


@pytest.mark.slow
def test_a_store_in_use_is_left(run: Run, folder: Path, tmp_path: Path) -> None:
    used = str(listed(run)[0]["name"])
    command = [sys.executable, "-c", USE_STORE, str(tmp_path / "images"), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        code, out = run("prune", used)
        assert code == 1
        assert f"in use, left: {used}" in out
        code, out = run("prune", "--unused-days", "0")
        assert code == 0
        assert f"in use, left: {used}" in out
        assert [store["name"] for store in listed(run)] == [used]
        other.stdin.write("end\n")
        other.stdin.flush()
        assert other.wait() == 0
    code, _ = run("prune", used)
    assert (code, listed(run)) == (0, [])


def test_a_folder_without_stores_is_no_trouble(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["--store", str(tmp_path / "none")]) == main(["prune", "--store", str(tmp_path / "none")]) == 0
    )
    assert "0 stores" in capsys.readouterr().out
