"""A command that kills itself: `KILL_BEFORE="rename last.pt 3" python -m killing reid.train …`.

The signal is SIGKILL, and it comes before the third time that a file gets this name, or (`remove`) loses it.
"""

import os
import runpy
import signal
import sys

_OPERATION, _NAME, _COUNT = os.environ["KILL_BEFORE"].split(" ")
_left = int(_COUNT)


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    global _left
    if event != f"os.{_OPERATION}":
        return
    path = str(arguments[1] if _OPERATION == "rename" else arguments[0])
    if os.path.basename(path) == _NAME:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    sys.orig_argv = [sys.executable, "-m", *sys.argv]
    sys.addaudithook(_hook)
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
