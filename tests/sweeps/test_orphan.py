"""A worker of a killed launcher: it finishes its job, then ends by itself."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

LAUNCHER = """
import multiprocessing, sys, time
from pathlib import Path

def worker(folder, seconds, late):
    import psutil
    from reid.sweeps.orphan import at_work
    (folder / "worker").write_text(str(multiprocessing.current_process().pid))
    (folder / "ready").touch()
    while late and psutil.pid_exists(multiprocessing.parent_process().pid):
        time.sleep(0.05)
    with at_work():
        (folder / "began").touch()
        time.sleep(seconds)
        (folder / "done").touch()
    time.sleep(600)  # waits for its next job

if __name__ == "__main__":
    folder, method, state = Path(sys.argv[1]), *sys.argv[2:]
    arguments = folder, 2.0 if state == "began" else 0.0, state == "ready"
    job = multiprocessing.get_context(method).Process(target=worker, args=arguments)
    job.start()
    job.join()
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("state", ["ready", "began", "done"])
def test_a_worker_without_a_launcher_ends_after_its_job(tmp_path: Path, method: str, state: str) -> None:
    """Killed before its first job (which the restarted sweep does), while it is at one, or after it."""
    script = tmp_path / "launcher.py"
    script.write_text(LAUNCHER)
    launcher = subprocess.Popen([sys.executable, script, tmp_path, method, state])
    _until((tmp_path / state).exists)
    worker = psutil.Process(int((tmp_path / "worker").read_text()))
    time.sleep(0.5)
    assert worker.is_running()
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.wait()
    _until(lambda: _ended(worker))
    assert state == "ready" or (tmp_path / "done").exists()


@pytest.mark.slow
def test_a_launcher_that_runs_its_jobs_itself_is_not_watched() -> None:
    """As joblib's with one job at a time: it must outlive the shell that it was typed into."""
    look = (
        "import threading; from reid.sweeps.orphan import at_work\n"
        "with at_work(): print([thread.name for thread in threading.enumerate()])"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['MainThread']"


def _ended(worker: psutil.Process) -> bool:
    try:  # a container's first process may leave zombies lie
        return not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the worker did not get there"
        time.sleep(0.05)
