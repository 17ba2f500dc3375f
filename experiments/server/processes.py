"""Processes that serve until they are stopped, and never outlive the one that started them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

#: Reads until the parent's end of the pipe is closed, which a kill does too; then it ends what it guards.
_GUARD = 'read -r _; kill -s "$1" -- "$2"; sleep 10; kill -s KILL -- "-$3"'


class Served:
    """A process with a session of its own, its output in a log, and a guard that ends it with its parent.

    user: the name of the user that it runs as, if not this one. end: the signal that has it end in good
    order;
    to_all: whether its children get the signal too.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str],
        folder: Path,
        *,
        user: str | None = None,
        end: signal.Signals = signal.SIGTERM,
        to_all: bool = True,
    ) -> None:
        self._end, self._to_all = end, to_all
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, env=dict(environment), cwd=folder, stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, start_new_session=True, user=user, group=group_of(user) if user else None,
                extra_groups=[] if user else None,
            )  # fmt: skip
        pid = str(self._process.pid)
        guard = ["sh", "-c", _GUARD, "sh", end.name.removeprefix("SIG"), f"-{pid}" if to_all else pid, pid]
        self._guard = subprocess.Popen(
            guard, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def ended(self) -> bool:
        return self._process.poll() is not None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and its children."""
        os.killpg(self._process.pid, number)

    def stop(self, patience_s: float = 20.0) -> None:
        """Have it end in good order; what has not ended after `patience_s` seconds is killed."""
        if not self.ended():
            if self._to_all:
                self.signal(self._end)
            else:
                self._process.send_signal(self._end)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience_s)
        self.kill()

    def kill(self) -> None:
        """SIGKILL it and its children."""
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        self._process.wait()
        self._guard.kill()
        self._guard.communicate()


def free_port(port: int = 0) -> int:
    """`port` if nothing listens there on 127.0.0.1, a free one for 0. Raises OSError where it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        return int(probe.getsockname()[1])


def group_of(user: str) -> int:
    """The id of a user's own group."""
    import pwd

    return pwd.getpwnam(user).pw_gid


def write_secret(place: Path, text: str) -> None:
    """Write a file that only its owner reads, from its first byte on; whole, or not at all."""
    partial = place.with_name(f"{place.name}.partial")
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())
    partial.rename(place)
