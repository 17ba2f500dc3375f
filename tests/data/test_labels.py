"""What hostile ids become: one cleaning for CSV, Parquet and folders, and one meaning of pid 0."""

import unicodedata
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from reid.data import Crop, DatasetError, ReidDataset, load_dataset
from reid.data.crops import LeakError
from reid.data.division import validation_split
from reid.data.labels import People, clean, is_null
from reid.jobs.data_commands import check, split

NFC = "Zo\u00eb"
NFD = unicodedata.normalize("NFD", NFC)
SPLITS = ["train", "train", "query", "gallery"]


def draw(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 4), (shade, 20, 30)).save(path)
    return path


def write(folder: Path, kind: str, columns: dict[str, list[Any]]) -> Path:
    """A table of these columns, and of the images that it names."""
    count = len(next(iter(columns.values())))
    columns = {"path": [draw(folder / f"{row:03d}.png", row).name for row in range(count)], **columns}
    file = folder / f"crops.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.table(columns), file)
    else:
        rows = [columns.keys(), *zip(*columns.values(), strict=True)]
        file.write_text("".join(f"{','.join(map(str, row))}\n" for row in rows), encoding="utf-8")
    return file


def read(file: Path, **options: Any) -> ReidDataset:
    return load_dataset("table", file.parent, file=str(file), **options)


def everyone(dataset: ReidDataset) -> list[Crop]:
    return sorted(dataset.train + dataset.val + dataset.query + dataset.gallery)


def twice(*labels: Any) -> list[Any]:
    """Two images of each, so that a query finds its person again."""
    return [label for label in labels for _ in range(2)]


# ---- the table of ids


@pytest.mark.parametrize(
    ("kind", "labels", "options", "pids"),
    [
        ("csv", [NFC, NFD, *twice("ann")], {}, [1, 1, 2, 2]),
        ("parquet", [" ann", "ann\u00a0", "\ufeffann", *twice("bob")], {}, [1, 1, 1, 2, 2]),
        ("csv", ["1", "01", "001", "1.0", *twice("2")], {}, [1, 1, 1, 1, 2, 2]),
        ("csv", ["1", "01", *twice("1234567890")], {}, [1, 1, 2, 2]),
        ("parquet", twice(3.0, 12.0), {}, twice(3, 12)),
        ("csv", twice("12345678901234567890", "1"), {}, twice(2, 1)),
        ("csv", twice("1" * 5000, "1"), {}, twice(2, 1)),
        ("csv", twice("0", "1", "2"), {}, twice(0, 1, 2)),
        ("csv", twice("0", "1234567890", "1234567891"), {}, twice(0, 1, 2)),
        ("csv", twice("0000", "ann", "bob"), {}, twice(0, 1, 2)),
        ("csv", twice("0", "1", "2"), {"distractor": None}, twice(3, 1, 2)),
        ("csv", twice("0", "1", "999"), {"distractor": 999}, twice(2, 1, 0)),
        ("csv", twice("unknown", "ann", "bob"), {"distractor": "unknown"}, twice(0, 1, 2)),
        ("csv", twice("-1.0", "ann", "bob"), {}, twice(1, 2)),
        ("csv", ["nan", "NaN", *twice("ann", "NA", "null")], {"null": ["nan"]}, [0, 0, *twice(2, 1, 3)]),
        ("csv", ["NA", *twice("na", "ann")], {"null": ["NA"]}, [0, *twice(2, 1)]),
        ("csv", twice("", "ann", "bob"), {"null": [""]}, twice(0, 1, 2)),
        ("csv", twice("null", "ann", "bob"), {"null": [None]}, twice(0, 1, 2)),
        ("csv", twice("nan", "None"), {"null": []}, twice(2, 1)),
        ("csv", twice("Na", "Nan"), {}, twice(1, 2)),
        ("parquet", twice(1.0, 2.0, float("nan")), {"null": [float("nan")]}, twice(1, 2, 0)),
        ("parquet", ["ann", "ann", "bob", "bob", None], {"null": [""]}, [1, 1, 2, 2, 0]),
    ],
)  # fmt: skip
def test_ids_become_pids(
    kind: str, labels: list[Any], options: dict[str, Any], pids: list[int], tmp_path: Path
) -> None:
    assert [crop.pid for crop in everyone(read(write(tmp_path, kind, {"pid": labels}), **options))] == pids


