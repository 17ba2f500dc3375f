"""Whether a store answers, and is one that this MLflow takes: looked at without changing anything.

MLflow's own client makes the tables of a database that has none, so that a database is asked by plain SQL.
"""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, urlsplit

from reid.tracking.errors import reason
from reid.tracking.journal import JOURNAL, Journal, under_way
from reid.tracking.store import Store
from reid.tracking.uris import sqlite_file

#: Seconds that somebody else's lock is waited for.
_LOCK_S = 5.0
#: Seconds that a server may take for its version.
_ANSWER_S = 10.0
_REVISION = re.compile(r"^(down_)?revision\s*(?::[^=]*)?=\s*(.+)$", re.MULTILINE)
_START_IT = (
    "start it, or point MLFLOW_TRACKING_URI elsewhere. Runs go on without it, and python -m reid.sync sends "
    "what it has missed"
)


@dataclass(frozen=True)
class Health:
    """What a store was found to be.

    Attributes:
        kind: such as `sqlite file`; no address and no folder.
        says: what it told of itself.
        trouble: why it cannot be used, "" where it can.
        remedy: what to do then.
        doubt: what is worth knowing though it can be used.
    """

    kind: str
    says: str = ""
    trouble: str = ""
    remedy: str = ""
    doubt: str = ""


def look_at(store: Store) -> Health:
    """Ask a store for its version and a first answer. Nothing is raised for what is wrong with it."""
    if store.is_server:
        return _server(store)
    database = sqlite_file(store.uri)
    return _sqlite(database) if database is not None else _database(store)


def _sqlite(database: Path) -> Health:
    kind = "sqlite file"
    if not database.exists():
        return Health(kind, "not there yet: the first run makes it")
    started = time.monotonic()
    try:
        uri = f"file:{quote(str(database))}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=_LOCK_S)) as connection:
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
            found = connection.execute("SELECT version_num FROM alembic_version").fetchall()
            runs = connection.execute("SELECT count(*) FROM runs").fetchone()[0] if "runs" in tables else 0
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            text = f"another process holds it locked for longer than {_LOCK_S:g} seconds"
            return Health(kind, trouble=text, remedy="end the process that writes it, or let it end")
        if "no such table" in str(error):
            text = "it holds no tables of MLflow"
            return Health(kind, trouble=text, remedy="move the file away: the next run makes a new one")
        return Health(kind, trouble=f"it cannot be opened: {error}", remedy="may this user read the file?")
    except sqlite3.DatabaseError as error:
        remedy = "take a copy of it back, or move it away and send the runs anew: python -m reid.sync --again"
        return Health(kind, trouble=f"it is damaged: {error}", remedy=remedy)
    says = f"runs: {runs:,}, answers in {time.monotonic() - started:.1f} s"
    return _judged(kind, says, [str(row[0]) for row in found], "sqlite:///<the file>")


def _database(store: Store) -> Health:
    """A database server, by SQLAlchemy."""
    kind = re.split(r"[+:]", store.uri)[0]
    try:
        store._probe()
    except ConnectionError:
        return Health(kind, trouble="nothing listens at its address", remedy=_START_IT)
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import ProgrammingError, SQLAlchemyError
    from sqlalchemy.pool import NullPool

    options = {"connect_timeout": int(_LOCK_S)} if kind in ("postgresql", "mysql") else {}
    started = time.monotonic()
    try:
        engine = create_engine(store.uri, poolclass=NullPool, connect_args=options)
        with engine.connect() as connection:
            server = ".".join(map(str, connection.dialect.server_version_info or ()))
            found = [
                str(row[0]) for row in connection.execute(text("SELECT version_num FROM alembic_version"))
            ]
            runs = connection.execute(text("SELECT count(*) FROM runs")).scalar_one()
    except ModuleNotFoundError as error:
        name = str(error.name)
        return Health(kind, trouble=f"its driver {name} is not installed", remedy=f"pip install {name}")
    except ProgrammingError:
        text_ = "the database holds no tables of MLflow that this user may read"
        return Health(kind, trouble=text_, remedy="the first run makes them, if this user may make tables")
    except SQLAlchemyError as error:
        said = reason(error)
        if re.search(r"authentication|password|access denied|no pg_hba|role .* does not exist", said, re.I):
            text_ = "it refuses the user or the password"
            return Health(
                kind, trouble=text_, remedy="see to the user and the password in MLFLOW_TRACKING_URI"
            )
        return Health(kind, trouble=f"it does not answer: {said}", remedy=_START_IT)
    says = f"version {server}, runs: {runs:,}, answers in {time.monotonic() - started:.1f} s"
    return _judged(kind, says, found, "<its URI>")


