"""An MLflow server on loopback, to be started, killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.server.processes import Served, free_port
from reid.tracking import sqlite_uri

#: What a start may take on a busy machine: it imports MLflow, and makes the tables of a fresh database.
STARTS_WITHIN_S = 240.0
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # Without its job runners (for language models) the server starts in half the time.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


class ServerError(RuntimeError):
    """A server that does not start; the message says why, or where its log lies."""


class MlflowServer:
    """An MLflow server whose log and artifacts lie in `folder`.

    database: the SQLAlchemy URI of its store, without a password (default: a sqlite file in `folder`).
    port: 0 for a free one, which stays the same from start to start.
    options: more words of the command. variables: more of its environment, where its passwords belong: a
    command line is read by every user of the machine.
    """

    def __init__(
        self,
        folder: Path,
        database: str | None = None,
        port: int = 0,
        options: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
        workers: int = 1,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.database = database or sqlite_uri(folder / "mlflow.db")
        self.log = folder / "server.log"
        self.port = port or free_port()
        self._options, self._variables, self._workers = list(options), dict(variables or {}), workers
        self._process: Served | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Return when it answers; raises ServerError where it ends, or does not answer within minutes."""
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self.database]
        command += ["--artifacts-destination", str(self.folder / "artifacts"), "--serve-artifacts"]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--workers", str(self._workers)]
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
        # Uploads that a kill has cut off are left there, each as large as its file.
        uploads = self.folder / "uploads"
        shutil.rmtree(uploads, ignore_errors=True)
        uploads.mkdir()
        environment = {**inherited, **_QUIET, "TMPDIR": str(uploads), **self._variables}
        self._process = Served([*command, *self._options], self.log, environment, self.folder)
        try:
            deadline = time.monotonic() + STARTS_WITHIN_S
            while not self.answers():
                if self._process.ended() or time.monotonic() > deadline:
                    raise ServerError(
                        "the MLflow server does not start; its last words, of "
                        f"{self.log}:\n{last_lines(self.log)}"
                    )
                time.sleep(0.1)
        except BaseException:
            self.kill()
            raise

    def ended(self) -> bool:
        """Whether it has ended by itself."""
        return self._process is not None and self._process.ended()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server and its workers."""
        if self._process is not None:
            self._process.signal(number)

    def stop(self) -> None:
        """Have it end in good order."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def kill(self) -> None:
        """SIGKILL it and its workers."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                return True
        except OSError:
            return False


def last_lines(log: Path, count: int = 8) -> str:
    """The end of a log, as far as it tells something."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return "\n".join([line for line in text.splitlines() if line.strip()][-count:]) or "(nothing)"
