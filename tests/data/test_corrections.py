"""Verdicts on labels: the file that holds them, and what they change in training."""

import csv
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from reid.data.corrections import (
    COLUMNS,
    DIFFERENT,
    RIGHT,
    SAME,
    WITHDRAWN,
    WRONG_NAME,
    append_verdict,
    correct,
    count_verdicts,
    read_verdicts,
    verdict_path,
)
from reid.data.crops import Crop, DatasetError, ReidDataset
from reid.data.division import validation_split

ROOT = Path("/data/set")


def dataset() -> ReidDataset:
    """Six people to train on with three crops each (`train/4b.png`), two to test on."""
    train = tuple(Crop(ROOT / f"train/{pid}{x}.png", pid, 0) for pid in range(1, 7) for x in "abc")
    query = tuple(Crop(ROOT / f"query/{pid}a.png", pid, 0) for pid in (8, 9))
    gallery = tuple(Crop(ROOT / f"gallery/{pid}b.png", pid, 1) for pid in (8, 9))
    return ReidDataset("set", ROOT, train, query, gallery, names={2: "anna", 5: "bert"})


def verdicts(folder: Path, *lines: tuple[str, str, str]) -> Path:
    file = folder / "verdicts.csv"
    with file.open("w", newline="") as handle:
        csv.writer(handle).writerows([COLUMNS, *((*line, "2026-01-01T00:00:00+00:00") for line in lines)])
    return file


def trained(found: ReidDataset) -> dict[str, int]:
    return {crop.path.stem: crop.pid for crop in found.train}


def test_what_each_verdict_changes_by_hand(tmp_path: Path) -> None:
    file = verdicts(
        tmp_path,
        ("train/2a.png", "train/5b.png", SAME),  # anna is bert
        ("train/5c.png", "train/3a.png", SAME),  # and 3
        ("train/1c.png", "train/1a.png", DIFFERENT),
        ("train/4a.png", "train/6a.png", WRONG_NAME),
        ("train/4b.png", "train/6b.png", DIFFERENT),  # two names, two people: as labelled
        ("train/6a.png", "train/6b.png", SAME),  # one name, one person: as labelled
        ("train/6c.png", "train/6b.png", RIGHT),
        ("query/8a.png", "gallery/9b.png", SAME),  # nobody who is tested is renamed
        ("train/none.png", "train/6b.png", SAME),
    )
    before = dataset()
    found = correct(before, file)
    expected = trained(before)
    expected |= dict.fromkeys(("2a", "2b", "2c", "3a", "3b", "3c", "5a", "5b", "5c"), 2)
    del expected["1c"], expected["4a"]
    assert trained(found) == expected
    assert (found.query, found.gallery) == (before.query, before.gallery)
    assert found.uncorrected == before.train
    (applied,) = found.corrections
    assert applied.merged == ((2, 3, 5),)
    assert [crop.path.stem for crop in applied.left_out] == ["1c", "4a"]
    assert applied.judged == ("query/8a.png and gallery/9b.png: same person",)
    assert applied.unknown == 1
    assert found.notice.splitlines() == [
        "corrections: 3 identities merged into 1, 2 crops left out",
        "verdicts that change nothing: 1 on people who are judged on (query/8a.png and gallery/9b.png: same "
        "person), 1 on crops that are not in this dataset",
    ]


def test_a_crop_that_is_left_out_merges_nothing(tmp_path: Path) -> None:
    file = verdicts(
        tmp_path,
        ("train/1a.png", "train/2a.png", SAME),
        ("train/1a.png", "train/1b.png", DIFFERENT),
        ("train/3a.png", "query/8a.png", SAME),  # no leak, since it is left out
        ("train/3a.png", "train/3b.png", WRONG_NAME),
    )
    found = correct(dataset(), file)
    assert found.corrections[0].merged == ()
    assert found.train == tuple(crop for crop in dataset().train if crop.path.stem not in ("1a", "3a"))


