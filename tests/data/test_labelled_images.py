"""Own data, by table and by folders: what is read, and every refusal by file and line."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from reid.data import Crop, DatasetError, ReidDataset, load_dataset
from reid.data.crops import LeakError
from reid.data.labels import numbered
from reid.data.table_files import write_table


def draw(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 4), (10, 20, 30)).save(path)
    return path


def table(folder: Path, *lines: str) -> Path:
    """A table whose images are there, wherever its lines name one."""
    for line in lines[1:]:
        name = line.split(",")[0]
        if name.endswith(".png"):
            draw(folder / name)
    file = folder / "crops.csv"
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return file


def read(file: Path, **options: Any) -> ReidDataset:
    return load_dataset("table", file.parent, file=str(file), **options)


SPLIT = (
    "path,pid,camid,split", "b.png,ann,gate,train", "a.png,ann,yard,train", "c.png,bob,gate,query",
    "d.png,bob,yard,gallery", "e.png,cy,gate,val", "f.png,cy,yard,val",
)  # fmt: skip


# ---- numbers for names


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["7", "0002", "7"], {"7": 7, "0002": 2}),
        (["3.0", "10.0"], {"3.0": 3, "10.0": 10}),
        (["-1", "0"], {"-1": -1, "0": 0}),
        (["eve", "ann", "eve"], {"ann": 1, "eve": 2}),
        (["12", "ann"], {"12": 1, "ann": 2}),
        (["1.5", "2"], {"1.5": 1, "2": 2}),
        (["12345678901234567890", "1"], {"1": 1, "12345678901234567890": 2}),
    ],
)
def test_whole_numbers_stay_and_names_are_counted_in_sorted_order(
    labels: list[str], expected: dict[str, int]
) -> None:
    assert numbered(labels, first=1) == expected


# ---- tables


def test_a_table_with_everything(tmp_path: Path) -> None:
    dataset = read(table(tmp_path, *SPLIT))
    assert dataset.name == "crops"
    assert dataset.train == (Crop(tmp_path / "a.png", 1, 1), Crop(tmp_path / "b.png", 1, 0))
    assert dataset.query == (Crop(tmp_path / "c.png", 2, 0),)
    assert dataset.gallery == (Crop(tmp_path / "d.png", 2, 1),)
    assert dataset.val == (Crop(tmp_path / "e.png", 3, 0), Crop(tmp_path / "f.png", 3, 1))
    assert dataset.names == {1: "ann", 2: "bob", 3: "cy"}
    assert dataset.cameras
    assert "1 people of the val split are not trained on" in dataset.notice


def test_the_order_of_the_lines_does_not_matter(tmp_path: Path) -> None:
    head, *lines = SPLIT
    assert read(table(tmp_path, head, *reversed(lines))) == read(table(tmp_path, head, *lines))


def test_parquet_and_csv_read_alike(tmp_path: Path) -> None:
    lines = ("path,pid,camid,split", "a.png,7,0,train", "b.png,9,1,query", "c.png,9,3,gallery")
    file = table(tmp_path, *lines)
    expected = read(file)
    assert [crop.pid for crop in expected.train + expected.query] == [7, 9]
    pd.read_csv(file).to_parquet(tmp_path / "crops.parquet")
    assert read(tmp_path / "crops.parquet") == expected
    (tmp_path / "crops.parquet").write_bytes(b"no")
    with pytest.raises(DatasetError, match=r"crops\.parquet is no Parquet file"):
        read(tmp_path / "crops.parquet")


def test_relative_paths_start_at_the_root_and_absolute_ones_stay(tmp_path: Path) -> None:
    far = draw(tmp_path / "far" / "x.png")
    draw(tmp_path / "images" / "y.png")
    file = table(tmp_path / "tables", "path,pid,split", "y.png,1,train", f"{far},1,train")
    dataset = load_dataset("table", tmp_path / "images", file=str(file))
    assert {crop.path for crop in dataset.train} == {far, tmp_path / "images" / "y.png"}


def test_a_byte_order_mark_spaces_blank_lines_and_other_columns_do_no_harm(tmp_path: Path) -> None:
    draw(tmp_path / "a, b.png")
    file = table(tmp_path, "pid, path ,split,weather", '3,"a, b.png", train,rain', "")
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert read(file).train == (Crop(tmp_path / "a, b.png", 3, 0),)


def test_junk_is_counted_and_left_out(tmp_path: Path) -> None:
    dataset = read(table(tmp_path, "path,pid,split", "a.png,-1,gallery", "b.png,0,gallery", "c.png,4,train"))
    assert dataset.junk == 1
    assert [crop.pid for crop in dataset.gallery] == [0]


def test_junk_among_names_is_junk_too(tmp_path: Path) -> None:
    dataset = read(
        table(tmp_path, "path,pid,split", "a.png,-1,gallery", "b.png,-1.0,train", "c.png,ann,train")
    )
    assert dataset.junk == 2
    assert [crop.pid for crop in dataset.train] == [1]
    assert dataset.names[1] == "ann"


def test_people_counted_from_0_are_refused_since_0_is_nobody(tmp_path: Path) -> None:
    lines = [f"{pid}_{n}.png,{pid},{n}" for pid in range(4) for n in range(2)]
    dataset = read(table(tmp_path, "path,pid,camid", *lines))
    assert "pid 0 stands for distractors, people whom nobody looks for: 2 images" in dataset.notice


def test_without_cameras_they_are_unknown(tmp_path: Path) -> None:
    dataset = read(table(tmp_path, "path,pid,split", "a.png,1,train"))
    assert not dataset.cameras
    assert dataset.train[0].camid == 0


def test_without_splits_people_are_drawn_and_the_notice_names_it(tmp_path: Path) -> None:
    lines = [f"{pid}_{n}.png,{pid},{n}" for pid in range(1, 11) for n in range(3)]
    file = table(tmp_path, "path,pid,camid", *lines)
    dataset = read(file, test_fraction=0.3, seed=4)
    train, tested = ({crop.pid for crop in crops} for crops in (dataset.train, dataset.query))
    assert (len(train), len(tested)) == (7, 3)
    assert train | tested == set(range(1, 11))
    assert "7 people to train on and 3 others" in dataset.notice
    assert "dataset.seed=4" in dataset.notice
    assert read(file, test_fraction=0.3, seed=4) == dataset
    assert read(file, test_fraction=0.3, seed=5) != dataset


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path;pid", "a.png;1"], "crops.csv has no column 'path'"),
        (["path,person_id", "a.png,1"], "no column 'pid'.*Rename 'person_id' to 'pid'"),
        (["path,pid,camera", "a.png,1,1"], "no column 'camid'.*Rename 'camera' to 'camid'"),
        (["path,pid,Split", "a.png,1,train"], "Rename 'Split' to 'split'"),
        (["path,pid,pid", "a.png,1,1"], "two columns named pid"),
        ([], "no column 'path'.*found nothing"),
        (["path,pid"], "no image"),
        (["path,pid", "a.png,1", "b.png"], "crops.csv line 3 has 1 cells, the header 2"),
        (["path,pid", "a.png,1", "b.png,"], "crops.csv line 3: the pid is empty"),
        (["path,pid", ",1"], "crops.csv line 2: the path is empty"),
        (
            ["path,pid,split", "a.png,1,test"],
            "crops.csv line 2: split 'test' is not allowed.*query, gallery",
        ),
        (
            ["path,pid,split", "a.png,1,train", "b.png,2,"],
            "crops.csv line 3: no split.*for 1 of 2 images",
        ),
        (["path,pid,camid", "a.png,1,", "b.png,2,3"], "crops.csv line 2: no camera"),
        (["path,pid,camid", "a.png,1,-2"], "crops.csv line 2: camid -2"),
        (["path,pid", "a.png,-3"], "crops.csv line 2: pid -3"),
        (
            ["path,pid,split", "a.png,0,train", "b.png,1,query"],
            "crops.csv line 2: pid 0 is a distractor.*stands in train.*count people from 1",
        ),
        (["path,pid", "a.png,1", "a.png,2"], "crops.csv line 3: .*a.png stands in .*crops.csv line 2"),
        (["path,pid", "gone/a.jpg,1"], "crops.csv line 2: there is no .*gone/a.jpg.*dataset.root"),
        (["path,pid", 'a.png,"1', ""], "crops.csv line . is no CSV"),
        (["path,pid", "a.png,1", "b.png,1"], "names no splits.*1 people are too few"),
    ],
)
def test_a_wrong_table_is_refused_by_file_and_line(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DatasetError, match=f"(?s){message}"):
        read(table(tmp_path, *lines))


def test_no_table_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no table .*nowhere\.csv"):
        read(tmp_path / "nowhere.csv")
    (tmp_path / "crops.csv").write_bytes("path,pid\nä.png,1\n".encode("latin-1"))
    with pytest.raises(DatasetError, match="no text in UTF-8"):
        read(tmp_path / "crops.csv")


@pytest.mark.parametrize(("key", "value"), [("test_fraction", 0), ("test_fraction", 1.0), ("seed", -1)])
def test_a_split_that_cannot_be_drawn_is_refused(tmp_path: Path, key: str, value: float) -> None:
    with pytest.raises(DatasetError, match=rf"dataset\.{key}={value}"):
        read(table(tmp_path, "path,pid", "a.png,1"), **{key: value})


@pytest.mark.parametrize("split", ["query", "gallery", "val"])
def test_people_both_trained_and_judged_on_are_refused_by_name(tmp_path: Path, split: str) -> None:
    file = table(tmp_path, "path,pid,split", "a.png,ann,train", f"b.png,ann,{split}")
    with pytest.raises(LeakError, match=r"1 identities are both in train and in .*ann") as caught:
        read(file)
    assert [crop.pid for crop in caught.value.dataset.train] == [1]


def test_a_written_table_is_read_again(tmp_path: Path) -> None:
    draw(tmp_path / "a, b.png")
    write_table(
        tmp_path / "t.csv", [{"path": "a, b.png", "pid": "ann", "split": "train"}], ["path", "pid", "split"]
    )
    assert read(tmp_path / "t.csv").train == (Crop(tmp_path / "a, b.png", 1, 0),)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".png"] == ["t.csv"]


# ---- folders


def test_one_folder_a_person_with_cameras_in_the_names(tmp_path: Path) -> None:
    for name in ("ann/1_c1.png", "ann/2_c2s1.png", "bob/1_c1.png", "bob/1_c3.png"):
        draw(tmp_path / name)
    (tmp_path / "readme.txt").write_text("who took these")
    (tmp_path / "bob" / ".hidden.png").write_bytes(b"")
    dataset = load_dataset("folders", tmp_path)
    crops = sorted(dataset.train + dataset.query + dataset.gallery)
    assert crops == [
        Crop(tmp_path / "ann" / "1_c1.png", 1, 0),
        Crop(tmp_path / "ann" / "2_c2s1.png", 1, 1),
        Crop(tmp_path / "bob" / "1_c1.png", 2, 0),
        Crop(tmp_path / "bob" / "1_c3.png", 2, 2),
    ]
    assert len({crop.pid for crop in dataset.train}) == len({crop.pid for crop in dataset.query}) == 1
    assert (dataset.strays, dataset.names, dataset.cameras) == (2, {1: "ann", 2: "bob"}, True)
    assert not load_dataset("folders", tmp_path, cameras="none").cameras


def test_split_folders_hold_the_persons_folders(tmp_path: Path) -> None:
    for name in ("train/0007/x.png", "query/0009/y.png", "gallery/0009/z.png", "gallery/0000/w.png"):
        draw(tmp_path / name)
    dataset = load_dataset("folders", tmp_path)
    assert [crop.pid for crop in dataset.train + dataset.query + dataset.gallery] == [7, 9, 0, 9]
    assert not dataset.cameras
    draw(tmp_path / "query" / "0007" / "v.png")
    with pytest.raises(LeakError, match="both in train and in query"):
        load_dataset("folders", tmp_path)


@pytest.mark.parametrize(
    ("names", "cameras", "message"),
    [
        (["ann/1_c1.png", "ann/2.png"], "auto", r"no camera is given for .*2\.png"),
        (["ann/1.png"], "name", "names no camera"),
        (["ann/1_c0.png"], "auto", "cameras count from 1.*dataset.cameras=none"),
        (["ann/x.png", "bob/.old/x.png"], "auto", "bob holds no image"),
        (["train/ann/x.png", "test/bob/x.png"], "auto", "holds train and also test"),
        ([], "auto", "no image in"),
    ],
)
def test_wrong_folders_are_refused(tmp_path: Path, names: list[str], cameras: str, message: str) -> None:
    for name in names:
        draw(tmp_path / name)
    with pytest.raises(DatasetError, match=f"(?s){message}"):
        load_dataset("folders", tmp_path, cameras=cameras)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=re.escape(str(tmp_path / "nowhere"))):
        load_dataset("folders", tmp_path / "nowhere")


def test_a_parquet_file_that_cannot_be_read_as_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "crops.parquet"
    table = pyarrow.table({"path": ["a.png", "b.png"], "pid": ["ann", "bob"]})
    pyarrow.parquet.write_table(table, file, compression="none", use_dictionary=False, write_statistics=False)
    content = file.read_bytes()
    assert content.count(b"ann") == 1
    file.write_bytes(content.replace(b"ann", b"\xff\xfe\xfd"))
    with pytest.raises(DatasetError, match="no Parquet file that can be read"):
        load_dataset("table", tmp_path, file=str(file))


def test_a_parquet_file_of_endless_rows_is_refused_before_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "crops.parquet"
    same = pyarrow.array(["a.png"]).dictionary_encode()
    path = pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(3_000_000, np.int32)), same.dictionary)
    pyarrow.parquet.write_table(pyarrow.table({"path": path, "pid": path}), file)
    assert file.stat().st_size < 20_000
    with pytest.raises(DatasetError, match=r"3,000,000 rows in .* a bomb\?"):
        load_dataset("table", tmp_path, file=str(file))
