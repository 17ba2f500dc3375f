"""Paths as URIs and back: `%`, `?`, `#`, blanks and letters of any script keep their meaning in a name.

A sqlite URI is read by SQLAlchemy, that of an artifact folder by MLflow; both are written and read here only.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote, unquote, urlparse

from reid.tracking.errors import TrackingError

_SQLITE = re.compile(r"sqlite(?:\+pysqlite)?:///([^?]*)(?:\?(.*))?", re.DOTALL)
#: How a path is written where SQLAlchemy does not unquote it, but sqlite does.
_FILE, _BY_SQLITE = "file:", "uri=true"


def sqlite_uri(database: Path) -> str:
    """The URI of a sqlite file, absolute.

    A path that SQLAlchemy reads as it stands is not quoted: stores made before keep their URIs.
    """
    path = database.absolute().as_posix()
    if "?" not in path and _as_read(path) == path:
        return f"sqlite:///{path}"
    # The driver is named, since MLflow makes the folders that it reads after a bare "sqlite:///", as it is.
    if _unquotes():
        return f"sqlite+pysqlite:///{quote(path)}"
    return f"sqlite+pysqlite:///{_FILE}{quote(path)}?{_BY_SQLITE}"


def sqlite_file(uri: str) -> Path | None:
    """The absolute path of the file that a sqlite URI names; None for a URI of another kind.

    Raises TrackingError for one with options, which nothing here would heed.
    """
    match = _SQLITE.fullmatch(uri)
    if match is None or not match[1]:
        return None
    path, options = match.groups()
    if options == _BY_SQLITE and path.startswith(_FILE):
        return Path(unquote(path.removeprefix(_FILE))).absolute()
    if options is not None:
        raise TrackingError(
            f"tracking store {uri!r}: what follows ? are options of SQLAlchemy; none is supported. In the "
            "name of a folder write %3F for ?, and %25 for %"
        )
    return Path(_as_read(path)).absolute()


def folder_uri(folder: Path) -> str:
    """The URI of an artifact folder, quoted."""
    return folder.absolute().as_uri()


def local_folder(uri: str) -> Path | None:
    """The folder that an artifact URI names where it lies on this machine, else None."""
    parts = urlparse(uri)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(uri) if uri.startswith("/") else None


@cache
def _unquotes() -> bool:
    """Whether SQLAlchemy unquotes the path of a database: from 2.1 on."""
    return tuple(int(part) for part in re.findall(r"\d+", version("sqlalchemy"))[:2]) >= (2, 1)


def _as_read(path: str) -> str:
    return unquote(path) if _unquotes() else path
