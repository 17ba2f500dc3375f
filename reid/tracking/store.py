"""Where runs are kept: one MLflow store, reached by its absolute URI."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from reid.locks import FileLock
from reid.tracking.errors import TrackingError, how_to_restore, reason, without_password
from reid.tracking.moved import bring_artifacts_along
from reid.tracking.schema import Upgrade, refuse_other_schema, upgrade
from reid.tracking.uris import folder_uri, sqlite_file, sqlite_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

# Read by MLflow at each request. A value that the user has set stays.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # MLflow's own 7 retries of 120 s would hold the training loop for minutes; the journal retries instead.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
}
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_PROBE_S = 1.0
#: The folder of artifacts beside a sqlite file.
ARTIFACTS = "mlartifacts"
# Creating the tables of a fresh database takes seconds, on a busy machine tens of them.
_FIRST_USE_TIMEOUT_S = 180.0


@dataclass(frozen=True)
class Store:
    """An MLflow tracking store.

    uri: `sqlite:////absolute/mlflow.db` (see `sqlite_uri`), another SQLAlchemy URI, or `http(s)://server:port`.
    artifact_root: absolute folder for the artifacts of experiments created here; None for a server, which
    has its own. Without it MLflow would put them into the working directory.
    """

    uri: str
    artifact_root: Path | None = None

    @property
    def is_server(self) -> bool:
        return self.uri.startswith(("http://", "https://"))

    @property
    def public_uri(self) -> str:
        """The URI without its password, for journals and messages."""
        return without_password(self.uri)

    @property
    def is_unwritten(self) -> bool:
        """Whether this is a sqlite file that is not there yet: reading should not create it."""
        database = sqlite_file(self.uri)
        return database is not None and not database.exists()

    @cached_property
    def client(self) -> MlflowClient:
        """The MLflow client. The first use of a fresh database creates its tables, one process at a time.

        Raises whatever MLflow raises when the store cannot be reached; the next access tries again. Raises
        TrackingError for a database of another version of MLflow.
        """
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        # Left over from another tool, it would make MLflow reopen that tool's run (mlflow#15713).
        os.environ.pop("MLFLOW_RUN_ID", None)
        self.refuse_other_schema()
        from mlflow import MlflowClient
        from mlflow.store.db import utils

        # As for HTTP above: its own 10 attempts would take 100 s.
        utils.MAX_RETRY_COUNT = 1
        for chatty in ("mlflow", "alembic"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        with self._first_use():
            self._make_database()
            client = MlflowClient(tracking_uri=self.uri)
            if not self.is_server:
                client.search_experiments(max_results=1)
            database = sqlite_file(self.uri)
            if self.artifact_root is not None and database is not None:
                bring_artifacts_along(database, self.artifact_root)
        return client

    def refuse_other_schema(self) -> None:
        """Raise TrackingError for a database whose tables another version of MLflow has made; change nothing.

        Raises what the database raises when it cannot be reached.
        """
        if not self.is_server:
            self._probe()
            refuse_other_schema(self.uri, self.public_uri)

    def upgrade(self, copied: bool = False) -> Upgrade | None:
        """Bring the tables of an older MLflow up to date; None where they are. A sqlite file is copied first.

        copied: somebody has made a copy of another database.
        Raises TrackingError where that must not be done, and for a server.
        """
        if self.is_server:
            raise TrackingError(
                f"{self.public_uri} is a server: who runs it upgrades its database, by the same command with "
                "--uri <database>, while the server is stopped"
            )
        try:
            self._probe()
            with self._first_use():
                return upgrade(self.uri, self.public_uri, copied)
        except TrackingError:
            raise
        except Exception as error:
            raise TrackingError(
                f"the tables of {self.public_uri} could not be brought up to date: {reason(error)}"
            ) from error

    def _probe(self) -> None:
        """Raise ConnectionError where nothing listens at the address of a database server."""
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError

        try:
            parts = make_url(self.uri)  # a password may hold what ends a host elsewhere: # and /
        except (ArgumentError, ValueError):  # MLflow says what is wrong with it
            return
        port = next((port for name, port in _PORTS.items() if parts.drivername.startswith(name)), None)
        if port is None or not parts.host:  # a file, a server of MLflow, a socket of this machine
            return
        address = parts.host, parts.port or port
        try:
            socket.create_connection(address, timeout=_PROBE_S).close()
        except OSError as error:
            raise ConnectionError(f"no database answers at {address[0]}:{address[1]} ({error})") from error

    def prepare(self, experiment: str) -> str:
        """Create the store's tables and the experiment where they are missing; return the experiment's id.

        Any number of processes may call it together (MLflow's own first use is a race: hydraflow#245,
        mlflow#12259). Raises what MLflow raises when the store cannot be reached, TrackingError where that
        experiment was deleted.
        """
        client = self.client
        found = client.get_experiment_by_name(experiment)
        if found is not None:
            return _active(found)
        location = None if self.artifact_root is None else folder_uri(self.artifact_root)
        with self._first_use():
            try:
                return str(client.create_experiment(experiment, artifact_location=location))
            except Exception:
                # Another process was first; any other failure leaves nothing to be found.
                found = client.get_experiment_by_name(experiment)
                if found is None:
                    raise
        return _active(found)

    def _make_database(self) -> None:
        """Make a fresh sqlite file beside its place and move it there: a kill leaves none, or a whole one.

        MLflow makes its tables in many steps, and never repairs a file that was left between two of them.
        """
        from mlflow import MlflowClient

        database = sqlite_file(self.uri)
        if database is None or database.exists():
            return
        partial = database.with_name(f"{database.name}.partial")
        for left_over in (partial, partial.with_name(f"{partial.name}-journal")):
            left_over.unlink(missing_ok=True)
        MlflowClient(tracking_uri=sqlite_uri(partial)).search_experiments(max_results=1)
        partial.replace(database)

    def _first_use(self) -> AbstractContextManager[object]:
        if self.artifact_root is None:
            return nullcontext()
        folder = self.artifact_root.parent
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / "mlflow.db.lock", timeout=_FIRST_USE_TIMEOUT_S)


def _active(experiment: Experiment) -> str:
    """The id of an experiment. Raises TrackingError where somebody deleted it: it takes no run."""
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"the experiment {experiment.name!r} was deleted in MLflow. Name another one by "
            f"tracking.experiment=…. {how_to_restore('experiment', experiment.experiment_id)}"
        )
    return str(experiment.experiment_id)


def default_store(home: Path, uri: str | None = None) -> Store:
    """The store to use: `uri` where given, else `MLFLOW_TRACKING_URI`, else `mlflow.db` under `home`.

    Artifacts of a database store lie in `mlartifacts/` beside the sqlite file (other databases: under
    `home`). Raises TrackingError for a URI that MLflow cannot serve or that depends on the working directory.
    """
    home = home.resolve()
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(home / "mlflow.db")
    if uri.startswith(("http://", "https://")):
        return Store(uri.rstrip("/"))
    database = sqlite_file(uri)
    if database is not None:
        return Store(sqlite_uri(database), database.parent / ARTIFACTS)
    if re.match(r"(postgresql|mysql|mssql)(\+\w+)?://", uri):
        return Store(uri, home / ARTIFACTS)
    raise TrackingError(
        f"tracking store {uri!r} is not supported. Expected http://host:port, sqlite:////absolute/mlflow.db, "
        "or a postgresql, mysql or mssql URI (MLflow no longer serves plain folders). For the project's own "
        "store leave tracking.uri and MLFLOW_TRACKING_URI unset"
    )


def refuse_password(uri: str | None, key: str = "tracking.uri") -> None:
    """Refuse a password within the URI of a `key` that is about to become part of a config.

    Raises:
        TrackingError: configs are written into folders, runs, and checkpoints that are given away.
    """
    if uri and Store(uri).public_uri != uri:
        way = (
            "Put the whole address into the environment as MLFLOW_TRACKING_URI, or a server's name and "
            "password as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            if key == "tracking.uri"
            else "Leave it out, and put it into the environment as PGPASSWORD (MYSQL_PWD)"
        )
        raise TrackingError(
            f"{key}={Store(uri).public_uri} holds a password, which would be written into the run, its "
            f"folder and its checkpoints. {way}"
        )


def ui_command(store: Store, port: int = 5000) -> list[str]:
    """The command that opens the MLflow UI of a database store on 127.0.0.1.

    Raises TrackingError for a server, which has its UI at its own address.
    """
    if store.artifact_root is None:
        raise TrackingError(f"{store.public_uri} is a server: open that address in a browser")
    options = {
        "--backend-store-uri": store.uri,
        "--default-artifact-root": folder_uri(store.artifact_root),
        "--host": "127.0.0.1",
        "--port": str(port),
        "--workers": "1",
    }
    return [sys.executable, "-m", "mlflow", "ui", *(word for pair in options.items() for word in pair)]
