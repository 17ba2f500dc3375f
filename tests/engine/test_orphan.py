"""A worker of a killed launcher: it finishes its job, then ends by itself."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

LAUNCHER = """
import multiprocessing, sys, time
from pathlib import Path

def worker(folder, seconds):
    from reid.engine.orphan import at_work
    with at_work():
        (folder / "began").write_text(str(multiprocessing.current_process().pid))
        time.sleep(seconds)
        (folder / "done").touch()
    time.sleep(600)  # waits for its next job

if __name__ == "__main__":
    given = Path(sys.argv[1]), float(sys.argv[2])
    job = multiprocessing.get_context("spawn").Process(target=worker, args=given)
    job.start()
    job.join()
"""


@pytest.mark.parametrize("seconds", [0.0, 5.0], ids=["idle", "busy"])
def test_a_worker_without_a_launcher_ends_after_its_job(tmp_path: Path, seconds: float) -> None:
    script = tmp_path / "launcher.py"
    script.write_text(LAUNCHER)
    launcher = subprocess.Popen([sys.executable, script, tmp_path, str(seconds)])
    _until((tmp_path / ("began" if seconds else "done")).exists)
    worker = psutil.Process(int((tmp_path / "began").read_text()))
    time.sleep(0.5)
    assert worker.is_running()
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.wait()
    worker.wait(timeout=30)
    assert (tmp_path / "done").exists()


def test_a_launcher_that_runs_its_jobs_itself_is_not_watched() -> None:
    """As joblib's with one job at a time: it must outlive the shell that it was typed into."""
    look = (
        "import threading; from reid.engine.orphan import at_work\n"
        "with at_work(): print([thread.name for thread in threading.enumerate()])"
    )
    told = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "['MainThread']"


def _until(condition: object, seconds: float = 60) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the worker did not begin"
        time.sleep(0.05)
