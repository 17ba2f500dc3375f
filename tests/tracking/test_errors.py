"""What a store's errors mean: in one line, with the remedy, and never with a password."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import DataError, InterfaceError, OperationalError, PendingRollbackError, SQLAlchemyError

from reid.tracking import Store, reason
from reid.tracking.deliver import _is_refusal
from reid.tracking.errors import hide_passwords


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:secret@host:5000/api failed", "http://me:***@host:5000/api failed"),
        ("postgresql://me:se/c#re:t@host/db", "postgresql://me:***@host/db"),
        ("postgresql+psycopg://me:a@b@host/db", "postgresql+psycopg://me:***@host/db"),
        ("http://host:5000 and http://host:5001/a", "http://host:5000 and http://host:5001/a"),
        ("sqlite:////home/ann@lab/mlflow.db", "sqlite:////home/ann@lab/mlflow.db"),
        ("mail ann@lab.org: http://host", "mail ann@lab.org: http://host"),
    ],
)
def test_the_password_of_an_address_is_hidden(text: str, shown: str) -> None:
    assert hide_passwords(text) == shown
    assert hide_passwords(shown) == shown


def test_a_password_of_the_environment_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "long enough")
    monkeypatch.setenv("PGPASSWORD", "db")
    assert hide_passwords("with long enough in the db") == "with *** in the db"
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "tracker")
    assert Store("http://tracker:5000").public_uri == "http://tracker:5000", "a store is known by it"


@pytest.mark.parametrize(
    "answer",
    [
        "API request to endpoint /api/2.0/mlflow/runs/create failed with error code 401 != 200. Response "
        "body: 'x'",
        "401 Client Error: UNAUTHORIZED for url: http://host/api/2.0/mlflow-artifacts/artifacts/1",
    ],
)
def test_a_refused_login_says_what_to_set(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    assert "refuses the name 'ada' with its password (401). Set MLFLOW_TRACKING_USERNAME" in reason(
        RuntimeError(answer)
    )
    assert "lets ada in, but not do this (403)" in reason(RuntimeError(answer.replace("401", "403")))
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    assert "a request without a name and a password in the environment (401)" in reason(RuntimeError(answer))


def test_a_number_is_no_refused_login() -> None:
    assert reason(RuntimeError("metric 401 is unknown\nand more")) == "metric 401 is unknown"


def answered(error: SQLAlchemyError | str, code: str) -> Exception:
    """An error as MLflow's client raises it."""
    told = RuntimeError(str(error))
    told.error_code = code  # type: ignore[attr-defined]
    return told


def test_a_value_is_refused_and_a_database_that_broke_off_is_waited_for() -> None:
    assert _is_refusal(answered("Invalid value for a param", "INVALID_PARAMETER_VALUE"))
    assert _is_refusal(answered(DataError("INSERT", {}, Exception("a NUL byte")), "BAD_REQUEST"))
    for broken in (
        OperationalError("INSERT", {}, Exception("server closed the connection")),
        InterfaceError("INSERT", {}, Exception("connection already closed")),
        PendingRollbackError("Can't reconnect until invalid transaction is rolled back", code="8s2b"),
    ):
        assert not _is_refusal(answered(broken, "BAD_REQUEST"))


def test_the_public_address_of_a_store_has_no_password() -> None:
    assert Store("postgresql://me:se/cret@host/db").public_uri == "postgresql://me:***@host/db"