def _judged(kind: str, says: str, found: list[str], uri: str) -> Health:
    """What follows from the revision of the tables that a database holds."""
    chain = revisions()
    mlflow = version("mlflow")
    if len(found) != 1:
        text = f"{len(found)} revisions of its tables are written down, expected one"
        return Health(kind, says, text, "take a copy of it back")
    if found[0] == chain[-1]:
        return Health(kind, f"{says}; its tables are those of MLflow {mlflow}")
    if found[0] in chain:
        behind = len(chain) - 1 - chain.index(found[0])
        changes = "one change" if behind == 1 else f"{behind} changes"
        return Health(
            kind, says, f"its tables are {changes} behind those of MLflow {mlflow}, which refuses them",
            f"end all that writes it and copy it, then: mlflow db upgrade {uri}",
        )  # fmt: skip
    return Health(
        kind, says, f"a newer MLflow than {mlflow} made its tables, which this one does not know",
        "install the MLflow that made them, or use another store",
    )  # fmt: skip


def revisions() -> list[str]:
    """The revisions of the tables of the installed MLflow, the first one first.

    They are read from its files: to import MLflow takes seconds.
    """
    spec = find_spec("mlflow")
    places = list(spec.submodule_search_locations or ()) if spec else []
    before: dict[str, str] = {}
    for file in Path(places[0], "store", "db_migrations", "versions").glob("*.py") if places else ():
        words = {bool(down): value for down, value in _REVISION.findall(file.read_text(encoding="utf-8"))}
        own, down = (re.findall(r"['\"](\w+)['\"]", words.get(key, "")) for key in (False, True))
        if own:
            before[own[0]] = down[0] if down else ""
    after = {down: own for own, down in before.items()}
    chain = [after[""]]
    while chain[-1] in after:
        chain.append(after[chain[-1]])
    return chain


def _server(store: Store) -> Health:
    """A server of MLflow, with the credentials that the client takes from the environment."""
    address = urlsplit(store.uri)
    here = address.hostname in ("localhost", "127.0.0.1", "::1")
    kind = f"MLflow server ({address.scheme}, {'on this machine' if here else 'on another machine'})"
    try:
        port = address.port or (443 if address.scheme == "https" else 80)
        socket.create_connection((address.hostname or "", port), timeout=_LOCK_S).close()
    except (OSError, ValueError) as error:
        name = (
            "its name is not known"
            if isinstance(error, socket.gaierror)
            else "nothing listens at its address"
        )
        return Health(kind, trouble=name, remedy=_START_IT)
    try:
        # First, since it sets what MLflow reads when it is imported.
        client = store.client
        from mlflow.utils.rest_utils import http_request

        started = time.monotonic()
        creds = client._tracking_client.store.get_host_creds()
        answer = http_request(creds, "/version", "GET", max_retries=0, timeout=_ANSWER_S)
        found = str(answer.text).strip() if answer.status_code == 200 else ""
        client.search_experiments(max_results=1)
        seconds = time.monotonic() - started
    except Exception as error:  # networks, proxies and MLflow all have their own
        return _refused(kind, error)
    if not re.fullmatch(r"\d+\.\d+\S*", found):
        return Health(kind, f"answers in {seconds:.1f} s, and does not say its version")
    doubt = ""
    if found.partition(".")[0] != version("mlflow").partition(".")[0]:
        doubt = f"the client here is {version('mlflow')}"
    return Health(kind, f"version {found}, answers in {seconds:.1f} s", doubt=doubt)


def _refused(kind: str, error: Exception) -> Health:
    """What is wrong with a server that listens."""
    said = reason(error)
    if "401" in said or "not authenticated" in said.lower():
        given = (
            "those that are set are wrong" if os.environ.get("MLFLOW_TRACKING_USERNAME") else "none are set"
        )
        return Health(
            kind, trouble=f"it wants a name and a password, and {given}",
            remedy="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        )  # fmt: skip
    if "403" in said or "PERMISSION_DENIED" in said:
        text = "it knows this user, who may not read its experiments"
        return Health(kind, trouble=text, remedy="ask its administrator for a right")
    if re.search(r"timed? ?out", said, re.IGNORECASE):
        return Health(kind, trouble="it listens and does not answer in time", remedy="restart it")
    if "404" in said or "JSON" in said or "<html" in said.lower() or "<!doctype" in said.lower():
        text = "what answers at its address is no MLflow server"
        return Health(kind, trouble=text, remedy="see to the port and the path in MLFLOW_TRACKING_URI")
    return Health(kind, trouble=f"it fails: {said}", remedy="see what the server has logged")


@dataclass(frozen=True)
class Journals:
    """The runs on disk: how many there are, how many a store has not wholly got, how many go on now."""

    runs: int
    waiting: int
    under_way: int


def journals(roots: Iterable[Path]) -> Journals:
    """Count the runs whose journals lie at or below these folders; links are not followed."""
    runs = waiting = going = 0
    for root in roots:
        for place, _, files in os.walk(root):
            if JOURNAL not in files:
                continue
            runs += 1
            journal = Journal(Path(place))
            sent = journal.sent()
            if next(journal.read(sent.offset if sent else 0), None) is None:
                continue
            # Looking for its lock would make the file.
            if "journal.lock" in files and under_way(Path(place)):
                going += 1
            else:
                waiting += 1
    return Journals(runs, waiting, going)
