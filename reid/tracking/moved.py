"""A store that was moved with its project: where its artifacts lie now, and where the store itself does.

MLflow writes the absolute folder of the artifacts into its database, for each experiment and each run, and
would make the old folder again elsewhere.
"""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

from reid.tracking.uris import folder_uri, local_folder

_log = logging.getLogger(__name__)
_WAIT_S = 20.0


def bring_artifacts_along(database: Path, root: Path) -> None:
    """Have the experiments and runs of a moved sqlite file name `root`, the artifact folder beside it.

    Only what lay in a folder of that name elsewhere is touched, and only where it was moved too: its
    artifacts are here, or are nowhere.
    """
    try:
        with closing(sqlite3.connect(database, timeout=_WAIT_S)) as connection, connection:
            locations = connection.execute(
                "SELECT experiment_id, artifact_location FROM experiments"
            ).fetchall()
            for experiment, location in locations:
                old = local_folder(location or "")
                if old is None or old.name != root.name or _same(old, root):
                    continue
                # A copy: from here on the two projects go apart, and whoever meant one should know.
                level = logging.WARNING if old.exists() else logging.INFO
                _log.log(
                    level, "artifacts of experiment %s, so far in %s, are now in %s", experiment, old, root
                )
                runs = connection.execute(
                    "SELECT run_uuid, artifact_uri FROM runs WHERE experiment_id = ?", (experiment,)
                ).fetchall()
                for run, uri in runs:
                    if new := _place_now(uri, old, root):
                        connection.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (new, run))
                models = connection.execute(
                    "SELECT model_id, artifact_location FROM logged_models WHERE experiment_id = ?",
                    (experiment,),
                ).fetchall()
                for model, uri in models:
                    if new := _place_now(uri, old, root):
                        connection.execute(
                            "UPDATE logged_models SET artifact_location = ? WHERE model_id = ?", (new, model)
                        )
                        connection.execute(
                            "UPDATE model_versions SET storage_location = ? WHERE source = ?",
                            (new, f"models:/{model}"),
                        )
                connection.execute(
                    "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?",
                    (folder_uri(root), experiment),
                )
    except sqlite3.Error as error:  # such as a file that this user may only read
        _log.warning("the artifacts of the moved store %s could not be brought along: %s", database, error)


def _place_now(uri: str | None, old: Path, root: Path) -> str | None:
    """The URI of an artifact folder that was moved from below `old` to below `root`; None if it was not."""
    place = local_folder(uri or "")
    if place is None or not place.is_relative_to(old):
        return None
    new = root / place.relative_to(old)
    return folder_uri(new) if new.exists() or not place.exists() else None


def database_now(database: Path, folder: Path, run_id: str | None) -> Path:
    """The sqlite file of a run in `folder`: `database`, or one above the folder where both were moved.

    Where the old place is still there, the file is only away, such as on a share that is not mounted: then
    another of its name is meant only if it knows the run, `run_id` (None: it was sent nowhere yet).
    """
    if database.exists():
        return database
    above = (parent / database.name for parent in folder.absolute().parents)
    gone = not database.parent.exists()
    return next((found for found in above if found.is_file() and (gone or _knows(found, run_id))), database)


def _knows(database: Path, run_id: str | None) -> bool:
    try:
        with closing(sqlite3.connect(database, timeout=_WAIT_S)) as connection:
            rows = connection.execute("SELECT 1 FROM runs WHERE run_uuid = ?", (run_id,)).fetchall()
    except sqlite3.Error:
        return False
    return bool(rows)


def _same(one: Path, other: Path) -> bool:
    return one == other or (one.exists() and other.exists() and one.samefile(other))
