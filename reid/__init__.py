"""Person re-identification with ranked list loss: composed by Hydra, tracked by MLflow."""

import os
import signal
import sys
import threading
from typing import NoReturn

# Before PyTorch loads its OpenMP. Threads that wait for each other look so many times and then sleep; by
# default 15 times as many, and where other programs keep the cores busy they hardly do anything else.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")


def _stop_in_words() -> None:
    """Ctrl-C ends a command of the suite with one line and exit code 130, in its seconds of imports too.

    Here, since what is imported first is this file.  A program that uses the suite keeps its own ways.
    """
    words = sys.orig_argv[1:]
    module = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    script = os.path.basename(words[0]) if words else ""
    ours = module.startswith(("reid.", "experiments.")) or script.startswith("reid-")
    if not ours or threading.current_thread() is not threading.main_thread():
        return

    def stop(*_: object) -> NoReturn:
        print("error: stopped by SIGINT", file=sys.stderr)
        sys.exit(130)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else somebody has decided already
        signal.signal(signal.SIGINT, stop)


_stop_in_words()
