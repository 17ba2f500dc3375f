"""Real stores for the tracking tests: one MLflow server."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from experiments.server.mlflow_server import MlflowServer
from reid.tracking import Store, default_store


class Server(MlflowServer):
    """An MLflow server on a sqlite store of its own, and how the suite reaches it."""

    @property
    def store(self) -> Store:
        return Store(self.uri)


@pytest.fixture
def no_room() -> Callable[[int], AbstractContextManager[None]]:
    """A block in which no file grows beyond so many bytes: writes are cut off there, as by a full disk."""
    import resource

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)

    return limited


@pytest.fixture
def store(tmp_path: Path, template_db: Path) -> Store:
    folder = tmp_path / "a store"
    folder.mkdir()
    shutil.copy(template_db, folder / "mlflow.db")
    return default_store(folder, f"sqlite:///{folder / 'mlflow.db'}")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, template_db: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(template_db, folder / "mlflow.db")
    server = Server(folder)
    server.start()
    yield server
    server.kill()
