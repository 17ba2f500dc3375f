"""Pictures as the commands meet them: what is no file, what has to be turned, and what is said of it."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from composing import settings_of
from PIL import Image

from reid import compare, extract
from reid.data import DatasetError, load_dataset, silent
from reid.data.crops import LeakError
from reid.engine.describe import describe_data
from reid.engine.prepare import open_judged_data, open_training_data, read_dataset
from reid.inference import load_model, shape_problem
from reid.jobs.data_commands import check

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def drawn(tiny_data: Path, tmp_path: Path) -> Path:
    """A copy of the tiny set that a test may spoil."""
    return Path(shutil.copytree(tiny_data / "synthetic" / "day_tiny_0", tmp_path / "drawn"))


def lay_down(path: Path) -> None:
    """Store a picture on its side, with the EXIF orientation of a camera that was held so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(path, "PNG", exif=exif)


def test_a_fifo_among_the_images_is_named_and_not_waited_for(
    drawn: Path, tmp_path: Path, run_command: Run
) -> None:
    people = tmp_path / "people"
    for path in (drawn / "bounding_box_test").glob("*.jpg"):
        (people / path.name[:4]).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, people / path.name[:4])
    fifo = sorted(people.iterdir())[1] / "0009_c1_fifo.jpg"
    os.mkfifo(fifo)
    found = run_command("reid.data.check", str(people), home=tmp_path, timeout=60)
    assert found.returncode == 1, found.stderr
    assert f"{fifo}: a FIFO, where a picture's file was expected" in found.stdout


@pytest.mark.parametrize("kind", ["layout", "folders", "table"])
def test_a_listing_with_a_fifo_keeps_it_for_the_store_to_name(tmp_path: Path, kind: str) -> None:
    names = [f"{pid:04d}_c{camera}_x.jpg" for pid in (1, 2) for camera in (1, 2)]
    places = {
        "layout": ("bounding_box_train", "query", "bounding_box_test"),
        "folders": ("1", "2"),
        "table": ("",),
    }
    paths = [tmp_path / place / name for place in places[kind] for name in names]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        os.mkfifo(path)
    (tmp_path / "a.csv").write_text("\n".join(["path,pid", *(f"{path},{path.name[:4]}" for path in paths)]))
    try:
        if kind == "table":
            dataset = load_dataset("table", tmp_path, file=str(tmp_path / "a.csv"))
        else:
            dataset = load_dataset("folder" if kind == "layout" else "folders", tmp_path)
    except LeakError as error:
        dataset = error.dataset
    assert {crop.path for crop in dataset.train + dataset.query + dataset.gallery} == set(paths)