@pytest.mark.parametrize(
    ("kind", "labels", "options", "message"),
    [
        ("csv", ["ann", "nan"], {}, r"csv line 3: the pid is nan, .*dataset\.null=\[nan\] .*null=\[\] takes"),
        ("csv", ["ann", "NA"], {}, "csv line 3: the pid is NA"),
        ("csv", ["NULL"], {}, "csv line 2: the pid is NULL"),
        ("csv", ["None"], {}, "csv line 2: the pid is None"),
        ("csv", ["NaN"], {"null": ["NA"], "distractor": "NaN"}, "names no splits"),
        ("csv", ["", "nan"], {"null": ["nan"]}, r"csv line 2: the pid is empty.*dataset\.null=\[''\]"),
        ("parquet", ["ann", None], {}, "parquet row 2: the pid is empty"),
        ("parquet", [1.0, float("nan")], {"null": []}, "parquet row 2: the pid is nan"),
        ("parquet", [1.0, 1e17], {}, "parquet row 2: 1e.17 is a float too large"),
        ("csv", ["ann", "-3"], {}, "csv line 3: pid -3 is not allowed"),
        ("csv", ["ann"], {"null": "nan"}, r"dataset\.null=nan is not allowed: .*dataset\.null=\[nan\]"),
    ],
)  # fmt: skip
def test_ids_that_name_nobody_are_refused_by_row(
    kind: str, labels: list[Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=f"(?s){message}"):
        read(write(tmp_path, kind, {"pid": labels}), **options)


def test_one_name_in_two_forms_of_unicode_is_a_leak(tmp_path: Path) -> None:
    file = write(tmp_path, "csv", {"pid": [NFC, NFC, NFD, NFD], "split": SPLITS})
    with pytest.raises(LeakError, match=f"both in train and in query or gallery .*{NFC}"):
        read(file)
    for folder in (f"train/{NFC}", f"query/{NFD}", f"gallery/{NFD}"):
        draw(tmp_path / "people" / folder / "1.png")
    with pytest.raises(LeakError, match=f"both in train and in query or gallery .*{NFC}"):
        load_dataset("folders", tmp_path / "people")


def test_spellings_of_one_number_are_named(tmp_path: Path) -> None:
    file = write(tmp_path, "csv", {"pid": ["1", "01", "001", "2", "2", "3", "03"]})
    assert "one person (2 people): 001 = 01 = 1; 03 = 3." in read(file).notice
    assert "spellings" not in read(write(tmp_path, "csv", {"pid": twice("0001", "0002")})).notice


@pytest.mark.parametrize(
    "word", ["nan", "NaN", "-nan", "NA", "<NA>", "n/a", "#N/A", "NaT", "null", "None", ""]
)
def test_what_programs_write_for_nothing_says_nothing(word: str) -> None:
    assert is_null(clean(f" {word} "))


# ---- cameras


@pytest.mark.parametrize(
    ("kind", "labels", "camids"),
    [
        ("parquet", [float("nan")] * 4, None),
        ("csv", ["NA"] * 4, None),
        ("parquet", [1.0, 2.0, 1.0, 2.0], [1, 2, 1, 2]),
        ("csv", ["1", "1234567890", "01", "1234567890"], [0, 1, 0, 1]),
        ("parquet", ["gate", "yard ", " gate", "yard"], [0, 1, 0, 1]),
    ],
)
def test_cameras_are_cleaned_too(
    kind: str, labels: list[Any], camids: list[int] | None, tmp_path: Path
) -> None:
    dataset = read(write(tmp_path, kind, {"pid": twice("a", "b"), "camid": labels}))
    assert dataset.cameras == (camids is not None)
    assert [crop.camid for crop in everyone(dataset)] == (camids or [0] * 4)


@pytest.mark.parametrize(("kind", "unknown"), [("parquet", float("nan")), ("csv", "nan"), ("csv", "NULL")])
def test_an_unknown_camera_among_known_ones_is_no_camera(kind: str, unknown: Any, tmp_path: Path) -> None:
    known: list[Any] = [0.0, 1.0, 0.0] if kind == "parquet" else ["0", "1", "0"]
    file = write(tmp_path, kind, {"pid": twice("a", "b"), "camid": [*known, unknown]})
    with pytest.raises(DatasetError, match=r"crops\.\w+ (line 5|row 4): no camera .*1 of 4 images"):
        read(file)


# ---- pid 0


def test_nobody_outside_the_gallery_is_left_out_and_counted(tmp_path: Path) -> None:
    labels = ["nan", "ann", "bob", "bob", "nan"]
    file = write(tmp_path, "csv", {"pid": labels, "split": ["train", "train", "query", "gallery", "gallery"]})
    dataset = read(file, null=["nan"])
    assert [crop.pid for crop in everyone(dataset)] == [1, 2, 2, 0]
    assert "1 images of nobody (dataset.null) are left out" in dataset.notice
    assert "or a word of dataset.null stands for distractors" in dataset.notice


def test_a_person_called_0_is_trained_on(tmp_path: Path) -> None:
    file = write(tmp_path, "csv", {"pid": ["0", "0", "7", "7"], "split": SPLITS})
    with pytest.raises(DatasetError, match=r"pid 0 is a distractor.*dataset\.distractor=null"):
        read(file)
    dataset = read(file, distractor=None)
    assert [crop.pid for crop in everyone(dataset)] == [8, 8, 7, 7]
    assert dataset.names == {8: "0"}


@pytest.fixture
def market(tmp_path: Path) -> Path:
    """Market's layout with people counted from 0."""
    for name in (
        "bounding_box_train/0000_c1_1.png", "bounding_box_train/0001_c1_1.png",
        "bounding_box_train/0001_c2_1.png", "query/0000_c1_2.png", "query/0005_c1_1.png",
        "bounding_box_test/0000_c2_3.png", "bounding_box_test/0005_c2_1.png",
    ):  # fmt: skip
        draw(tmp_path / name, len(name) + int(name.partition("/")[2][:4]))
    return tmp_path


def test_in_the_published_layout_0_is_nobody_unless_the_config_says_who(market: Path) -> None:
    dataset = load_dataset("folder", market)
    assert [crop.pid for crop in dataset.train] == [1, 1]
    assert [crop.pid for crop in dataset.query + dataset.gallery] == [0, 5, 0, 5]
    assert "1 images in train, 1 images in query outside the gallery" in dataset.notice
    assert "dataset.distractor=null" in dataset.notice
    with pytest.raises(
        LeakError, match=r"both in bounding_box_train and in query \(for example 0\)"
    ) as caught:
        load_dataset("folder", market, distractor=None)
    people = caught.value.dataset
    assert [crop.pid for crop in people.train + people.query + people.gallery] == [6, 1, 1, 6, 5, 6, 5]
    assert people.names == {6: "0"}
    (market / "bounding_box_train" / "0000_c1_1.png").unlink()
    fives = load_dataset("folder", market, distractor=5)
    assert [crop.pid for crop in fives.query + fives.gallery] == [2, 0, 2, 0]


def test_spellings_of_one_number_are_named_in_the_published_layout_too(tmp_path: Path) -> None:
    for name in (
        "bounding_box_train/1_c1",
        "bounding_box_train/0001_c2",
        "query/0002_c1",
        "bounding_box_test/0002_c2",
    ):
        place = tmp_path / f"{name}.jpg"
        place.parent.mkdir(exist_ok=True)
        place.touch()
    dataset = load_dataset("folder", tmp_path)
    assert {crop.pid for crop in dataset.train} == {1}
    assert "are one person (1 people): 0001 = 1." in dataset.notice
    (tmp_path / "bounding_box_train" / "1_c1.jpg").unlink()
    assert not load_dataset("folder", tmp_path).notice


def test_the_check_says_how_many(market: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check([str(market), "--min-height", "1", "--min-width", "1"]) == 1
    message = capsys.readouterr().out
    assert "2 images of distractors, whom nobody looks for" in message
    assert "1 queries of a distractor, whom nobody looks for" in message


def test_nobody_is_held_out_of_the_people_to_train_on(tmp_path: Path) -> None:
    crops = tuple(Crop(tmp_path / f"{n}.png", n // 4, n % 2) for n in range(12))
    dataset = validation_split(ReidDataset("made", tmp_path, crops, (), ()), identities=1, seed=0)
    assert {crop.pid for crop in dataset.query} <= {1, 2}


@pytest.mark.slow
def test_a_split_is_read_as_its_last_line_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A person 0, one whose name is a null word, and distractors: each is itself after the round."""
    file = write(tmp_path, "csv", {"pid": [*twice("0", "NA", "ann", "bob"), "999"]})
    typed = ["--option", "distractor=999", "--option", "null=[]"]
    out = tmp_path / "split.csv"
    assert split([str(file), "-o", str(out), *typed]) == 0
    assert f"dataset.file={out} dataset.distractor=distractor 'dataset.null=[]'\n" in capsys.readouterr().out
    once, again = read(file, distractor=999, null=[]), read(out, distractor="distractor", null=[])
    assert sum(crop.pid == 0 for crop in again.gallery) == 1
    assert sorted(again.names.values()) == sorted(once.names.values()) == ["0", "NA", "ann", "bob"]
    assert split([str(file), "-o", str(out), "--option", "distractor=null", "--option", "null=[]"]) == 0
    assert "dataset.distractor=null" in capsys.readouterr().out


def test_the_defaults_of_a_config_are_those_of_a_call() -> None:
    assert People.of(0, None) == People()
