from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from reid.tracking import TrackingError
from reid.tracking.journal import Journal, Sent

TAGS = {"op": "tags", "values": {"a": "b"}}
CREATE = {
    "op": "create", "time": 1, "run_key": "k", "experiment": "e", "name": "n", "tags": {}, "parent": None,
    "store": "sqlite:///x", "artifact_root": None,
}  # fmt: skip


def test_operations_come_back_in_order_from_any_offset(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for index in range(3):
        journal.append({"op": "tags", "values": {"n": str(index), "text": "ü\n\ud800"}}, durable=True)
    everything = list(journal.read())
    assert [operation["values"]["n"] for operation, _ in everything] == ["0", "1", "2"]
    assert list(journal.read(everything[0][1])) == everything[1:]
    assert everything[-1][1] == journal.path.stat().st_size


def test_line_cut_by_a_kill_is_dropped(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(CREATE)
    with journal.path.open("ab") as file:
        file.write(b'{"op": "metr')
    assert [operation for operation, _ in journal.read()] == [CREATE]
    journal.acquire()
    journal.append(TAGS)
    assert [operation["op"] for operation, _ in journal.read()] == ["create", "tags"]
    journal.release()


def test_full_disk_leaves_the_journal_as_it_was(
    tmp_path: Path, no_room: Callable[[int], AbstractContextManager[None]]
) -> None:
    journal = Journal(tmp_path)
    journal.append(CREATE)
    before = journal.path.read_bytes()
    with no_room(len(before) + 10), pytest.raises(OSError, match="part of the line"):
        journal.append({"op": "tags", "values": {"long": "x" * 100}})
    assert journal.path.read_bytes() == before


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    first, second = Journal(tmp_path), Journal(tmp_path)
    first.acquire()
    with pytest.raises(TrackingError, match="in use by another process"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_lost_or_broken_cursor_means_nothing_is_known_to_be_sent(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.sent() is None
    journal.append(TAGS)
    journal.append(TAGS)
    end = journal.path.stat().st_size
    for place in (0, end // 2, end):
        journal.save_sent(Sent("sqlite:///x", "abc", place))
        assert journal.sent() == Sent("sqlite:///x", "abc", place)
    broken = ['{"uri": ', "[" * 100_000, '{"uri": 1, "run_id": "a"}']
    # Of another journal: within a line of this one, or beyond its end.
    broken += [
        f'{{"uri": "u", "run_id": "a", "offset": {place}}}' for place in (5, end + 1, -1, '"0"', 2**70)
    ]
    for text in broken:
        (tmp_path / "journal.sent").write_text(text)
        assert journal.sent() is None, text[:40]


def test_file_that_is_no_journal_is_named(tmp_path: Path) -> None:
    Journal(tmp_path).append(TAGS)
    with pytest.raises(TrackingError, match="not a run's journal"):
        _ = Journal(tmp_path).creation


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"op": "tags", "values"', "delimiter"),
        (b"\xff\xfe", "decode"),
        (b"[" * 100_000, "recursion"),
        (b"[1, 2]", "it names no operation"),
        (b'{"op": ["tags"]}', "it names no operation"),
        (b'{"op": "tags"}', "values of tags is 'None'"),
        (b'{"op": "metrics", "time": 1, "step": 1, "values": {"loss": NaN}}', "values of metrics is"),
        (b'{"op": "status", "time": "now", "status": "RUNNING", "host": "h"}', "time of status is 'now'"),
        (json.dumps({**CREATE, "parent": {"folder": ".."}}).encode(), "parent of create is"),
    ],
)
def test_a_damaged_line_is_refused_by_its_place(line: bytes, why: str, tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(CREATE)
    place = journal.path.stat().st_size
    with journal.path.open("ab") as file:
        file.write(line + b"\n")
    journal.append(TAGS)
    with pytest.raises(TrackingError, match=f"the line at byte {place} is no operation of a run .*{why}"):
        list(journal.read())
    for _ in range(2):  # the lock is free again
        with pytest.raises(TrackingError, match="is damaged"):
            journal.acquire()
