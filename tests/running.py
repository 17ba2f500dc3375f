"""A command in a process of its own, forked from one that has imported PyTorch and MLflow already.

Signals, exit codes, working directory and environment are those of a real process; only the imports, ten
seconds of a core, are not paid again.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from importlib.util import find_spec
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path

#: What a training run imports, also late: MLflow and its database, the compiler that an optimizer looks for.
IMPORTED = [
    "reid.commands.train", "reid.commands.evaluate", "reid.commands.threshold", "reid.commands.adapt",
    "reid.jobs.frame",
    "reid.sweeps.callback", "mlflow", "alembic.context", "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.artifact.local_artifact_repo", "torch._dynamo", "matplotlib.pyplot", "tests.preloaded",
]  # fmt: skip


def start_server(environment: dict[str, str]) -> None:
    """Start the process that is forked from. It ends with this one."""
    # The server leaves out what is not there, and each command would import for seconds what lies elsewhere.
    own = [name for name in IMPORTED if name.startswith(("reid.", "tests."))]
    missing = [name for name in own if find_spec(name) is None]
    assert not missing, f"{missing}: name in IMPORTED what a command imports"
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    try:
        multiprocessing.get_context("forkserver").set_forkserver_preload(IMPORTED)
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


class Forked:
    """A command under way, with the part of `subprocess.Popen` that the tests use."""

    def __init__(self, words: list[str], environment: dict[str, str], home: Path, output: Path) -> None:
        self._words, self._output = words, output
        output.mkdir()
        self._process = ForkServerProcess(target=_run, args=(words, environment, home, output))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def send_signal(self, signum: signal.Signals) -> None:
        os.kill(self.pid, signum)

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            printed = "".join(self._printed())
            raise subprocess.TimeoutExpired(self._words, timeout or 0, output=printed)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it printed, and what it complained of, once it has ended."""
        self.wait(timeout)
        return self._printed()

    def _printed(self) -> tuple[str, str]:
        out, err = ((self._output / name).read_text() for name in ("out", "err"))
        return out, err


def _run(words: list[str], environment: dict[str, str], home: Path, output: Path) -> None:
    """What `python -m word…` does."""
    for name, stream in (("out", sys.stdout), ("err", sys.stderr)):
        with open(output / name, "wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    # Processes that the command starts are of the kind that it would start elsewhere.
    multiprocessing.set_start_method(None, force=True)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(home)
    sys.path.insert(0, str(home))
    run_module(words)


def run_module(words: list[str]) -> None:
    """Run the module in this process, and all that is left to do at its end."""
    sys.argv = list(words)
    sys.orig_argv = [sys.executable, "-m", *words]
    sys.modules.pop(words[0], None)  # or runpy warns
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    finally:
        # In this order; the first sends the workers of joblib home.
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
