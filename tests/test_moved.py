"""Places that change or have odd names: a project or data that were moved, a home named `${x}`."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT, environment

from reid.engine.checkpoint import Checkpoint
from reid.engine.checkpoint_source import with_data_now
from reid.engine.rundir import (
    HALF_WRITTEN_S,
    RunStatus,
    clear_partials,
    find_finished,
    find_unfinished,
    read_status,
)
from reid.home import as_moved, for_hydra, from_hydra
from reid.sweeps.sweep_file import SweepFile, find_sweep
from reid.tracking import Store, Tracker, artifact_paths, default_store, send_late, store_of

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """A home with a finished run, a killed one, Hydra's folder that points to it, and a sweep; moves it."""
    old, new = tmp_path / "old" / "home", tmp_path / "new" / "place"

    def run(name: str, status: str, config: str) -> RunStatus:
        folder = old / name
        folder.mkdir(parents=True)
        (folder / "last.pt").write_bytes(b"x")
        (folder / "journal.jsonl").write_text("")
        root = str(old / "data" / "market")
        made = RunStatus(status, config, run_dir=str(folder), data_root=root, data_fingerprint="f", code="c")
        made.write(folder)
        return made

    (old / "data" / "market").mkdir(parents=True)
    run("outputs/finished", "FINISHED", "b")
    killed = run("outputs/killed", "RUNNING", "a")
    (old / "outputs" / "again").mkdir()
    killed.write(old / "outputs" / "again")
    first = run("multirun/sweep/0", "FINISHED", "c")
    SweepFile("reid", "c", [["c", first.data_root], ["d", first.data_root]]).write(old / "multirun" / "sweep")
    (old / "multirun" / "later" / "0").mkdir(parents=True)
    replace(first, taken_from=first.run_dir).write(old / "multirun" / "later" / "0")

    def move() -> Path:
        new.parent.mkdir()
        old.rename(new)
        monkeypatch.setenv("REID_HOME", str(new))
        return new

    return move


def test_every_status_of_a_moved_project_names_the_places_of_now(project: Callable[[], Path]) -> None:
    home = project()
    places = {
        "outputs/finished": "outputs/finished",
        "outputs/again": "outputs/killed",
        "multirun/sweep/0": "multirun/sweep/0",
        "multirun/later/0": "multirun/sweep/0",
    }
    for folder, place in places.items():
        status = read_status(home / folder)
        assert status is not None
        assert (status.run_dir, status.data_root) == (str(home / place), str(home / "data" / "market")), (
            folder
        )
        taken_from = str(home / place) if folder == "multirun/later/0" else ""
        assert status.taken_from == taken_from


def test_runs_and_sweeps_of_a_moved_project_are_found(project: Callable[[], Path]) -> None:
    home = project()
    root, roots = str(home / "data" / "market"), [home / "outputs", home / "multirun"]
    fresh = home / "outputs" / "new"
    assert find_unfinished("a", root, fresh, roots) == home / "outputs" / "killed"
    assert [Path(run.run_dir) for run in find_finished("b", root, fresh, roots)] == [
        home / "outputs/finished"
    ]
    sweep = SweepFile("reid", "c", [["c", root], ["d", root]])
    assert find_sweep(sweep, home / "multirun") == home / "multirun" / "sweep"
    # Of older code the file does not say where it lay; its cells do.
    file = home / "multirun" / "sweep" / "sweep.json"
    record = json.loads(file.read_text())
    del record["folder"]
    file.write_text(json.dumps(record))
    assert find_sweep(sweep, home / "multirun") == home / "multirun" / "sweep"


@pytest.mark.parametrize("damaged", ["{}", "[]", '{"run_dir": ', '{"run_dir": null}'])
def test_one_damaged_status_hides_no_sweep(damaged: str, project: Callable[[], Path]) -> None:
    home = project()
    folder, root = home / "multirun" / "sweep", str(home / "data" / "market")
    record = json.loads((folder / "sweep.json").read_text())
    del record["folder"]
    (folder / "sweep.json").write_text(json.dumps(record))
    (folder / "0").rename(folder / "1")
    (folder / "0").mkdir()
    (folder / "0" / "status.json").write_text(damaged)
    shown = json.loads((folder / "1" / "status.json").read_text())
    shown["run_dir"] = str(Path(shown["run_dir"]).with_name("1"))
    (folder / "1" / "status.json").write_text(json.dumps(shown))
    assert find_sweep(SweepFile("reid", "c", [["c", root], ["d", root]]), home / "multirun") == folder


