"""Names, tables and labels as anybody may write them: crops that say it, or one message in words."""

import csv
import io
import re
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from drawn import examples
from hypothesis import assume, given
from hypothesis import strategies as st

from reid.data import Crop, DatasetError, ReidDataset, load_dataset
from reid.data.datasets.msmt17 import read_list
from reid.data.labels import People, canonical, clean, is_null, numbered, numbered_people
from reid.people import DISTRACTOR, JUNK

T = TypeVar("T")
DIGITS = st.text("0123456789", min_size=1, max_size=6)
HUGE = st.text("0123456789", min_size=18, max_size=60)
#: What a name may hold on Linux; the last are bytes that are no UTF-8.
LETTER = st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]) | st.sampled_from(
    "\udc80\udcff"
)
TEXT = st.text(LETTER, max_size=12)


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


#: One of these stands in what says what to do.
ADVICE = ("expected", "rename", "is not allowed", "fill it in", "give ", "save ")


def refused(read: Callable[[], T]) -> tuple[T | None, str]:
    """What was read, or None and the message that refuses it. Anything else fails the test."""
    try:
        return read(), ""
    except DatasetError as error:
        return None, str(error)


def crops(dataset: ReidDataset) -> dict[str, tuple[int, int]]:
    every = (*dataset.train, *dataset.val, *dataset.query, *dataset.gallery)
    return {crop.path.name: (crop.pid, crop.camid) for crop in every}


# ---- Market's names

PID = DIGITS | HUGE | st.sampled_from(["-1", "00-1", "-2", "0-7", "0", "0000", "٣"])
MARKET = st.builds(
    "{}{}{}{}{}".format,
    PID,
    st.sampled_from(["_", "_", "_", "-", "", "__"]),
    st.sampled_from(["c", "C", "cam", "x", ""]),
    DIGITS | HUGE | st.sampled_from(["", "0", "-1", "1"]),
    st.sampled_from(["s1_000451_03", "_f0046182", "", "T0001F001", "s"]),
)  # fmt: skip


def said_by_market(name: str) -> tuple[int, int] | None:
    """Pid and camera from 1 of a name in Market's layout, read letter by letter; None: it says neither."""
    rest = name.lstrip("0") if not name[:1].isdecimal() or name.lstrip("0")[:1] == "-" else name
    sign = 1
    if rest[:1] == "-":
        sign, rest = -1, rest[1:]
    pid = ""
    while rest[:1].isdecimal():
        pid, rest = pid + rest[0], rest[1:]
    if not pid:
        return None
    if rest[:1] == "_":
        rest = rest[1:]
    else:  # MARS's: 0001C1T0001F001
        if not re.match(r"[cC]\d+[tT]\d", rest):
            return None
    if rest[:1] not in ("c", "C"):
        return None
    camera = ""
    for letter in rest[1:]:
        if not letter.isdecimal():
            break
        camera += letter
    return (sign * int(pid), int(camera)) if camera else None


@examples(250)
@given(stem=MARKET | TEXT, ending=st.sampled_from([".jpg", ".png", ".JPG", ".txt", ""]))
def test_a_name_in_markets_layout_is_what_it_says_or_refused(stem: str, ending: str) -> None:
    name = stem + ending
    assume(name not in ("", ".", "..") and len(name.encode(errors="surrogateescape")) <= 250)
    with folder() as root:
        for split in ("bounding_box_train", "query", "bounding_box_test"):
            touch(root / split / f"{1 if 'train' in split else 2:04}_c1_{split}.jpg")
        touch(root / "bounding_box_test" / "0002_c2_match.jpg")
        assume(not (root / "bounding_box_train" / name).exists())
        touch(root / "bounding_box_train" / name)
        said = said_by_market(name)
        image = Path(name).suffix.lower() in (".jpg", ".png") and not name.startswith(".")
        if image and said is not None and said[0] == 2:
            return  # person 2 is tested on: a leak
        dataset, message = refused(lambda: load_dataset("folder", root))
        if dataset is None:
            assert name in message or repr(name.encode(errors="surrogateescape"))[2:-1] in message
            assert any(word in message.lower() for word in ADVICE), message
        if not image:
            assert dataset is not None
            assert dataset.strays == 1
            return
        readable = said is not None and said[0] >= JUNK and 1 <= said[1] < 10**9
        if dataset is None:
            utf8 = all(not "\ud800" <= letter <= "\udfff" for letter in name)
            assert not readable or (not utf8), f"{name} was refused"
            return
        assert readable, f"{name} was read as {crops(dataset).get(name)}"
        assert said is not None
        pid, camera = said
        found = crops(dataset).get(name)
        if pid == JUNK:
            assert (found, dataset.junk) == (None, 1)
        elif pid == DISTRACTOR:
            assert found is None  # nobody is trained on as such, and the notice says so
            assert "pid 0 stands for distractors" in dataset.notice
        else:
            assert found is not None
            assert found[1] == camera - 1
            assert found[0] == pid or dataset.names[found[0]] == str(pid)
            assert found[0] < 2**63


