"""Stores that answer, and stores that cannot be used: each is told apart, and none is changed."""

from __future__ import annotations

import shutil
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import pytest

from reid.tracking import Store, Tracker, default_store, health
from reid.tracking.health import Health, look_at, revisions


class Server(Protocol):
    """What these tests use of the fixture in conftest.py."""

    store: Store


def of_file(path: Path) -> Health:
    """What is found of a sqlite file, which has to stay as it is."""
    before = {place: place.read_bytes() for place in path.parent.iterdir() if place.is_file()}
    found = look_at(default_store(path.parent, f"sqlite:///{path}"))
    assert {place: place.read_bytes() for place in path.parent.iterdir() if place.is_file()} == before
    return found


@pytest.fixture
def database(template_db: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(template_db, tmp_path / "mlflow.db"))


def of_revision(database: Path, revision: str) -> Health:
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    connection.close()
    return of_file(database)


def test_a_store_of_now(database: Path) -> None:
    found = of_file(database)
    assert found.trouble == ""
    assert found.says.startswith("runs: 0, answers in 0.")
    assert found.says.endswith(f"its tables are those of MLflow {version('mlflow')}")


def test_a_store_of_an_older_and_of_a_newer_mlflow(database: Path) -> None:
    found = of_revision(database, revisions()[-4])
    assert "its tables are 3 changes behind" in found.trouble
    assert "mlflow db upgrade" in found.remedy
    assert "a newer MLflow" in of_revision(database, "0123456789ab").trouble


def test_what_is_no_store(database: Path, tmp_path: Path) -> None:
    assert of_file(tmp_path / "none.db") == Health("sqlite file", "not there yet: the first run makes it")
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "empty.db").touch()
    assert of_file(tmp_path / "empty.db").trouble == "it holds no tables of MLflow"
    (tmp_path / "text.db").write_text("no database" * 100)
    assert of_file(tmp_path / "text.db").trouble.startswith("it is damaged")


def test_a_store_that_is_locked(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_LOCK_S", 0.1)
    holder = sqlite3.connect(database, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        assert "holds it locked" in look_at(default_store(database.parent, f"sqlite:///{database}")).trouble
    finally:
        holder.close()


def test_a_database_server_that_is_away() -> None:
    found = look_at(Store(f"postgresql://anna:geheim@127.0.0.1:{free_port()}/mlflow"))
    assert (found.kind, found.trouble) == ("postgresql", "nothing listens at its address")
    assert "geheim" not in str(found)


# ---- servers


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def answering(code: int, text: str) -> Iterator[Store]:
    """Something that answers every request so."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Store(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()


def test_a_server_that_is_away() -> None:
    found = look_at(Store(f"http://127.0.0.1:{free_port()}"))
    assert found.kind == "MLflow server (http, on this machine)"
    assert found.trouble == "nothing listens at its address"
    assert "reid.sync" in found.remedy


def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_ANSWER_S", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        found = look_at(Store(f"http://127.0.0.1:{silent.getsockname()[1]}"))
    assert found.trouble == "it listens and does not answer in time"


def test_a_server_that_refuses_and_one_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    with answering(401, "You are not authenticated.") as store:
        assert look_at(store).trouble == "it wants a name and a password, and none are set"
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "anna")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "geheim")
        found = look_at(store)
        assert found.trouble == "it wants a name and a password, and those that are set are wrong"
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    with answering(404, "<html>what?</html>") as store:
        assert look_at(store).trouble == "what answers at its address is no MLflow server"


@pytest.mark.slow
def test_a_server_that_answers(server: Server) -> None:
    found = look_at(server.store)
    assert (found.trouble, found.doubt) == ("", "")
    assert found.says.startswith(f"version {version('mlflow')}, answers in ")


def test_journals_are_counted(database: Path, tmp_path: Path) -> None:
    full = Store("sqlite:////dev/full", tmp_path / "mlartifacts")
    with Tracker.start(full, "e", tmp_path / "runs" / "one", "one"):
        assert health.journals([tmp_path / "runs"]) == health.Journals(1, 0, 1)
    assert health.journals([tmp_path / "runs", tmp_path / "none"]) == health.Journals(1, 1, 0)
