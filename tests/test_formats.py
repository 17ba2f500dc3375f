"""Files that carry a format number: a newer one is refused in words, one without a number is the first."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from experiments.tune.study import FORMAT as STUDY_FORMAT
from experiments.tune.study import FORMAT_KEY, refuse_newer
from reid.engine.rundir import FORMAT as STATUS_FORMAT
from reid.engine.rundir import RunStatus, find_finished, read_status
from reid.formats import FormatError, format_problem
from reid.sweeps.sweep_file import FORMAT as SWEEP_FORMAT
from reid.sweeps.sweep_file import SweepFile, find_sweep, job_statuses, read_sweep
from reid.tracking import TrackingError, read_record, run_folders, send_late
from reid.tracking.journal import FORMAT as JOURNAL_FORMAT
from reid.tracking.journal import Journal
from reid.tracking.tracker import Tracker

CREATION = {
    "op": "create", "time": 1, "run_key": "k", "experiment": "e", "name": "n", "tags": {}, "parent": None,
    "store": "sqlite:///none.db", "artifact_root": None,
}  # fmt: skip
WANTED = SweepFile("e", "numbers-1", [["hash", "/data"]], [["seed=0"]])


@pytest.mark.parametrize("found", [None, 1, 2, 3])
def test_what_can_be_read_is(found: int | None) -> None:
    assert format_problem("a", found, 3) is None


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (4, "a was made by a newer version of the suite: it has format 4, and this version reads up to"),
        *((wrong, "a is damaged, or no file of this suite: its") for wrong in (0, -1, True, "3", 2.0)),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said_in_words(found: object, words: str) -> None:
    assert str(format_problem("a", found, 3)).startswith(words)


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content) + "\n")


def test_status(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written = RunStatus("FINISHED", config_hash="h", run_dir=str(tmp_path / "r"), data_root="/d", epoch=3)
    for name in ("r", "other"):
        (tmp_path / name).mkdir()
    written.write(tmp_path / "r")
    file = tmp_path / "r" / "status.json"
    assert json.loads(file.read_text())["format"] == STATUS_FORMAT
    assert read_status(tmp_path / "r") == written
    rewritten(file, lambda content: (content.pop("format"), content.pop("epoch")))
    found = read_status(tmp_path / "r")
    assert found is not None
    assert (found.status, found.epoch) == ("FINISHED", None)

    rewritten(file, lambda content: content.update(format=STATUS_FORMAT + 1, of_later="key"))
    with pytest.raises(FormatError, match="made by a newer version"):
        read_status(tmp_path / "r")
    # One of many runs does not keep the others from being found.
    RunStatus("FINISHED", config_hash="h", run_dir=str(tmp_path / "other"), data_root="/d").write(
        tmp_path / "other"
    )
    caplog.set_level(logging.WARNING)
    assert [one.run_dir for one in find_finished("h", "/d", tmp_path / "new", [])] == [
        str(tmp_path / "other")
    ]
    assert "made by a newer version" in caplog.text


def test_sweep(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "s"
    WANTED.write(folder)
    file = folder / "sweep.json"
    assert json.loads(file.read_text())["format"] == SWEEP_FORMAT
    assert find_sweep(WANTED, tmp_path) == folder
    rewritten(file, lambda content: content.pop("format"))
    assert find_sweep(WANTED, tmp_path) == folder

    rewritten(file, lambda content: content.update(format=SWEEP_FORMAT + 1, of_later="key"))
    for read in (read_sweep, job_statuses):
        with pytest.raises(FormatError, match="made by a newer version"):
            read(folder)
    caplog.set_level(logging.WARNING)
    assert find_sweep(WANTED, tmp_path) is None
    assert "made by a newer version" in caplog.text


def test_journal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(tmp_path / "r")
    journal.acquire()
    journal.append(CREATION)
    journal.release()
    assert read_record(tmp_path / "r").name == "n"

    journal.path.unlink()
    journal.append({**CREATION, "format": JOURNAL_FORMAT + 1})
    with journal.path.open("ab") as file:
        file.write(b'{"op": "half')
    before = journal.path.read_bytes()
    for use in (journal.acquire, lambda: read_record(tmp_path / "r"), lambda: send_late(tmp_path / "r")):
        with pytest.raises(TrackingError, match="made by a newer version"):
            use()
    assert journal.path.read_bytes() == before
    assert not journal.in_use()
    caplog.set_level(logging.WARNING)
    assert run_folders([tmp_path]) == {}
    assert "made by a newer version" in caplog.text


@pytest.mark.usefixtures("tables")
def test_a_new_journal_says_its_format(tmp_path: Path) -> None:
    from reid.tracking import default_store

    with Tracker.start(default_store(tmp_path, f"sqlite:///{tmp_path}/mlflow.db"), "e", tmp_path / "r", "n"):
        assert Journal(tmp_path / "r").creation["format"] == JOURNAL_FORMAT


def test_study() -> None:
    study = optuna.create_study()
    refuse_newer(study, "s")  # of a version without numbers
    study.set_user_attr(FORMAT_KEY, STUDY_FORMAT + 1)
    with pytest.raises(FormatError, match="the study s was made by a newer version"):
        refuse_newer(study, "s")
