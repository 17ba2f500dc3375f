"""What reading one mutated file comes to, seen from within the process that reads it."""

import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.mutations.mutate import CANARY
from experiments.mutations.specimens import Refused, Specimen
from reid.errors import RunError, UsageError

#: What a file may come to.  The last five are faults of the suite.
READ, REFUSED = "read", "refused"
TRACEBACK, MEMORY, CODE, HANG, CRASH = FAULTS = ("traceback", "memory", "code run", "hang", "crash")
MOST_MEMORY = 2 * 2**30

#: What Python reports before a process, a program or a connection is started, see PEP 578.
STARTS = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "subprocess.Popen",
    "socket.connect",
)

#: What the suite says in words, see `reid.errors`; an error of the system names the file by itself.
IN_WORDS = (UsageError, RunError, Refused)


@dataclass(frozen=True)
class Outcome:
    """kind: one of those above.  says: the content of what was read, else the message.

    seconds, memory (bytes): what reading took.
    """

    kind: str
    says: str
    seconds: float
    memory: int


class Watch:
    """Notes what code that a file brings along would do: start programs, open connections."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._watching = False
        sys.addaudithook(self._note)

    @contextmanager
    def watching(self) -> Iterator[None]:
        self.seen.clear()
        self._watching = True
        try:
            yield
        finally:
            self._watching = False

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._watching and event in STARTS:
            self.seen.append(f"{event} {str(arguments)[:200]}")


def read_once(specimen: Specimen, folder: Path, watch: Watch) -> Outcome:
    """Read the file of a specimen in `folder`, the working folder, and say what came of it."""
    before = _peak(reset=True)
    started = time.monotonic()
    with watch.watching():
        kind, says = _read(specimen, folder)
    seconds = time.monotonic() - started
    memory = _peak() - before
    if Path(CANARY).exists():
        Path(CANARY).unlink()
        kind, says = CODE, "the canary was made"
    elif watch.seen:
        kind, says = CODE, watch.seen[0]
    elif memory > MOST_MEMORY:
        kind, says = MEMORY, f"{memory / 2**30:.1f} GiB"
    return Outcome(kind, says, seconds, max(memory, 0))


def _read(specimen: Specimen, folder: Path) -> tuple[str, str]:
    try:
        return READ, specimen.read(folder)
    except IN_WORDS as error:
        return REFUSED, str(error)
    except MemoryError as error:
        return MEMORY, "".join(traceback.format_exception(error))
    except Exception as error:
        return TRACEBACK, "".join(traceback.format_exception(error))


def _peak(reset: bool = False) -> int:
    """The most memory (bytes) that this process has held since the last reset; now, where it is reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
