"""The tables of a database store: made by this version of MLflow, or by another one, and brought up to date.

MLflow writes the revision of its tables into the database. Opened by a later version it brings some older
ones up to date without a word, and there is no way back; so the revision is read first, without MLflow's
own store.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from reid.tracking.errors import TrackingError
from reid.tracking.uris import sqlite_file, sqlite_uri

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

_REVISION = "SELECT version_num FROM alembic_version"
#: A table that MLflow has had from its first version on, which kept no revision.
_FIRST_TABLE = "experiments"
_WAIT_S = 20.0


@dataclass(frozen=True)
class Upgrade:
    """before, after: revisions of the tables. copy: the file as it was before; None for another database."""

    before: str
    after: str
    copy: Path | None


def refuse_other_schema(uri: str, public_uri: str) -> None:
    """Return for a database with the tables of this MLflow, and for one that has none yet; change nothing.

    public_uri: the same without a password, for the message.
    Raises TrackingError where another version of MLflow has made the tables, and what the database raises.
    """
    found = _found_revision(uri)
    if found is None:
        return
    scripts = _scripts()
    expected = scripts.get_current_head()
    if found == expected:
        return
    version = _mlflow_version()
    if not _is_older(scripts, found):
        raise TrackingError(
            f"the tables of {public_uri} (revision {found}) are unknown to MLflow {version}, which is "
            f"installed here and knows them up to {expected}. A later MLflow has made them, or another "
            "program. Nothing was changed. Install the version that the others use (pip install -U mlflow), "
            "or name another store"
        )
    raise TrackingError(
        f"the tables of {public_uri} (revision {found or 'of the first versions'}) were made by an older "
        f"MLflow; {version} is installed here and needs {expected}. Nothing was changed. Once nobody else "
        f"uses the store: python -m reid.ui --upgrade --uri {public_uri} makes a copy and brings them up to "
        "date, after which the older MLflow cannot open it any more"
    )


def upgrade(uri: str, public_uri: str, copied: bool = False) -> Upgrade | None:
    """Bring the tables up to date; None where they are. A sqlite file is copied first, and is changed at
    once.

    copied: somebody has made a copy of another database.
    Raises TrackingError where somebody uses the file, or the database was not copied, and for tables of a
    later MLflow.
    """
    found = _found_revision(uri)
    scripts = _scripts()
    expected = str(scripts.get_current_head())
    if found is None or found == expected:
        return None
    if not _is_older(scripts, found):
        refuse_other_schema(uri, public_uri)
    database = sqlite_file(uri)
    if database is None:
        if not copied:
            raise TrackingError(
                f"the tables of {public_uri} were not changed, since this cannot be undone: make a copy "
                "first (PostgreSQL: pg_dump --format=custom --file=before.dump <database>), have everybody "
                "stop, and type the same with --copied"
            )
        _migrate(uri)
        return Upgrade(found, expected, None)
    with _unused(database):
        copy = _copy(database, f"{database.name}.before-{expected}")
        partial = database.with_name(f"{database.name}.upgrading")
        partial.unlink(missing_ok=True)
        _copy(database, partial.name)
        _migrate(sqlite_uri(partial))
        os.replace(partial, database)  # a kill until here leaves the store as it was
    return Upgrade(found, expected, copy)


def _found_revision(uri: str) -> str | None:
    """The revision that the database says; None where there are no tables yet, or somebody is making them."""
    database = sqlite_file(uri)
    if database is None:
        return _revision_at_server(uri)
    if not database.exists():
        return None
    # Opened for reading it could not be put right where the process that wrote it was killed.
    with closing(sqlite3.connect(database, timeout=_WAIT_S)) as file:
        tables = {name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if _FIRST_TABLE not in tables:
            return None
        rows = file.execute(_REVISION).fetchall() if "alembic_version" in tables else []
    return str(rows[0][0]) if rows else ""


def _revision_at_server(uri: str) -> str | None:
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool)
    with engine.connect() as connection:
        # MLflow makes its first tables before this one.
        if not sqlalchemy.inspect(connection).has_table("alembic_version"):
            return None
        row = connection.execute(sqlalchemy.text(_REVISION)).first()
    return str(row[0]) if row else None


def _scripts() -> ScriptDirectory:
    """The steps from revision to revision that this MLflow knows."""
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config

    return ScriptDirectory.from_config(_get_alembic_config(""))


def _is_older(scripts: ScriptDirectory, found: str) -> bool:
    known = {script.revision for script in scripts.walk_revisions()}
    return found in known or found == ""


def _migrate(uri: str) -> None:
    import sqlalchemy
    from mlflow.store.db.utils import _upgrade_db

    _upgrade_db(sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool))


def _copy(database: Path, name: str) -> Path:
    """A copy of a sqlite file beside it, under the first free name of `name`, `name`.2, …; whole or not "
    "there."""
    names = (name if number == 1 else f"{name}.{number}" for number in range(1, 1000))
    place = next(database.with_name(each) for each in names if not database.with_name(each).exists())
    partial = place.with_name(f"{place.name}.partial")
    partial.unlink(missing_ok=True)
    with (
        closing(sqlite3.connect(database, timeout=_WAIT_S)) as source,
        closing(sqlite3.connect(partial)) as copy,
    ):
        source.backup(copy)
    os.replace(partial, place)
    return place


@contextmanager
def _unused(database: Path) -> Iterator[None]:
    """Hold a sqlite file for oneself. Raises TrackingError where a process of this machine has it open."""
    users = [process.pid for process in psutil.process_iter() if _has_open(process, database)]
    if users:
        raise TrackingError(
            f"{database} is in use by process {', '.join(map(str, users))}: end it first. What it wrote "
            "while the tables change would be lost"
        )
    yield


def _has_open(process: psutil.Process, file: Path) -> bool:
    try:
        return process.pid != os.getpid() and any(
            Path(each.path) == file.resolve() for each in process.open_files()
        )
    except psutil.Error:  # another user's, or it has just ended
        return False


def _mlflow_version() -> str:
    import mlflow

    return str(mlflow.__version__)
