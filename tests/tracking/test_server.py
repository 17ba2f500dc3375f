"""A real MLflow server that answers, hangs, is killed and comes back."""

from __future__ import annotations

import json
import logging
import signal
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pytest

from reid import sync
from reid.tracking import (
    Store,
    Tracker,
    children,
    delete_runs,
    fetch_checkpoint,
    fetch_registered,
    list_runs,
    model_paths,
    open_parent,
    read_record,
    register,
    replace_model,
)

pytestmark = pytest.mark.slow


class Server(Protocol):
    """What these tests use of the fixture in conftest.py."""

    uri: str
    store: Store

    def start(self) -> None: ...
    def kill(self) -> None: ...
    def signal(self, number: signal.Signals) -> None: ...


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine must not make these tests fail; the tests that time something set their own."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")


def post(server: Server, path: str, question: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{server.uri}/api/2.0/mlflow/{path}",
        json.dumps(question).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return dict(json.load(answer))


def test_an_experiment_deleted_at_a_server_is_named(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    experiment = server.store.prepare("given up")
    server.store.client.delete_experiment(experiment)
    with Tracker.start(server.store, "given up", tmp_path / "run", "one") as run:
        run.metrics({"market/mAP": 0.5}, step=1)
    assert run.run_id is None
    assert "the experiment 'given up' was deleted in MLflow" in caplog.text
    server.store.client.restore_experiment(experiment)
    assert sync.main([str(tmp_path)]) == 0
    assert [each.name for each in list_runs(server.store, "given up")] == ["one"]


def points(store: Store, run_id: str | None, name: str) -> list[tuple[int, float]]:
    assert run_id is not None
    return sorted((point.step, point.value) for point in store.client.get_metric_history(run_id, name))


def test_rest_answers_list_runs_params_and_metrics(server: Server, tmp_path: Path) -> None:
    params = {"loss.alpha": 1.2, "tricks.warmup": True}
    with Tracker.start(server.store, "rest", tmp_path / "run", "my run", params=params) as run:
        run.metrics({"market/mAP": 0.5}, step=1)
        run.metrics({"market/mAP": 0.75}, step=2)

    experiments = post(server, "experiments/search", {"max_results": 10})["experiments"]
    (experiment_id,) = [each["experiment_id"] for each in experiments if each["name"] == "rest"]
    (found,) = post(server, "runs/search", {"experiment_ids": [experiment_id]})["runs"]
    assert found["info"]["run_id"] == run.run_id
    assert (found["info"]["run_name"], found["info"]["status"]) == ("my run", "FINISHED")
    assert {each["key"]: each["value"] for each in found["data"]["params"]} == {
        "loss.alpha": "1.2",
        "tricks.warmup": "True",
    }
    assert {each["key"]: each["value"] for each in found["data"]["metrics"]} == {"market/mAP": 0.75}


def test_checkpoint_travels_through_the_server(server: Server, tmp_path: Path) -> None:
    with Tracker.start(server.store, "rest", tmp_path / "run", "n") as run:
        path = tmp_path / "run" / "checkpoints" / "model.pt"
        path.parent.mkdir()
        path.write_bytes(b"weights" * 100_000)
        run.artifact(path, "checkpoints")
    assert run.run_id is not None
    assert fetch_checkpoint(server.store, run.run_id).read_bytes() == path.read_bytes()


def test_a_model_travels_through_the_server_is_registered_and_removed(server: Server, tmp_path: Path) -> None:
    store, card = server.store, tmp_path / "run" / "model_card.md"
    with Tracker.start(store, "rest", tmp_path / "run", "n") as run:
        path = tmp_path / "run" / "model.pt"
        path.write_bytes(b"weights" * 100_000)
        card.write_text("a card")
        run.model(path, card, height=64, width=32, embedding_size=8, step=1)
    run_id = str(run.run_id)
    assert "MLmodel" in model_paths(store, run_id)
    assert fetch_checkpoint(store, run_id).read_bytes() == path.read_bytes()
    assert register(store, run_id, "served", "champion") == 1
    path.write_bytes(b"with a threshold")
    replace_model(store, run_id, path, card)
    fetched = fetch_registered(store, "models:/served@champion")
    assert fetched.read_bytes() == path.read_bytes()
    assert [each.name for each in fetched.parent.iterdir()] == ["model.pt"]
    (record,) = [each for each in list_runs(store, "rest") if each.run_id == run_id]
    record = replace(record, artifacts=store.client.get_run(run_id).info.artifact_uri)
    assert delete_runs(store, [record]).freed > len(b"with a threshold")
    assert not store.client.search_logged_models([store.prepare("rest")])


def test_hanging_server_costs_one_timeout_and_nothing_is_sent_twice(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Tracker.start(server.store, "hang", tmp_path / "run", "n") as run:
        server.signal(signal.SIGSTOP)
        try:
            monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
            started = time.monotonic()
            for step in range(1, 21):
                run.metrics({"loss": 1 / step}, step)
            assert time.monotonic() - started < 5
        finally:
            server.signal(signal.SIGCONT)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    # The server acts on the request that it was too late to answer, and gets it again.
    assert points(server.store, run.run_id, "loss") == [(step, 1 / step) for step in sorted(range(1, 21))]
    assert len(list_runs(server.store, "hang")) == 1


def test_killed_server_that_comes_back_gets_all_in_order(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One outage: in the middle of one run, from the start for a sweep, caught up with by run and by sync."""
    early = Tracker.start(server.store, "outage", tmp_path / "early", "early", params={"a": 1})
    other = Tracker.start(server.store, "outage", tmp_path / "other", "other")
    early.metrics({"loss": 1.0}, step=1)
    server.kill()

    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        for epoch in range(2, 100):
            early.metrics({"loss": 1 / epoch}, step=epoch)
        early.text("kept", "kept.txt")
        other.metrics({"loss": 3.0}, step=1)
    assert len(caplog.records) == 2, "one warning a run"
    early.finish()
    sweep = tmp_path / "sweep"
    with open_parent(server.store, "outage", sweep, "sweep") as parent:
        with Tracker.start(server.store, "outage", sweep / "0", "job 0", parent=sweep) as job:
            job.metrics({"mAP": 0.5}, step=1)
        with pytest.raises(ValueError, match="bad"):  # noqa: SIM117
            with Tracker.start(server.store, "outage", sweep / "1", "job 1", parent=sweep):
                raise ValueError("bad")
    assert time.monotonic() - started < 10
    assert parent.run_id is None
    assert read_record(tmp_path / "early").metrics == {"loss": 1 / 99}
    assert sync.main([str(tmp_path / "sweep")]) == 1

    server.start()
    monkeypatch.setattr(other, "_retry_at", 0.0)  # half a minute later
    other.metrics({"loss": 2.0}, step=2)
    assert points(server.store, other.run_id, "loss") == [(1, 3.0), (2, 2.0)]
    other.finish()

    # The jobs alone: their parent is created for them, once.
    assert sync.main([str(sweep / "1"), str(sweep / "0")]) == 0
    assert sync.main([str(tmp_path)]) == 0
    assert sync.main([str(tmp_path)]) == 0
    records = {record.name: record for record in list_runs(server.store, "outage")}
    assert len(list_runs(server.store, "outage")) == len(records) == 5
    assert points(server.store, early.run_id, "loss") == [(epoch, 1 / epoch) for epoch in range(1, 100)]
    statuses = {name: record.status for name, record in records.items()}
    finished = dict.fromkeys(("early", "other", "sweep", "job 0"), "FINISHED")
    assert statuses == {**finished, "job 1": "FAILED"}
    assert records["job 1"].tags["reid.error"] == "ValueError: bad"
    assert parent.run_id is not None
    assert {child.name for child in children(server.store, parent.run_id)} == {"job 0", "job 1"}
    journal_times = {
        operation["step"]: operation["time"]
        for operation in map(json.loads, (tmp_path / "early" / "journal.jsonl").read_text().splitlines())
        if operation["op"] == "metrics"
    }
    assert early.run_id is not None
    stored = server.store.client.get_metric_history(early.run_id, "loss")
    assert {point.step: point.timestamp for point in stored} == journal_times
