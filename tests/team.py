"""The pair of PostgreSQL and an MLflow server with users, for the tests that need the real thing."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.server.mlflow_server import ServerError
from experiments.server.pair import Pair
from experiments.server.postgres import programs_of


def needs_postgres() -> None:
    """Skip the test where PostgreSQL is not installed; in CI, which installs it, that is a failure."""
    try:
        programs_of(Path("none yet"))
    except ServerError as error:
        if os.environ.get("REID_NEEDS_POSTGRES"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@contextlib.contextmanager
def pair_folder() -> Iterator[Path]:
    """An empty folder for a pair. Root's cluster runs as another user, who may not enter pytest's folders."""
    folder = Path(tempfile.mkdtemp(prefix="reid-pair-"))
    if os.geteuid() == 0:
        folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def running_pair() -> Iterator[Pair]:
    """A pair that answers, in a folder where an earlier first start was cut off half-way."""
    needs_postgres()
    with pair_folder() as folder:
        (folder / "cluster.partial" / "base").mkdir(parents=True)
        (folder / "secrets").mkdir(mode=0o700)
        (folder / "secrets" / "admin_password.partial").write_text("half")
        pair = Pair(folder, workers=1)
        pair.start()
        try:
            yield pair
        finally:
            pair.stop()


@contextlib.contextmanager
def as_user(variables: dict[str, str]) -> Iterator[pytest.MonkeyPatch]:
    """The environment of a user of the server, for a block."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
            patch.delenv(name, raising=False)
        for name, value in variables.items():
            patch.setenv(name, value)
        yield patch


def holds(folder: Path, text: str) -> list[Path]:
    """The files below a folder that hold this text."""
    found = []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a database makes and removes files all the time
            if path.is_file() and text.encode() in path.read_bytes():
                found.append(path)
    return found
