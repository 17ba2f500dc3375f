"""A real server with users on a real PostgreSQL: names and passwords, rights, artifacts, what a kill "
"costs."""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from team import as_user, holds, pair_folder, running_pair

from experiments.server import postgres
from experiments.server.__main__ import main as serve
from experiments.server.mlflow_server import ServerError
from experiments.server.pair import RUNS, Pair
from experiments.server.processes import free_port
from reid import sync
from reid.runs.__main__ import main as runs
from reid.tracking import Store, Tracker, TrackingError, delete_runs, fetch_checkpoint, list_runs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with running_pair() as pair:
        yield pair


@pytest.fixture
def store(pair: Pair) -> Iterator[Store]:
    """The store as the administrator reaches it."""
    with as_user({**pair.variables(), "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}):
        yield Store(pair.uri)


def track(store: Store, folder: Path, experiment: str = "team", name: str = "n") -> Tracker:
    """A run with a param, a metric and a file of weights, which has ended."""
    with Tracker.start(store, experiment, folder, name, params={"loss.alpha": 1.2}) as run:
        run.metrics({"test/mAP": 0.5}, step=1)
        weights = folder / "checkpoints" / "model.pt"
        weights.parent.mkdir()
        weights.write_bytes(name.encode() * 1000)
        run.artifact(weights, "checkpoints")
    return run


def test_passwords_lie_in_files_of_their_owner_and_nowhere_else(
    pair: Pair, store: Store, tmp_path: Path
) -> None:
    track(store, tmp_path / "run")
    for file in (pair.folder / "secrets").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((pair.folder / "secrets").stat().st_mode) == 0o700
    holding = {path.parent.name for path in holds(pair.folder, pair.password)}
    assert holding == {"secrets"}, "the database holds a hash of it"
    assert not holds(tmp_path, pair.password)
    commands = [" ".join(each.info["cmdline"] or []) for each in psutil.process_iter(["cmdline"])]
    assert any(str(pair.folder) in command for command in commands)
    for secret in ("admin_password", "database_password", "session_key"):
        text = (pair.folder / "secrets" / secret).read_text().strip()
        assert not [command for command in commands if text in command]


def test_a_run_and_its_artifacts_travel_through_the_server(store: Store, tmp_path: Path) -> None:
    run = track(store, tmp_path / "run", "whole")
    (record,) = list_runs(store, "whole")
    assert record.status == "FINISHED"
    assert (record.params, record.metrics) == ({"loss.alpha": "1.2"}, {"test/mAP": 0.5})
    assert run.run_id is not None
    fetched = fetch_checkpoint(store, run.run_id)
    assert fetched.read_bytes() == b"n" * 1000
    assert not fetched.is_relative_to(tmp_path)


@pytest.mark.parametrize("name", ["admin", None])
def test_a_wrong_or_missing_password_costs_nothing_but_one_clear_message(
    pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    wrong = {"MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": "not-this-one"} if name else {}
    store, experiment = Store(pair.uri), f"refused {name}"
    started = time.monotonic()
    with as_user(wrong), caplog.at_level(logging.WARNING):
        track(store, tmp_path / "run", experiment)
        assert runs(["list", "--uri", pair.uri]) == 1
        assert sync.main([str(tmp_path)]) == 1
    assert time.monotonic() - started < 60
    tried = (
        "the name 'admin' with its password"
        if name
        else "a request without a name and a password in the environment"
    )
    said = capsys.readouterr()
    warnings = [record.getMessage() for record in caplog.records if "401" in record.getMessage()]
    assert len(warnings) == 1, "one warning an outage"
    for text in (warnings[0], said.err, said.out):
        assert f"refuses {tried} (401). Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in text
        assert "Traceback" not in text
        assert "not-this-one" not in text
    assert not holds(tmp_path, "not-this-one")
    with as_user(pair.variables()):
        assert sync.main([str(tmp_path)]) == 0
        (record,) = list_runs(store, experiment)
    assert (record.status, record.metrics) == ("FINISHED", {"test/mAP": 0.5})


def test_a_password_within_the_address_shows_nowhere(
    pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    address = pair.uri.replace("http://", "http://admin:{}@")
    dead = f"http://admin:mypassword@127.0.0.1:{free_port()}"
    with as_user({}):
        for store in (Store(address.format("mypassword")), Store(dead)):
            folder = tmp_path / str(len(list(tmp_path.iterdir())))
            track(store, folder)
            assert runs(["list", "--uri", store.uri]) == 1
            assert sync.main([str(folder), "--uri", store.uri]) == 1
        track(Store(address.format(pair.password)), tmp_path / "right", "within the address")
        (record,) = list_runs(Store(address.format(pair.password)), "within the address")
    assert record.status == "FINISHED"
    said = capsys.readouterr()
    for text in (said.out, said.err, caplog.text, str(record)):
        assert "mypassword" not in text
        assert pair.password not in text
    assert not [*holds(tmp_path, "mypassword"), *holds(tmp_path, pair.password)]


def test_users_share_an_experiment_and_delete_in_their_own_only(
    pair: Pair, store: Store, tmp_path: Path
) -> None:
    ada = {**pair.variables("ada", pair.add_user("ada")), "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
    track(store, tmp_path / "mine", "shared", "the administrator's")
    with as_user(ada):
        track(store, tmp_path / "ada", "shared", "ada's")
        track(store, tmp_path / "own", "of ada", "ada's own")
        records = {record.name: record for record in list_runs(store, "shared")}
        assert sorted(records) == ["ada's", "the administrator's"]
        with pytest.raises(TrackingError, match=r"lets ada in, but not do this \(403\)"):
            delete_runs(store, [records["the administrator's"]])
        assert delete_runs(store, list_runs(store, "of ada")).runs == 1
        assert list_runs(store, "of ada") == []
    assert len(list_runs(store, "shared")) == 2
    with pytest.raises(ServerError, match="did not make the user 'ada'"):
        pair.add_user("ada")


def test_postgres_that_is_killed_alone_and_comes_back_gets_all(
    pair: Pair,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = Tracker.start(store, "database away", tmp_path / "run", "n")
    run.metrics({"loss": 1.0}, step=1)
    pair.database.kill()
    for step in range(2, 30):
        run.metrics({"loss": 1 / step}, step)
    run.text("kept", "kept.txt")
    assert sync.main([str(tmp_path / "run")]) == 1, "it is under way"
    pair.database.start()
    monkeypatch.setattr(run, "_retry_at", 0.0)  # half a minute later
    run.metrics({"loss": 1 / 30}, step=30)
    run.finish()
    assert sync.main([str(tmp_path)]) == 0
    assert "the tracking store refused" not in caplog.text
    (record,) = list_runs(store, "database away")
    assert record.status == "FINISHED"
    points = store.client.get_metric_history(str(record.run_id), "loss")
    assert sorted((point.step, point.value) for point in points) == [(n, 1 / n) for n in range(1, 31)]
    assert [item.path for item in store.client.list_artifacts(str(record.run_id))] == ["kept.txt"]


def test_a_database_with_a_password_is_used_by_pgpassword(pair: Pair, tmp_path: Path) -> None:
    store = Store(pair.database.uri(RUNS), tmp_path / "mlartifacts")
    with as_user({"PGPASSWORD": "wrong-password"}), pytest.raises(TrackingError, match="PGPASSWORD") as error:
        list_runs(store, "direct")
    assert "wrong-password" not in str(error.value)
    with as_user(pair.database_variables()):
        track(store, tmp_path / "run", "direct")
        assert len(list_runs(store, "direct")) == 1


def test_the_tables_of_another_mlflow_are_named_before_the_server_changes_them(
    pair: Pair, tmp_path: Path
) -> None:
    import sqlalchemy

    store = Store(pair.database.uri(RUNS), tmp_path / "mlartifacts")
    with as_user(pair.database_variables()):
        engine = sqlalchemy.create_engine(store.uri, poolclass=sqlalchemy.pool.NullPool)
        with engine.begin() as connection:
            (now,) = connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version")).one()
            # An older revision's name: a command that changed anything would fail on what is there.
            connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = '0584bdc529eb'"))
        try:
            with pytest.raises(TrackingError, match="made by an older MLflow"):
                store.refuse_other_schema()
            with pytest.raises(TrackingError, match="pg_dump"):
                store.upgrade()
        finally:
            with engine.begin() as connection:
                back = sqlalchemy.text("UPDATE alembic_version SET version_num = :now")
                connection.execute(back, {"now": now})
        assert store.upgrade(copied=True) is None


# ---- what needs no server


def test_without_postgres_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(postgres, "_DEBIAN", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert serve(["--folder", str(tmp_path / "server"), "--port", "0", "--database-port", "0"]) == 1
    assert "apt install postgresql" in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert serve(["--folder", str(tmp_path), "--port", str(port), "--database-port", "0"]) == 1
    assert f"--port {port} on 127.0.0.1 is taken" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
def test_root_is_told_of_a_folder_that_the_other_user_may_not_enter() -> None:
    with pair_folder() as folder:
        (folder / "hidden").mkdir(mode=0o700)
        with pytest.raises(ServerError, match="may not enter"):
            Pair(folder / "hidden" / "server").start()


def test_a_name_that_is_no_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve(["--folder", str(tmp_path), "--add-user", "../ada"]) == 2
    assert serve(["--folder", str(tmp_path), "--add-user", "ada"]) == 1
    assert "Start one by: make server" in capsys.readouterr().err