# ---- lists of MSMT17

FIELD = DIGITS | HUGE | st.text("0123456789", min_size=4301, max_size=4400) | TEXT
LINE = st.builds(
    "{}/{}_{}_{}_{}{}{}".format, DIGITS, DIGITS, DIGITS, FIELD, st.sampled_from(["a.jpg", "a", ""]),
    st.sampled_from([" ", "\t", ""]), FIELD,
)  # fmt: skip


@examples(120)
@given(lines=st.lists(LINE | TEXT, max_size=3))
def test_a_line_of_a_list_is_what_it_says_or_refused(lines: list[str]) -> None:
    with folder() as root:
        file = root / "list_train.txt"
        file.write_bytes("\n".join(lines).encode(errors="surrogateescape"))
        found, message = refused(lambda: read_list(file, root / "train", 1))
        if found is None:
            assert f"{file}, line " in message
            assert "expected a line like" in message
            return
        written = [line.strip() for line in file.read_text(errors="replace").splitlines() if line.strip()]
        assert len(found) == len(written)
        for crop, line in zip(found, written, strict=True):
            path, number = line.rsplit(None, 1)
            assert str(crop.path) == f"{root / 'train'}/{path}"
            assert (crop.pid, crop.camid) == (int(number) + 1, int(path.split("_")[2]) - 1)
            assert 0 <= crop.camid < 15


# ---- tables

LABEL = (
    DIGITS
    | st.builds("{}.0".format, DIGITS)
    | HUGE
    | st.sampled_from(
        ["ann", "Ann", " ann ", "Zoe\u0308", "Zo\u00eb", "nan", "NA", "", "-1", "-2", "-1.0", "1e3", "0"]
    )
    | st.text(st.characters(blacklist_categories=["Cs"]), max_size=8)
)
SPLIT = st.sampled_from(["train", "query", "gallery", "val", "", "nan", "test", "Train"])


