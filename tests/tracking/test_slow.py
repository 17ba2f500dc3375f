"""Stores that are dead, slow, or refuse one of many values: what they may cost a run, and what they get."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from reid.tracking import Store, Tracker, courier, list_runs, read_record, send_late
from reid.tracking.deliver import deliver
from reid.tracking.journal import Journal

SECONDS = 3.0


@pytest.fixture
def slow() -> Iterator[str]:
    """The address of a server that answers each request after three seconds, and does nothing."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(SECONDS)
            body = b'{"error_code": "INTERNAL_ERROR", "message": "busy"}'
            self.send_response(500)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize("password", ["p#ss", "a/b", "p[x", "p%23s"])
def test_a_password_is_not_taken_for_an_address(password: str) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        store = Store(f"postgresql://me:{password}@127.0.0.1:{port}/mlflow")
        with pytest.raises(ConnectionError, match=f"no database answers at 127.0.0.1:{port} "):
            store._probe()
        listening.listen()
        store._probe()


@pytest.mark.parametrize("scheme", ["postgresql", "mysql+pymysql"])
def test_a_dead_database_server_is_found_out_within_a_second(scheme: str, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store = Store(f"{scheme}://me:secret@127.0.0.1:{port}/mlflow", tmp_path / "mlartifacts")
    started = time.monotonic()
    with Tracker.start(store, "e", tmp_path / "run", "n") as run:
        run.metrics({"loss": 1.0}, step=1)
    assert time.monotonic() - started < 8  # MLflow alone tries for 100 s, at the start and at the end
    assert read_record(tmp_path / "run").status == "FINISHED"
    error = deliver(store, Journal(tmp_path / "run")).error
    assert str(error).startswith(f"no database answers at 127.0.0.1:{port}")


@pytest.mark.slow
def test_what_a_slow_store_costs_is_bounded_and_the_rest_is_in_the_journal(
    slow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(courier, "_ALLOWANCE_S", 0.3)
    import mlflow  # noqa: F401  # the time of its import is not that of the store

    started = time.monotonic()
    with caplog.at_level(logging.WARNING), Tracker.start(Store(slow), "e", tmp_path / "run", "n") as run:
        for step in range(1, 30):
            run.metrics({"loss": 1 / step}, step)
    # 0.3 s while it ran, as much at its end, and a tenth of its time; two requests alone would be 6 s.
    assert time.monotonic() - started < 4
    assert len([line for line in caplog.messages if "does not take this run for now" in line]) == 1
    assert len([*Journal(tmp_path / "run").read()]) == 32


def test_one_value_that_is_refused_keeps_back_no_other(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    params = {f"key{number}": number for number in range(83)}
    with Tracker.start(store, "e", tmp_path / "run", "n") as run:
        pass
    # Another program set one of them in the meantime, to something else: MLflow answers 400.
    assert run.run_id is not None
    store.client.log_param(run.run_id, "key40", "other")
    with (
        caplog.at_level(logging.WARNING),
        Tracker.start(store, "e", tmp_path / "run", "n", params=params, resume=True),
    ):
        pass
    refusals = [line for line in caplog.messages if "the tracking store refused" in line]
    assert len(refusals) == 1
    assert "params {'key40': '40'}" in refusals[0]
    (record,) = list_runs(store, "e")
    assert record.params == {key: str(value) for key, value in params.items()} | {"key40": "other"}
    assert send_late(tmp_path / "run", store).delivery.left == 0
