from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from reid.tracking import TrackingError
from reid.tracking.journal import Journal, Sent


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
    journal.append({"op": "create"})
    with journal.path.open("ab") as file:
        file.write(b'{"op": "metr')
    assert [operation for operation, _ in journal.read()] == [{"op": "create"}]
    journal.acquire()
    journal.append({"op": "params"})
    assert [operation["op"] for operation, _ in journal.read()] == ["create", "params"]
    journal.release()


def test_full_disk_leaves_the_journal_as_it_was(
    tmp_path: Path, no_room: Callable[[int], AbstractContextManager[None]]
) -> None:
    journal = Journal(tmp_path)
    journal.append({"op": "create"})
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
    journal.save_sent(Sent("sqlite:///x", "abc", 12))
    assert journal.sent() == Sent("sqlite:///x", "abc", 12)
    (tmp_path / "journal.sent").write_text('{"uri": ')
    assert journal.sent() is None


def test_file_that_is_no_journal_is_named(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text('{"op": "tags"}\n')
    with pytest.raises(TrackingError, match="not a run's journal"):
        _ = Journal(tmp_path).creation