def test_data_that_were_moved_are_recognised_by_their_content(project: Callable[[], Path]) -> None:
    home = project()
    roots, fresh = [home / "outputs", home / "multirun"], home / "outputs" / "new"
    assert find_unfinished("a", "/elsewhere/market", fresh, roots) is None
    assert find_unfinished("a", "/elsewhere/market", fresh, roots, fingerprint=lambda: "other") is None
    killed = find_unfinished("a", "/elsewhere/market", fresh, roots, fingerprint=lambda: "f")
    assert killed == home / "outputs" / "killed"


def test_what_is_not_there_was_not_moved(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    old, new = Path("/before/outputs/run"), tmp_path / "outputs" / "run"
    assert as_moved("/before/data", old, new) == str(tmp_path / "data")
    assert as_moved("/before/other", old, new) == "/before/other"
    assert as_moved("/data", old, new) == "/data"
    assert as_moved("/before/data", old, old) == "/before/data"


def test_the_data_of_a_checkpoint_are_those_of_now(tmp_path: Path) -> None:
    part = {"name": "market", "root": "/before/data/market"}
    meta = {"config": {"data.root": "/before/data"}, "dataset": {**part, "parts": [part]}}
    (tmp_path / "there").mkdir()
    found = with_data_now(Checkpoint({}, meta, {}), str(tmp_path)).meta["dataset"]
    assert found["root"] == found["parts"][0]["root"] == str(tmp_path / "market")
    stays = {"config": meta["config"], "dataset": {"name": "market", "root": str(tmp_path / "there")}}
    assert with_data_now(Checkpoint({}, stays, {}), "/now").meta == stays


@pytest.mark.slow
def test_artifacts_lie_below_the_project_as_it_lies_now(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    store = default_store(old, f"sqlite:///{old / 'mlflow.db'}")
    with Tracker.start(store, "e", old / "outputs" / "run", "n") as run:
        run.text("kept", "kept.txt")
    unfinished = Tracker.start(store, "e", old / "outputs" / "killed", "n")
    unfinished._journal.release()
    run_id = run.run_id
    assert run_id is not None
    sent = (old / "outputs" / "run" / "journal.sent").read_text()
    old.rename(new)

    moved = default_store(new, f"sqlite:///{new / 'mlflow.db'}")
    assert artifact_paths(moved, run_id) == ["kept.txt"]
    assert store_of(new / "outputs" / "run") == moved
    # Nothing is sent again; the run that was killed is closed where it is.
    late = send_late(new / "outputs" / "run")
    assert (late.delivery.sent, late.delivery.error) == (0, None)
    assert json.loads((new / "outputs/run/journal.sent").read_text()) == json.loads(sent) | {"uri": moved.uri}
    with Tracker.start(moved, "e", new / "outputs" / "killed", "n", resume=True) as again:
        again.text("more", "more.txt")
    assert again.run_id is not None
    assert (new / "mlartifacts" / again.run_id / "artifacts" / "more.txt").is_file()
    assert not old.exists()
    with sqlite3.connect(new / "mlflow.db") as database:
        places = [place for (place,) in database.execute("SELECT artifact_uri FROM runs")]
    assert all(place.startswith((new / "mlartifacts").as_uri()) for place in places)


@pytest.mark.slow
def test_what_was_meant_to_lie_elsewhere_stays_there(tmp_path: Path) -> None:
    home = tmp_path / "home"
    store = default_store(home, f"sqlite:///{home / 'mlflow.db'}")
    location = (tmp_path / "shared" / "artifacts").as_uri()
    store.client.create_experiment("own", artifact_location=location)
    again = Store(store.uri, store.artifact_root)
    experiment = again.client.get_experiment_by_name("own")
    assert experiment is not None
    assert experiment.artifact_location == location


def test_a_home_is_a_name_and_no_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "a${x}b"
    monkeypatch.setenv("REID_HOME", str(home))
    link = for_hydra(home / "outputs" / "run")
    assert "$" not in str(link)
    assert link.parent.parent.resolve() == home
    assert from_hydra(link) == home / "outputs" / "run"
    assert for_hydra(tmp_path / "elsewhere") == tmp_path / "elsewhere"
    monkeypatch.setenv("REID_HOME", str(tmp_path))
    assert for_hydra(tmp_path / "outputs") == tmp_path / "outputs"


@pytest.mark.slow
def test_a_sweep_runs_in_a_home_whose_name_looks_like_a_reference(
    run_command: Run, tiny: list[str], tmp_path: Path
) -> None:
    home = tmp_path / "a${x}b"
    home.mkdir()
    done = run_command("reid.train", "-m", *tiny, "epochs=1", "seed=0,1", home=home)
    assert done.returncode == 0, done.stdout + done.stderr
    statuses = [json.loads(path.read_text()) for path in sorted(home.glob("multirun/*/*/status.json"))]
    assert [status["status"] for status in statuses] == ["FINISHED", "FINISHED"]
    assert all(status["run_dir"].startswith(f"{home}/multirun") for status in statuses)
    again = run_command("reid.train", "-m", *tiny, "epochs=1", "seed=0,1", home=home)
    assert again.stdout.count("finished already") == 2, again.stdout + again.stderr


def test_what_killed_runs_left_half_written_is_removed(tmp_path: Path) -> None:
    places = {
        name: tmp_path / name / ".last.pt.77.partial" for name in ("killed", "sweep/0", "new", "under way")
    }
    for path in places.values():
        path.parent.mkdir(parents=True)
        path.write_bytes(b"half")
    for name in ("killed", "sweep/0", "under way"):
        os.utime(places[name], (time.time() - 2 * HALF_WRITTEN_S,) * 2)
    run = Tracker.start(Store("sqlite:////dev/full"), "e", tmp_path / "under way", "n")
    clear_partials([tmp_path])
    run.finish()
    assert {name for name, path in places.items() if path.exists()} == {"new", "under way"}


@pytest.mark.slow
@pytest.mark.parametrize("words", ["reid.train dataset=synthetic", "experiments.tune dataset=synthetic"])
def test_ctrl_c_while_a_command_imports_is_one_line(words: str, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", *words.split()],
        env=environment(tmp_path),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    lines = []
    for line in process.stderr:  # what is imported is told as soon as it is
        lines.append(line)
        if "numpy" in line:
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=60)
    errors = [line for line in err.splitlines() if not line.startswith("import time:")]
    assert (process.returncode, out, errors) == (130, "", ["error: stopped by SIGINT"])


def test_the_flag_of_a_sweep_is_told_its_place(run_command: Run, tmp_path: Path) -> None:
    done = run_command("reid.train", "dataset=synthetic", "-m", "seed=0,1", home=tmp_path)
    assert done.returncode == 2
    assert "-m has to stand before the first key. Type: -m dataset=synthetic seed=0,1" in done.stderr


@pytest.mark.slow
def test_a_store_that_is_only_away_is_not_taken_for_a_moved_one(tmp_path: Path) -> None:
    """`tracking.uri` on a share that is not mounted: the project's own store of that name is another."""
    share, project = tmp_path / "share", tmp_path / "project"
    with Tracker.start(default_store(project, f"sqlite:///{project / 'mlflow.db'}"), "e", project / "a", "n"):
        pass
    (share / "mnt").mkdir(parents=True)
    store = default_store(project, f"sqlite:///{share / 'mnt' / 'mlflow.db'}")
    with Tracker.start(store, "e", project / "outputs" / "run", "n"):
        pass
    assert store_of(project / "outputs" / "run") == store
    (share / "mnt").rename(share / "elsewhere")
    (share / "mnt").mkdir()  # as the empty mount point
    assert store_of(project / "outputs" / "run").uri == store.uri
