"""A folder whose name means something else in a URI: the store lies there, and what it holds comes back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from reid.tracking import (
    Store,
    Tracker,
    TrackingError,
    all_runs,
    default_store,
    delete_runs,
    fetch_artifact,
    send_late,
    store_of,
)
from reid.tracking.journal import JOURNAL
from reid.tracking.uris import folder_uri, local_folder, sqlite_file, sqlite_uri

ODD = ["a%20b", "why?not", "a#b", "é ü", "a%2520b", "100%", "a+b&c=d;e:f@g", "a%20b?c#d é"]


@pytest.mark.parametrize("name", ["runs", "my runs", "é", "a#b", "100%", "a:b@c"])
def test_a_path_that_means_itself_keeps_the_uri_that_it_always_had(name: str) -> None:
    assert sqlite_uri(Path(f"/x/{name}/mlflow.db")) == f"sqlite:////x/{name}/mlflow.db"


@pytest.mark.parametrize("name", ODD)
def test_a_uri_leads_back_to_its_path(name: str) -> None:
    database, folder = Path("/x", name, "mlflow.db"), Path("/x", name)
    assert sqlite_file(sqlite_uri(database)) == database
    assert make_url(sqlite_uri(database)).database == str(database)
    assert default_store(folder, sqlite_uri(database)) == Store(sqlite_uri(database), folder / "mlartifacts")
    assert local_folder(folder_uri(folder)) == folder


def test_other_uris_name_no_file() -> None:
    for uri in ("http://host:5000", "postgresql://me@host/db", "sqlite://", "sqlite:///"):
        assert sqlite_file(uri) is None
    assert local_folder("s3://bucket/a") is None
    with pytest.raises(TrackingError, match="write %3F for"):
        sqlite_file("sqlite:////x/why?not/mlflow.db")


@pytest.mark.parametrize("name", ["a%20b", "why?not", "a%20b?c#d é"])
def test_a_run_is_tracked_fetched_and_deleted_there(
    name: str, tmp_path: Path, template_db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home, elsewhere = tmp_path / "homes" / name, tmp_path / "elsewhere"
    home.mkdir(parents=True)
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    shutil.copy(template_db, home / "mlflow.db")
    store = default_store(home)
    with Tracker.start(store, "study", home / "outputs" / "one", "one") as run:
        run.metrics({"test/mAP": 0.5}, 1)
        run.text("hello", "note.txt")
    (record,) = all_runs(default_store(home, store.uri))
    assert (record.run_id, record.metrics) == (run.run_id, {"test/mAP": 0.5})
    fetched = fetch_artifact(store, str(record.run_id), "note.txt")
    assert fetched is not None
    assert fetched.read_text() == "hello"
    stored = home / "mlartifacts" / str(record.run_id) / "artifacts" / "note.txt"
    assert local_folder(record.artifacts) == stored.parent
    assert stored.read_text() == "hello"

    assert delete_runs(store, [record]).freed == len("hello")
    assert all_runs(store) == []
    assert list((home / "mlartifacts").iterdir()) == []
    # Nothing was made under the name that the folder's has in a URI.
    assert list((tmp_path / "homes").iterdir()) == [home]
    assert list(elsewhere.iterdir()) == []


def test_a_store_that_nobody_has_written_is_not_made_by_reading(tmp_path: Path) -> None:
    home = tmp_path / "a%20b?c"
    assert all_runs(default_store(home, sqlite_uri(home / "mlflow.db"))) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_journal_of_a_run_that_an_older_version_could_not_send_is_sent(
    tmp_path: Path, template_db: Path
) -> None:
    """It wrote the path into the URI as it was."""
    home = tmp_path / "a%20b?c"
    run = home / "outputs" / "one"
    Tracker.start(Store("sqlite:////dev/full", home / "mlartifacts"), "study", run, "one").finish()
    first, *rest = (run / JOURNAL).read_text().splitlines(keepends=True)
    creation = {**json.loads(first), "store": f"sqlite:///{home}/mlflow.db"}
    (run / JOURNAL).write_text(json.dumps(creation) + "\n" + "".join(rest))
    shutil.copy(template_db, home / "mlflow.db")
    assert store_of(run) == default_store(home, sqlite_uri(home / "mlflow.db"))
    assert send_late(run).delivery.left == 0
    (record,) = all_runs(store_of(run))
    assert record.name == "one"