@pytest.mark.slow
def test_extract_and_compare_name_a_fifo(
    tiny_checkpoint: Path, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fifo = drawn / "query" / "fifo.jpg"
    os.mkfifo(fifo)
    message = f"{fifo}: a FIFO, where a picture's file was expected"
    words = [str(drawn / "query"), "-o", str(tmp_path / "f.csv"), "--checkpoint", str(tiny_checkpoint)]
    assert extract.main(words) == 2
    assert message in capsys.readouterr().err
    assert extract.main([*words, "--on-bad-image", "skip"]) == 0
    assert "1 images left out" in capsys.readouterr().out
    one = next((drawn / "query").glob("0*.jpg"))
    assert compare.main([str(one), str(fifo), "--checkpoint", str(tiny_checkpoint)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_sees_paths_and_pil_images_alike(tiny_checkpoint: Path, drawn: Path) -> None:
    model = load_model(tiny_checkpoint, "cpu")
    paths = sorted((drawn / "query").glob("*.jpg"))[:4]
    upright = [path.with_suffix(".png") for path in paths]
    for path, plain in zip(paths, upright, strict=True):
        with Image.open(path) as image:
            image.save(plain)
    lay_down(paths[0])
    with Image.open(paths[1]) as image:
        image.convert("RGBA").save(paths[1], "PNG")
    features = model.embed(upright)
    assert torch.equal(model.embed(paths), features)
    assert shape_problem(paths[0], model.height, model.width) is None
    assert torch.equal(model.embed([Image.open(path) for path in paths]), features)
    assert torch.equal(model.embed([paths[0], Image.open(paths[1])]), features[:2])
    with pytest.raises(DatasetError, match=r"images\[1\]: its pixels are floats"):
        model.embed([paths[0], Image.new("F", (16, 32))])


@pytest.mark.slow
def test_check_counts_what_was_done_and_finds_nothing_wrong_in_it(
    drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turned, wide, clear = sorted((drawn / "bounding_box_train").glob("*.jpg"))[:3]
    lay_down(turned)
    with Image.open(wide) as image:
        doubled = bytes(half for value in image.convert("L").tobytes() for half in (value, value))
        Image.frombytes("I;16", image.size, doubled).save(wide, "PNG")
    with Image.open(clear) as image:
        image.putalpha(100)
        image.save(clear, "PNG")
    assert check([str(drawn)]) == 0
    out = capsys.readouterr().out
    assert "1 images turned upright, as their EXIF orientation says" in out
    assert "1 images of 16-bit grey, scaled to 8 bits (value // 256)" in out
    assert "1 images with transparent pixels, laid over the colour (124, 116, 104)" in out
    assert "nothing wrong was found" in out
    assert check([str(drawn), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["treatments"] == {"turned": 1, "scaled": 1, "composited": 1}


def test_training_says_what_was_done_to_its_pictures(drawn: Path, tiny: list[str], tmp_path: Path) -> None:
    for path in (next((drawn / "bounding_box_train").glob("*.jpg")), next((drawn / "query").glob("*.jpg"))):
        lay_down(path)
    choices = [word for word in tiny if not word.startswith(("dataset", "data.root"))]
    settings = settings_of("dataset=folder", f"dataset.root={drawn}", f"data.root={tmp_path}", *choices)
    dataset, crops, _ = read_dataset(settings, silent)
    data = open_training_data(dataset, settings, silent, crops)
    judged = open_judged_data(dataset, settings.image, settings.data, silent)
    assert "\n2 images turned upright, as their EXIF" in describe_data(dataset, data, judged)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("x" * 5000, "a path of 5,000 characters"),
        ("d/" * 2500 + "a", "a path of 5,001"),
        ("a\0b", "a path with a NUL"),
    ],
)
def test_a_path_that_no_file_has_is_refused_by_its_row(tmp_path: Path, path: str, message: str) -> None:
    table = tmp_path / "crops.csv"
    Image.new("RGB", (16, 32)).save(tmp_path / "a.png")
    table.write_text(f"path,pid\na.png,1\n{path},2\n")
    with pytest.raises(DatasetError) as caught:
        load_dataset("table", tmp_path, file=str(table))
    assert str(caught.value).startswith(f"{table} line 3: {message}")
    assert len(str(caught.value)) < 400


def test_folders_that_cannot_be_opened_are_named(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(["x" * 5000 + "/y"]) == 2
    assert "there is no folder" in capsys.readouterr().err
    shutil.rmtree(drawn / "query")
    (drawn / "query").symlink_to(drawn / "query")
    with pytest.raises(DatasetError, match=f"looked for {drawn / 'query'}"):
        load_dataset("folder", drawn)
    with pytest.raises(DatasetError, match=r"^/.*…x/bounding_box_train: File name too long"):
        load_dataset("folder", tmp_path / ("x" * 5000))


def test_a_folder_that_may_not_be_read_is_named(drawn: Path) -> None:
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to others already
        copy = shutil.copytree(drawn, Path(place) / "drawn")
        for folder in (Path(place), copy, *copy.iterdir()):
            folder.chmod(0o755)
        (copy / "query").chmod(0o000)
        root = os.geteuid() == 0
        try:
            if root:
                os.seteuid(65534)
            with pytest.raises(DatasetError, match=f"{copy / 'query'}: Permission denied"):
                load_dataset("folder", copy)
        finally:
            if root:
                os.seteuid(0)
            (copy / "query").chmod(0o755)