def written(rows: list[dict[str, str]], columns: list[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


@examples(200)
@given(
    rows=st.lists(
        st.tuples(LABEL, st.sampled_from(["0", "1", "2", "01", "1.0", "x", "", "-1"]), SPLIT),
        min_size=1,
        max_size=6,
    ),
    columns=st.sampled_from(["path pid", "path pid camid", "path pid camid split", "path pid split"]).map(
        str.split
    ),
)
def test_a_table_is_what_it_says_or_refused_by_file_and_line(
    rows: list[tuple[str, str, str]], columns: list[str]
) -> None:
    with folder() as root:
        file = root / "crops.csv"
        cells = [
            {"path": touch(root / f"{number}.png").name, "pid": pid, "camid": camid, "split": split}
            for number, (pid, camid, split) in enumerate(rows)
        ]
        text = written(cells, columns)
        file.write_text(text, encoding="utf-8", newline="")
        dataset, message = refused(lambda: load_dataset("table", root, file=str(file)))
        if dataset is None:
            assert "crops" in message
            return
        found = crops(dataset)
        people = {cell["path"]: canonical(clean(cell["pid"].strip())) for cell in cells}
        for path, (pid, camid) in found.items():
            label = people[path]
            assert label not in ("", "-1")
            assert not is_null(label)
            # Another's pid is another's label, and one's own number is kept.
            same = {other for other in found if people[other] == label}
            assert same == {other for other in found if found[other][0] == pid}
            assert (
                dataset.names.get(pid, str(pid)) in (label, cells[int(path[0])]["pid"].strip())
                or canonical(clean(dataset.names[pid])) == label
            )
            written_camera = cells[int(path[0])]["camid"]
            if "camid" in columns and all(re.fullmatch(r"0?[012](\.0)?", cell["camid"]) for cell in cells):
                assert camid == int(float(written_camera))
            elif "camid" not in columns:
                assert (camid, dataset.cameras) == (0, False)
        for crop in dataset.query:
            assert crop.pid > DISTRACTOR
        trained, tested = ({crop.pid for crop in some} for some in (dataset.train, dataset.query))
        assert not trained & tested
        if "split" in columns:
            for split in ("train", "val", "query", "gallery"):
                for crop in getattr(dataset, split):
                    assert cells[int(crop.path.name[0])]["split"] == split


@examples(150)
@given(
    text=st.text(st.characters(blacklist_categories=["Cs"]) | st.sampled_from(',"\n\r;\t'), max_size=80),
    start=st.booleans(),
)
def test_any_text_as_a_table_is_refused_in_words(text: str, start: bool) -> None:
    with folder() as root:
        file = root / "crops.csv"
        file.write_text(("path,pid\n" if start else "") + text, encoding="utf-8", newline="")
        with pytest.raises(DatasetError, match="crops"):
            load_dataset("table", root, file=str(file))


# ---- labels


@examples(300)
@given(labels=st.lists(LABEL, max_size=8), first=st.integers(0, 1))
def test_labels_get_one_number_each(labels: list[str], first: int) -> None:
    cleaned = [clean(label) for label in labels]
    numbers = numbered(cleaned, first)
    assert numbers.keys() == set(cleaned)
    for one in cleaned:
        assert unicodedata.is_normalized("NFC", one)
        assert clean(one) == one
        for other in cleaned:
            assert (numbers[one] == numbers[other]) == (canonical(one) == canonical(other))
    if all(re.fullmatch(r"\d{1,9}", one, re.ASCII) for one in cleaned):
        assert all(numbers[one] == int(one) for one in cleaned)
    pids = numbered_people(cleaned, "0")
    for one in cleaned:
        assert (pids[one] == DISTRACTOR) == (not one or canonical(one) == "0")
        assert (pids[one] == JUNK) == (canonical(one) == "-1")
        assert pids[one] >= JUNK or canonical(one).startswith("-")


@examples(200)
@given(
    value=st.none() | LABEL | st.integers(-3, 10**20) | st.floats() | st.booleans(),
    words=st.none() | st.lists(st.sampled_from(["nan", "NA", "", "unknown", "None"]), max_size=2),
)
def test_a_label_is_a_name_or_nobody_or_refused(value: object, words: list[str] | None) -> None:
    rules = People.of(0, words)
    label, message = refused(lambda: rules.read(value))
    if label is None:
        assert "pid" in message or "float too large" in message
        return
    text = clean(value)
    if label == "":
        assert words
        assert text in words or text.lower() in words
    else:
        assert label == text
        assert canonical(label) == canonical(text)


# ---- folders, one a person


@examples(150)
@given(
    people=st.lists(TEXT | DIGITS, min_size=1, max_size=3, unique=True),
    camera=st.sampled_from(["", "_c1", "_C2", "_c0", "_c12345678901234567890", "_c3po"]),
    inner=st.sampled_from(["", "cam1", "c2", "7", "extra"]),
)
def test_a_persons_folder_is_that_person_or_refused(people: list[str], camera: str, inner: str) -> None:
    names = [
        name
        for name in people
        if name not in (".", "..") and 0 < len(name.encode(errors="surrogateescape")) < 200
    ]
    assume(len(names) == len(people))
    with folder() as root:
        for split in ("query", "gallery"):
            for name in names:
                touch(root / split / name / inner / f"{split}{camera}.jpg")
        dataset, message = refused(lambda: load_dataset("folders", root))
        if dataset is None:
            assert root.name in message or "gallery" in message
            return
        by_person: dict[str, set[int]] = {}
        for crop in (*dataset.query, *dataset.gallery):
            assert isinstance(crop, Crop)
            person = crop.path.relative_to(root).parts[1]
            by_person.setdefault(person, set()).add(crop.pid)
            digits = re.match(r"\d+", camera[2:])
            if digits and camera[2:] != "0":
                assert crop.camid in (int(digits[0]) - 1, 0)
        for one, pids in by_person.items():
            assert len(pids) == 1
            for other, others in by_person.items():
                assert (pids == others) == (canonical(clean(one)) == canonical(clean(other)))