def test_validation_people_stay_the_same_and_are_trained_on_under_no_name(tmp_path: Path) -> None:
    whole = dataset()
    seen = replace(whole, train=tuple(c._replace(camid=ord(c.path.stem[-1]) % 2) for c in whole.train))
    plain = validation_split(seen, identities=2, seed=0)
    held_out = sorted({crop.pid for crop in plain.query})
    other = next(pid for pid in range(1, 7) if pid not in held_out)
    away = next(pid for pid in range(1, 7) if pid not in (*held_out, other))
    file = verdicts(
        tmp_path,
        (f"train/{held_out[0]}a.png", f"train/{other}a.png", SAME),
        (f"train/{held_out[1]}b.png", f"train/{held_out[1]}a.png", WRONG_NAME),
        *((f"train/{away}{x}.png", f"train/{other}c.png", WRONG_NAME) for x in "abc"),
    )
    corrected = validation_split(correct(seen, file), identities=2, seed=0)
    assert (corrected.query, corrected.gallery) == (plain.query, plain.gallery)
    assert {crop.pid for crop in corrected.train} == set(range(1, 7)) - {*held_out, other, away}


def test_the_last_verdict_on_a_pair_holds(tmp_path: Path) -> None:
    pair = ("train/1a.png", "train/2a.png")
    file = verdicts(tmp_path, (*pair, SAME), (*pair[::-1], DIFFERENT))
    assert [one.verdict for one in read_verdicts(file)] == [DIFFERENT]
    assert correct(dataset(), file).train == dataset().train
    append_verdict(file, ROOT / pair[0], ROOT / pair[1], WITHDRAWN, ROOT)
    assert read_verdicts(file) == []
    assert count_verdicts(read_verdicts(file)) == dict.fromkeys((SAME, DIFFERENT, WRONG_NAME, RIGHT), 0)
    found = correct(dataset(), file)
    assert found.notice == "corrections: 0 identities merged, 0 crops left out"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            [("1a", "2a", SAME), ("2a", "3a", SAME), ("3a", "1a", DIFFERENT)],
            "show one person: train/1a.png and train/2a.png .same person.; train/2a.png and train/3a.png",
        ),
        (
            [("1a", "2a", SAME), ("2b", "5a", SAME), ("1c", "5c", DIFFERENT)],
            "make pid 1 and bert one person: train/1a.png and train/2a.png .same person.; train/2b.png and",
        ),
        ([("1a", "1b", SAME), ("1a", "1c", DIFFERENT)], "leaves .*1a.png out for not showing whom"),
        ([("1a", "../query/8a", SAME)], "1 verdicts would have a person trained on who is judged on"),
        ([("7x", "7y", SAME)], "none of its 1 verdicts names two crops of set"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, lines: list[tuple[str, str, str]], message: str) -> None:
    file = verdicts(tmp_path, *((f"train/{one}.png", f"train/{two}.png", word) for one, two, word in lines))
    with pytest.raises(DatasetError, match=message):
        correct(dataset(), file)


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "verdicts.csv"
    first = append_verdict(file, ROOT / 'a, "b".png', "/elsewhere/ü.png", SAME, ROOT)
    assert first[:3] == ('a, "b".png', "/elsewhere/ü.png", SAME)
    second = append_verdict(file, ROOT / "c.png", ROOT / "sub/d.png", RIGHT, ROOT)
    assert read_verdicts(file) == [first, second]
    assert file.read_text().splitlines()[0] == "path,other_path,verdict,time"
    assert verdict_path(Path("/data/set/../set/x.png"), ROOT) == "x.png"
    for path, word, message in (
        ("c.png", "same persn", "is no verdict.*Did you mean 'same person'"),
        ("d\n.png", SAME, "has a line break in its name"),
        ("\udcff.png", SAME, "not UTF-8"),
        ("e.png", SAME, "about two crops"),
    ):
        with pytest.raises(DatasetError, match=message):
            append_verdict(file, path, "e.png", word)
    assert read_verdicts(file) == [first, second]


@pytest.mark.slow
def test_a_torn_last_line_is_no_verdict_and_is_repaired(tmp_path: Path) -> None:
    file = tmp_path / "verdicts.csv"
    held = [append_verdict(file, ROOT / f"{number}.png", ROOT / "x, y.png", SAME, ROOT) for number in (1, 2)]
    whole = file.read_bytes()
    for length in (*range(40), *range(len(whole) - 60, len(whole))):
        file.write_bytes(whole[:length])
        known = read_verdicts(file)
        assert [one.path for one in known] == [one.path for one in held][: len(known)]
        added = append_verdict(file, ROOT / "new.png", ROOT / "x, y.png", SAME, ROOT)
        assert read_verdicts(file) == [*known, added]


