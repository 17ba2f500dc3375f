"""PostgreSQL and an MLflow server with names and passwords, which are started and stopped as a pair."""

from __future__ import annotations

import json
import os
import secrets
import urllib.error
import urllib.request
from base64 import b64encode
from importlib.util import find_spec
from pathlib import Path

from experiments.server.mlflow_server import MlflowServer, ServerError
from experiments.server.postgres import Postgres
from experiments.server.processes import free_port, write_secret
from reid.locks import FileLock, Timeout
from reid.tracking import Store

ADMINISTRATOR = "admin"
_SECRETS = "secrets"
#: The databases: MLflow's runs, its users, and the studies of experiments.tune.
RUNS, USERS, STUDIES = "mlflow", "mlflow_users", "optuna"
#: A password is checked once a minute, not at each request, since its hash is made to be slow.
#: Everybody may write into every experiment; to delete in it is left to who made it and to the administrator.
_RIGHTS = """\
[mlflow]
default_permission = EDIT
database_uri = {users}
admin_username = {administrator}
admin_password = {password}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
"""


class Pair:
    """The pair whose data lie in `folder`; a second start goes on with the same data and passwords.

    port, database_port: on 127.0.0.1; 0 for a free one. Raises ServerError where one is taken, and where a
    part is not installed.
    """

    def __init__(self, folder: Path, port: int = 0, database_port: int = 0, workers: int = 2) -> None:
        for module in ("psycopg", "flask_wtf"):
            if find_spec(module) is None:
                raise ServerError(f"{module} is not installed. Install it by: pip install '.[server]'")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._lock = FileLock(folder / "lock")
        self._secrets = folder / _SECRETS
        self._secrets.mkdir(mode=0o700, exist_ok=True)
        self.password_file = self._secrets / "admin_password"
        self.database_password_file = self._secrets / "database_password"
        self._rights = self._secrets / "users.ini"
        self.password = _secret(self.password_file)
        self._database_password = _secret(self.database_password_file)
        self._session_key = _secret(self._secrets / "session_key")
        self.database = Postgres(folder, self._database_password, _port(database_port, "--database-port"))
        self.server = MlflowServer(
            folder,
            self.database.uri(RUNS),
            _port(port, "--port"),
            options=["--app-name", "basic-auth"],
            variables={
                "PGPASSWORD": self._database_password,
                "MLFLOW_AUTH_CONFIG_PATH": str(self._rights),
                "MLFLOW_FLASK_SERVER_SECRET_KEY": self._session_key,
            },
            workers=workers,
        )

    @property
    def uri(self) -> str:
        return self.server.uri

    @property
    def port(self) -> int:
        return self.server.port

    def variables(self, name: str = ADMINISTRATOR, password: str | None = None) -> dict[str, str]:
        """What points the suite at the server as the user `name`."""
        return {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_TRACKING_USERNAME": name,
            "MLFLOW_TRACKING_PASSWORD": self.password if password is None else password,
        }

    def database_variables(self) -> dict[str, str]:
        """What lets libpq, and so MLflow, Optuna and pg_dump, into the cluster."""
        return {"PGPASSWORD": self._database_password}

    def start(self) -> None:
        """Return when both answer. Raises ServerError where they do not."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ServerError(f"another process serves {self.folder} already: end it first") from error
        try:
            self.database.start()
            for name in (RUNS, USERS, STUDIES):
                self.database.make_database(name)
            self._refuse_other_schema()
            self._write_rights()
            self.server.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop both in good order, the server first."""
        self.server.stop()
        self.database.stop()
        self._lock.release()

    def add_user(self, name: str) -> str:
        """Make a user; their password. Raises ServerError where the server refuses the name."""
        return add_user(self.uri, self.folder, name).read_text().strip()

    def _write_rights(self) -> None:
        rights = _RIGHTS.format(
            users=self.database.uri(USERS), administrator=ADMINISTRATOR, password=self.password
        )
        write_secret(self._rights, rights)

    def _refuse_other_schema(self) -> None:
        """MLflow's server would bring the tables of an older version up to date without a word."""
        before = os.environ.get("PGPASSWORD")
        os.environ["PGPASSWORD"] = self._database_password
        try:
            Store(self.database.uri(RUNS)).refuse_other_schema()
        finally:
            if before is None:
                del os.environ["PGPASSWORD"]
            else:
                os.environ["PGPASSWORD"] = before


def add_user(uri: str, folder: Path, name: str) -> Path:
    """Have the server at `uri`, whose data lie in `folder`, make a user; the file that holds their password.

    Raises ServerError where it refuses.
    """
    administrator = folder / _SECRETS / "admin_password"
    if not administrator.exists():
        raise ServerError(f"there is no server in {folder}. Start one by: make server")
    place = folder / _SECRETS / f"user_{name}"
    known = place.exists()
    login = f"{ADMINISTRATOR}:{administrator.read_text().strip()}"
    request = urllib.request.Request(
        f"{uri}/api/2.0/mlflow/users/create",
        json.dumps({"username": name, "password": _secret(place)}).encode(),
        {
            "Content-Type": "application/json",
            "Authorization": f"Basic {b64encode(login.encode()).decode()}",
        },
    )
    try:
        urllib.request.urlopen(request, timeout=60).close()
    except urllib.error.HTTPError as error:
        if not known:
            place.unlink()
        try:
            why = json.load(error)["message"]
        except (ValueError, KeyError, TypeError):
            why = str(error)
        raise ServerError(f"{uri} did not make the user {name!r}: {why}") from error
    except OSError as error:  # the password is kept: the server may have got it, and its answer got lost
        raise ServerError(f"no server answers at {uri} ({error}). Start it by: make server") from error
    return place


def _secret(place: Path) -> str:
    """The random text in a file that only its owner reads, made where there is none."""
    if not place.exists():
        write_secret(place, secrets.token_urlsafe(24))
    return place.read_text().strip()


def _port(port: int, option: str) -> int:
    try:
        return free_port(port)
    except OSError as error:
        raise ServerError(
            f"{option} {port} on 127.0.0.1 is taken ({error.strerror}). Name another one"
        ) from error
