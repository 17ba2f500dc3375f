"""Cleaning: what is listed is what goes, nothing else does, and all commands work as before."""

import json
import os
import shutil
import subprocess
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from conftest import Runner
from drawn_index import drawn, facts, rows

from reid import clean
from reid.commands import removable
from reid.commands.removable import Item, find, find_runs
from reid.engine.rundir import LAST, RunStatus
from reid.gallery import Index
from reid.locks import FileLock
from reid.sweeps.job_lock import alone
from reid.tracking.journal import Journal

HOUR_AGO = time.time() - 4000


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty home of its own, without a store."""
    monkeypatch.setenv("REID_HOME", str(tmp_path))
    monkeypatch.delenv("REID_DATA", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def run_folder(folder: Path, status: str = "FINISHED", **facts_of_it: Any) -> Path:
    """The folder of a run as it lies after `status`, with a training state and, if finished, its model."""
    folder.mkdir(parents=True)
    values = {"config_hash": "a", "data_fingerprint": "b", "code": "numbers-3", **facts_of_it}
    RunStatus(status, run_dir=str(folder), **values).write(folder)
    for name in (LAST, "model.pt") if status == "FINISHED" else (LAST,):
        with zipfile.ZipFile(folder / name, "w") as archive:  # as torch writes one
            archive.writestr("data/0", bytes(4000))
    return folder


def found(*kinds: str) -> dict[str, Item]:
    """The items by their paths from the home."""
    items, _ = find(kinds or list(clean.KINDS), removable.home() / "data" / ".store", None)
    return {str(item.paths[0].relative_to(removable.home())): item for item in items}


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def old(path: Path) -> Path:
    os.utime(path, (HOUR_AGO, HOUR_AGO))
    return path


# ---- runs


def test_only_finished_runs_lose_their_training_state(home: Path) -> None:
    run_folder(home / "outputs" / "done")
    run_folder(home / "outputs" / "stopped", "KILLED", config_hash="other")
    run_folder(home / "outputs" / "killed", "RUNNING", config_hash="third")
    (run_folder(home / "outputs" / "bare") / "model.pt").unlink()
    (run_folder(home / "outputs" / "torn") / "model.pt").write_bytes(b"PK half")
    (home / "outputs" / "unknown").mkdir()
    (home / "outputs" / "unknown" / LAST).write_bytes(b"x")
    before = files(home)
    assert {name for name, item in found("last").items() if not item.stays} == {"outputs/done/last.pt"}
    reasons = {name.split("/")[1]: item.stays for name, item in found("last").items()}
    assert reasons["stopped"] == reasons["killed"] == reasons["unknown"]
    assert "a resume needs it" in reasons["killed"]
    assert "only copy" in reasons["bare"]
    assert "only copy" in reasons["torn"]
    assert clean.main(["--only", "last"]) == 0
    assert files(home) == before
    assert clean.main(["--only", "last", "--yes"]) == 0
    assert before - files(home) == {"outputs/done/last.pt"}


def test_a_run_that_a_process_is_at_stays(home: Path) -> None:
    tracked, job = run_folder(home / "outputs" / "one"), run_folder(home / "multirun" / "a" / "0")
    journal = Journal(tracked)
    journal.append({"op": "create"})
    journal.acquire()
    try:
        with alone(job):
            assert {item.stays for item in found("last").values()} == {"its run is under way"}
    finally:
        journal.release()
    assert {item.stays for item in found("last").values()} == {""}


def test_what_begins_between_the_list_and_the_removal_stays(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = run_folder(home / "outputs" / "one"), run_folder(home / "outputs" / "two")
    (first / "journal.lock").touch()
    real = removable.find

    def then_it_begins(*arguments: Any) -> Any:
        listed = real(*arguments)
        lock.acquire()
        model = second / "model.pt"
        content = bytearray(model.read_bytes())
        content[len(content) // 2] ^= 255  # a disk that fails
        model.write_bytes(content)
        return listed

    lock = FileLock(first / "journal.lock")
    monkeypatch.setattr("reid.commands.clean.find", then_it_begins)
    assert clean.main(["--only", "last", "--yes"]) == 1
    lock.release()
    assert (first / LAST).exists()
    assert (second / LAST).exists()
    err = capsys.readouterr().err
    assert "outputs/one/last.pt: a process uses it" in err
    assert "outputs/two/last.pt: its run has no model.pt that is whole" in err


def test_stopped_cells_that_were_finished_elsewhere(home: Path) -> None:
    run_folder(home / "multirun" / "b" / "0")
    run_folder(home / "multirun" / "a" / "0", "KILLED")
    run_folder(home / "multirun" / "a" / "1", "KILLED", data_fingerprint="others")
    run_folder(home / "multirun" / "a" / "2", "KILLED", code="numbers-2")
    run_folder(home / "multirun" / "a" / "3", "KILLED", config_hash="")
    going = {name for name, item in found("cells").items() if not item.stays}
    assert going == {"multirun/a/0/last.pt"}
    assert clean.main(["--only", "cells", "--yes"]) == 0
    left = {name for name in files(home) if name.endswith(LAST)}
    assert left == {f"multirun/{name}/last.pt" for name in ("b/0", "a/1", "a/2", "a/3")}
    # Both are run folders still: a sweep that is started again finds what it found.
    assert len(find_runs(removable.roots())) == 5


def test_links_are_not_followed_out_of_the_home(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    run_folder(elsewhere / "run")
    (elsewhere / ".old.partial").touch()
    (home / "outputs").symlink_to(elsewhere)
    run_folder(home / "multirun" / "a" / "0")
    (home / "multirun" / "a" / "1").symlink_to(elsewhere / "run")
    state = home / "multirun" / "a" / "0" / LAST
    state.rename(elsewhere / "state.pt")
    state.symlink_to(elsewhere / "state.pt")
    items, notices = find(list(clean.KINDS), home / "data" / ".store", None)
    assert items == []
    assert notices == ["outputs is a link out of the project and was not looked at"]
    before = files(elsewhere)
    assert clean.main(["--yes"]) == 0
    assert files(elsewhere) == before
    assert state.is_symlink()


# ---- what killed processes leave


def test_half_written_files_go_once_nobody_can_write_them(home: Path) -> None:
    run = run_folder(home / "outputs" / "one")
    old(run / "status.json")
    for name in (".last.pt.77.partial", "journal.sent.77.tmp", f".map.png.{'a' * 32}.tmp"):
        (run / name).write_bytes(b"half")
        old(run / name)
    (run / f".x.onnx.{'b' * 32}.partial").mkdir()
    (run / f".x.onnx.{'b' * 32}.partial" / "graph").write_bytes(b"half")
    old(run / f".x.onnx.{'b' * 32}.partial" / "graph")
    old(run / f".x.onnx.{'b' * 32}.partial")
    (run / ".young.partial").write_bytes(b"half")
    (run / "mine.tmp").write_bytes(b"somebody's own")
    old(run / "mine.tmp")
    (home / "mlflow.db.partial").write_bytes(b"half")
    old(home / "mlflow.db.partial")
    items = found("partial")
    assert items["outputs/one/.young.partial"].stays.startswith("it may still be written")
    assert len([item for item in items.values() if not item.stays]) == 5
    assert clean.main(["--only", "partial", "--yes"]) == 0
    assert files(home) == {f"outputs/one/{name}" for name in (
        ".young.partial", "mine.tmp", "status.json", "last.pt", "model.pt",
    )}  # fmt: skip


def test_features_that_no_index_names(home: Path) -> None:
    folder = home / "gallery"
    index = Index.create(folder, facts())
    index.add(drawn(20), rows(20))
    assert found("index") == {}
    shutil.copy(folder / "features-000001.npy", folder / "features-000009.npy")
    assert found("index")["gallery/features-000009.npy"].stays != ""  # it is young
    old(folder / "features-000009.npy")
    assert clean.main(["--only", "index", "--yes"]) == 0
    assert not (folder / "features-000009.npy").exists()
    assert len(Index.open(folder)) == 20
    assert Index.open(folder).search(drawn(1), 3).rows.shape == (1, 3)


def test_a_folder_is_renamed_before_it_goes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill in the midst leaves what the next cleaning takes for half-written."""
    folder = home / "outputs" / "one" / "logged_model"
    folder.mkdir(parents=True)
    (folder / "MLmodel").write_text("x")

    def killed(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(removable.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        removable._remove_folder(folder)
    monkeypatch.undo()
    monkeypatch.setenv("REID_HOME", str(home))
    assert not folder.exists()
    (left,) = (home / "outputs" / "one").iterdir()
    for path in (left / "MLmodel", left):
        old(path)
    assert clean.main(["--only", "partial", "--yes"]) == 0
    assert list((home / "outputs" / "one").iterdir()) == []


# ---- the command


def test_nothing_to_clean(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert clean.main([]) == 0
    assert capsys.readouterr().out.startswith("there is nothing to clean")
    assert list(home.iterdir()) == []


def test_the_table_fits_and_says_what_is_lost(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_folder(home / "outputs" / "done")
    run_folder(home / "outputs" / "stopped", "KILLED", config_hash="other")
    assert clean.main(["--files"]) == 0
    out = capsys.readouterr().out
    assert "the run cannot be trained longer" in " ".join(out.split())
    assert "stays: the run is not finished" in " ".join(out.split())
    assert "    outputs/done/last.pt" in out
    assert "nothing went: --yes removes it" in out
    assert max(len(line) for line in out.splitlines()) <= 80
    assert clean.main(["--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {(Path(item["files"][0]).parent.name, item["can_go"]) for item in listed["items"]} == {
        ("done", True), ("stopped", False),
    }  # fmt: skip


# ---- a real home


def command(run_command: Runner, module: str, *words: str, home: Path) -> "subprocess.CompletedProcess[str]":
    done = run_command(module, *words, home=home)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_after_cleaning_everything_works_as_before(
    home: Path, run_command: Runner, tiny: list[str], tiny_data: Path, template_db: Path
) -> None:
    shutil.copy(template_db, home)
    # Its own data, with a store of decoded images in them.
    shutil.copytree(tiny_data / "synthetic", home / "data" / "synthetic")
    words = [word for word in tiny if not word.startswith("data.root")]
    words += ["epochs=1", "schedule.milestones=[]"]
    command(run_command, "reid.train", *words, "hydra.run.dir=outputs/one", home=home)
    sweep = ["-m", *words, "seed=1,2"]
    command(run_command, "reid.train", *sweep, home=home)
    listed_runs = command(run_command, "reid.runs", "list", "--json", home=home).stdout
    ids = {run["run_id"] for run in json.loads(listed_runs)}
    one = json.loads((home / "outputs" / "one" / "status.json").read_text())
    command(run_command, "reid.runs", "register", one["run_id"], "--name", "mine", home=home)
    assert len(ids) == 4

    before = files(home)
    listed = json.loads(command(run_command, "reid.clean", "--json", home=home).stdout)["items"]
    assert files(home) == before
    by_kind: dict[str, list[bool]] = {}
    for item in listed:
        by_kind.setdefault(item["kind"], []).append(item["can_go"])
    assert by_kind["last"] == [True, True, True]
    assert sorted(by_kind["copies"]) == [False, True, True]  # one is registered
    assert by_kind["logged_model"] == [True, True, True]
    assert all(by_kind["stores"])

    command(run_command, "reid.clean", "--yes", home=home)
    doomed = {name for item in listed if item["can_go"] for name in item["files"]}
    listed_files = {
        name for name in before if any((home / name).is_relative_to(place) for place in map(Path, doomed))
    }
    differing = (before - files(home)) ^ listed_files
    # Locks come and go with who takes them.
    assert [name for name in differing if not name.endswith(".lock")] == []

    # By its folder, and by the id of a run whose copy went: from the run's folder, with the same scores.
    cell = next(path for path in (home / "multirun").glob("*/0"))
    status = json.loads((cell / "status.json").read_text())
    names = ("outputs/one", one["run_id"], str(cell), status["run_id"], "models:/mine/1")
    for number, name in enumerate(names):
        folder = f"judged/{number}"
        words = [f"checkpoint={name}", "device=cpu", f"hydra.run.dir={folder}"]
        command(run_command, "reid.evaluate", *words, home=home)
        scores = json.loads((home / folder / "scores.json").read_text())["scores"]
        of_the_cell = name in (str(cell), status["run_id"])
        assert scores == (status if of_the_cell else one)["scores"]
    again = command(run_command, "reid.train", *sweep, home=home)
    assert again.stdout.count("finished already") == 2
    assert len(list((home / "multirun").iterdir())) == 1
    shown = command(run_command, "reid.runs", "list", "--json", home=home).stdout
    assert ids <= {run["run_id"] for run in json.loads(shown)}
    nothing = json.loads(command(run_command, "reid.clean", "--json", home=home).stdout)["items"]
    assert {item["kind"] for item in nothing if item["can_go"]} <= {"stores"}  # decoded anew