@pytest.mark.parametrize("line", ["a.png,b.png,same persn,2026", "a.png,b.png,same persn"])
def test_a_mistake_in_a_last_line_without_its_break_is_not_taken_for_a_torn_one(
    tmp_path: Path, line: str
) -> None:
    file = tmp_path / "verdicts.csv"
    file.write_text(f"{','.join(COLUMNS)}\n{line}")
    with pytest.raises(DatasetError, match="line 2: "):
        read_verdicts(file)


def test_files_that_are_none_are_refused_by_their_line(tmp_path: Path) -> None:
    file = tmp_path / "verdicts.csv"
    with pytest.raises(DatasetError, match=r"No such file.*dataset\.corrections=null"):
        read_verdicts(file)
    head = ",".join(COLUMNS)
    for content, message in (
        (b"path,pid\na.png,3\n", "its first line is 'path,pid', expected path,other_path,verdict,time"),
        (f"{head}\na,b,same person\n".encode(), "line 2: 3 values, expected 4"),
        (f"{head}\n\na,b,equal,now\n".encode(), "line 3: 'equal' is no verdict"),
        (f"{head}\na,a,same person,\n".encode(), "line 2: expected the paths of two crops"),
        (head.encode() + b"\n\xff\xfe,b,same person,\n", "byte 29 is not UTF-8"),
    ):
        file.write_bytes(content)
        with pytest.raises(DatasetError, match=message):
            read_verdicts(file)
        with pytest.raises(DatasetError, match=message):
            append_verdict(file, "x.png", "y.png", SAME)
        assert file.read_bytes() == content
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(DatasetError, match="no regular file"):
        read_verdicts(tmp_path / "fifo")
    with pytest.raises(OSError, match="no regular file"):
        append_verdict(tmp_path / "fifo", "x.png", "y.png", SAME)
    file.write_bytes(f"\ufeff{head}\r\na,b,same person,\r\n".encode())  # as spreadsheets save it
    assert [one.pair for one in read_verdicts(file)] == [{"a", "b"}]


def _append_for_ever(file: Path) -> None:
    for number in range(10**9):
        append_verdict(file, ROOT / f"{os.getpid()}/{number}.png", ROOT / "x.png", SAME, ROOT)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_several_processes_append_and_a_kill_loses_nothing(tmp_path: Path) -> None:
    file, fork = tmp_path / "verdicts.csv", multiprocessing.get_context("fork")
    for _ in range(3):
        workers = [fork.Process(target=_append_for_ever, args=(file,)) for _ in range(2)]
        for worker in workers:
            worker.start()
        time.sleep(0.15)
        for worker in workers:
            os.kill(worker.pid or 0, signal.SIGKILL)
            worker.join()
        by_process: dict[str, list[int]] = {}
        for one in read_verdicts(file):
            process, name = one.path.split("/")
            by_process.setdefault(process, []).append(int(name.removesuffix(".png")))
        assert all(numbers == list(range(len(numbers))) for numbers in by_process.values())
    assert len(by_process) >= 3  # one process may have kept the file to itself


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('a,b,"same person' + "x" * 140_000 + '",t\n', "line 2: no line of a CSV file"),
        ("a\rb,c,same person,t\n", "line"),
    ],
    ids=["endless", "line break"],
)
def test_a_line_that_no_csv_file_has_is_named(lines: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "verdicts.csv"
    file.write_text(",".join(COLUMNS) + "\n" + lines, newline="")
    with pytest.raises(DatasetError, match=words):
        read_verdicts(file)
    with pytest.raises(DatasetError, match=words):
        append_verdict(file, tmp_path / "a", tmp_path / "b", SAME)


def test_a_line_break_of_another_system_in_the_last_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "verdicts.csv"
    file.write_text(",".join(COLUMNS) + "\na\rb,c", newline="")
    with pytest.raises(DatasetError, match="line 2"):
        read_verdicts(file)
