"""The commands against a real server with users on a real PostgreSQL: alone, five people at once, and killed.

What takes seconds is in tests/tracking/test_team_server.py, and part of every run of the tests.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import psutil
import pytest
from conftest import ROOT, TINY, Starter, environment
from running import Forked
from team import as_user, holds, needs_postgres, pair_folder, running_pair

from experiments.server.pair import STUDIES, Pair
from experiments.server.processes import free_port
from reid import sync
from reid.tracking import (
    JOURNAL,
    Store,
    Tracker,
    children,
    fetch_checkpoint,
    list_runs,
    read_record,
)

#: Seconds for a command; several run at once.
PATIENCE_S = 900.0


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with running_pair() as pair:
        yield pair


@pytest.fixture
def store(pair: Pair) -> Iterator[Store]:
    """The store as the administrator reaches it."""
    with as_user({**pair.variables(), "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}):
        yield Store(pair.uri)


def end(command: Forked, code: int = 0) -> str:
    """What a command printed that ended with this code; of wrong usage what it complained of."""
    out, err = command.communicate(PATIENCE_S)
    assert command.returncode == code, f"{command.returncode}\n{out}\n{err}"
    assert "Traceback" not in out + err
    return err if code == 2 else out


def folder_of(home: Path, name: str) -> Path:
    (found,) = (home / name).glob(f"*/{JOURNAL}")
    return found.parent


def sent(folder: Path) -> str:
    """The id of the run in a folder."""
    record = read_record(folder)
    assert record.run_id is not None
    return record.run_id


def sha(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def assert_all_arrived(store: Store, folder: Path) -> None:
    """The run in `folder` is in the store with every point of every metric, its status and its model."""
    run_id = sent(folder)
    journalled: dict[str, list[tuple[int, float]]] = {}
    for operation in map(json.loads, (folder / JOURNAL).read_text().splitlines()):
        if operation["op"] == "metrics":
            for name, value in operation["values"].items():
                journalled.setdefault(name, []).append((operation["step"], value))
    assert journalled
    for name, points in journalled.items():
        stored = store.client.get_metric_history(run_id, name)
        assert sorted((point.step, point.value) for point in stored) == sorted(points), name
    assert store.client.get_run(run_id).info.status == "FINISHED"
    assert sha(fetch_checkpoint(store, run_id)) == sha(folder / "model.pt")


def test_every_command_works_at_the_server(
    pair: Pair, store: Store, tiny_data: Path, start_command: Starter, tmp_path: Path
) -> None:
    variables, words = pair.variables(), [*TINY, f"data.root={tiny_data}", "epochs=1"]
    home, other = tmp_path / "home", tmp_path / "other"
    home.mkdir()
    other.mkdir()

    def command(module: str, *more: str, at: Path = home, code: int = 0) -> str:
        return end(start_command(module, *more, home=at, variables=variables), code)

    command("reid.train", *words, "tracking.experiment=team")
    run = folder_of(home, "outputs")
    assert_all_arrived(store, run)
    command(
        "reid.train", "-m", *words, "loss.alpha=1.2,1.4,1.6", "tracking.experiment=team",
        "hydra/launcher=joblib", "hydra.launcher.n_jobs=2",
    )  # fmt: skip
    sweep = folder_of(home, "multirun")
    for job in "012":
        assert_all_arrived(store, sweep / job)
    parent = sent(sweep)
    assert {child.run_id for child in children(store, parent)} == {sent(sweep / job) for job in "012"}

    listed = json.loads(command("reid.runs", "list", "--json", at=other))
    assert {row["run_id"]: row["parent"] for row in listed if row["experiment"] == "team"} == {
        sent(run): None,
        parent: None,
        **{sent(sweep / job): parent for job in "012"},
    }
    assert f"checkpoint={sent(run)}" in command("reid.runs", "show", sent(run)[:12], at=other)
    shown = command("reid.runs", "show", parent[:12], at=other)
    assert "3 children" in shown
    compared = command("reid.runs", "compare", sent(sweep / "0"), sent(sweep / "1"), at=other)
    assert "loss.alpha" in compared
    report = command("reid.report", f"runs={parent}", at=other)
    assert "loss.alpha" in report
    # From another home, with nothing of the run but its id.
    command("reid.evaluate", f"checkpoint={sent(run)}", f"data.root={tiny_data}", "device=cpu", at=other)
    judged = read_record(folder_of(other, "outputs"))
    assert judged.status == "FINISHED"
    assert judged.metrics["test/mAP"] == pytest.approx(read_record(run).metrics["test/mAP"], abs=1e-6)
    command("reid.runs", "delete", parent, "--yes", at=other)
    assert {record.run_id for record in list_runs(store, "team")} & {parent, sent(sweep / "0")} == set()
    assert not [*holds(home, pair.password), *holds(other, pair.password)]


def test_two_processes_share_a_study_in_postgres(
    pair: Pair, tiny_data: Path, start_command: Starter, tmp_path: Path
) -> None:
    variables = {**pair.variables(), **pair.database_variables()}
    storage = pair.database.uri(STUDIES)
    words = [
        *TINY, f"data.root={tiny_data}", "epochs=1", "eval.period=1", "eval.val_identities=4",
        "study=alpha_margin", "study.trials=4", "study.jobs=2", "study.startup=4", "study.name=shared",
        f"study.storage={storage}",
    ]  # fmt: skip
    end(start_command("experiments.tune", *words, home=tmp_path, variables=variables))
    with as_user(pair.database_variables()):
        study = optuna.load_study(study_name="shared", storage=storage)
        assert len(study.get_trials(states=[optuna.trial.TrialState.COMPLETE])) == 4
    assert not (tmp_path / "optuna.db").exists()
    assert len(list((tmp_path / "multirun" / "shared" / "workers").iterdir())) == 2
    for secret in (pair.password, *pair.database_variables().values()):
        assert not holds(tmp_path, secret)
    refused = [word.replace("reid@", "reid:mypassword@") for word in words]
    said = end(start_command("experiments.tune", *refused, home=tmp_path, variables=variables), 2)
    assert "PGPASSWORD" in said
    assert "mypassword" not in said
    assert not holds(tmp_path, "mypassword")


@pytest.mark.parametrize("killed", ["server", "database"])
def test_a_training_outlives_what_is_killed(
    pair: Pair, store: Store, tiny_data: Path, start_command: Starter, tmp_path: Path, killed: str
) -> None:
    part = pair.server if killed == "server" else pair.database
    words = [*TINY, f"data.root={tiny_data}", "epochs=4", f"tracking.experiment=outlived {killed}"]
    training = start_command("reid.train", *words, home=tmp_path, variables=pair.variables())
    while not list(tmp_path.glob(f"outputs/*/{JOURNAL}")) or not _tracked(tmp_path):
        assert training.poll() is None, training.communicate()
        time.sleep(0.02)
    part.kill()
    try:
        end(training)
    finally:
        part.start()
    run = folder_of(tmp_path, "outputs")
    assert "does not take this run for now" in "".join(training.communicate())
    assert sync.main([str(run)]) == 0
    assert_all_arrived(store, run)
    assert len(list_runs(store, f"outlived {killed}")) == 1


def _tracked(home: Path) -> bool:
    return any('"metrics"' in path.read_text() for path in home.glob(f"outputs/*/{JOURNAL}"))


def test_a_restart_in_the_midst_of_an_artifact_loses_nothing(
    pair: Pair, store: Store, tmp_path: Path
) -> None:
    with Tracker.start(store, "cut off", tmp_path / "run", "n") as run:
        run.metrics({"loss": 1.0}, step=1)
        large = tmp_path / "run" / "large.bin"
        large.write_bytes(os.urandom(1 << 20) * 400)
        struck = threading.Event()

        def strike() -> None:
            # As soon as some of it lies in its place.
            while not any(path.stat().st_size for path in pair.folder.rglob("large.bin")):
                time.sleep(0.001)
            pair.server.kill()
            struck.set()

        threading.Thread(target=strike, daemon=True).start()
        run.artifact(large)
    assert struck.wait(60)
    assert sync.main([str(tmp_path / "run")]) == 1
    pair.server.start()
    assert sync.main([str(tmp_path / "run")]) == 0
    fetched = Path(store.client.download_artifacts(str(run.run_id), "large.bin"))
    assert sha(fetched) == sha(large)
    (record,) = list_runs(store, "cut off")
    assert (record.status, record.metrics) == ("FINISHED", {"loss": 1.0})


def test_five_people_at_once_lose_and_mix_nothing(
    pair: Pair, store: Store, tiny_data: Path, start_command: Starter, tmp_path: Path
) -> None:
    store.prepare("everybody")
    names = ("ada", "bo", "cho", "dee", "eli")
    sweeps = {}
    for number, name in enumerate(names):
        home = tmp_path / name
        home.mkdir()
        words = [*TINY, f"data.root={tiny_data}", "epochs=2", "loss.alpha=1.2,1.4", f"seed={number}"]
        variables = pair.variables(name, pair.add_user(name))
        sweeps[name] = start_command(
            "reid.train", "-m", *words, "tracking.experiment=everybody", home=home, variables=variables
        )
    for name in names:
        end(sweeps[name])
    for name in names:  # what a busy machine has left to be sent
        with as_user(pair.variables(name, (pair.folder / "secrets" / f"user_{name}").read_text().strip())):
            assert sync.main([str(tmp_path / name)]) == 0
    assert len(list_runs(store, "everybody")) == 5 * 3
    models = set()
    for name in names:
        sweep = folder_of(tmp_path / name, "multirun")
        assert {child.run_id for child in children(store, sent(sweep))} == {sent(sweep / job) for job in "01"}
        for job in "01":
            assert_all_arrived(store, sweep / job)
            models.add(sha(sweep / job / "model.pt"))
    assert len(models) == 5 * 2, "each has trained its own"


# ---- the command that starts the pair


def _serve(folder: Path, port: int, database_port: int) -> subprocess.Popen[str]:
    words = ["--folder", str(folder), "--port", str(port), "--database-port", str(database_port)]
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.server", *words],
        env=environment(folder), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def _until_typed(command: subprocess.Popen[str]) -> dict[str, str]:
    """The variables that the command tells its user to type, once it serves."""
    assert command.stdout is not None
    said = ""
    for line in command.stdout:
        said += line
        if "Ctrl-C stops both" in line:
            break
    typed = dict(re.findall(r"export (MLFLOW_\w+)=(.*)", said))
    assert len(typed) == 3, said
    script = "\n".join(f"export {name}={value}" for name, value in typed.items())
    script += "\n" + "\n".join(f'echo "${name}"' for name in typed)
    echoed = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    return dict(zip(typed, echoed.stdout.splitlines(), strict=True))


def _processes_in(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if any(str(folder) in word for word in words) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_the_command_goes_on_with_its_data_and_leaves_nothing_behind(tmp_path: Path) -> None:
    needs_postgres()
    with pair_folder() as folder:
        port, database_port = free_port(), free_port()
        seen = []
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT):
            command = _serve(folder, port, database_port)
            variables = _until_typed(command)
            with as_user({**variables, "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}):
                store = Store(variables["MLFLOW_TRACKING_URI"])
                seen.append(sorted(record.name for record in list_runs(store, "kept")))
                with Tracker.start(store, "kept", tmp_path / number.name, number.name):
                    pass
                assert len(list_runs(store, "kept")) == len(seen)
            assert _processes_in(folder)
            command.send_signal(number)
            command.communicate(timeout=60)
            assert command.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 0)
            deadline = time.monotonic() + 30
            while _processes_in(folder) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert not _processes_in(folder), f"left by {number.name}"
        assert seen == [[], ["SIGTERM"], ["SIGKILL", "SIGTERM"]]
