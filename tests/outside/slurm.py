"""A real Slurm of one node on loopback, in a folder of its own: munged, slurmctld and slurmd.

The tests start it, and `python tests/outside/slurm.py` starts one to try things by hand. It needs Debian's
packages slurm-wlm and munge, neither their daemons nor their configuration; two of them may run at a time.
All of it ends when the block ends.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

#: Seconds within which a daemon answers, or ends.
PATIENCE_S = 60.0

#: States in which a job stays.
ENDED = {"CANCELLED", "COMPLETED", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}

#: Where Debian has daemons, which are not on everybody's path.
SBIN = "/usr/sbin:/sbin:/usr/local/sbin"

#: Seconds after which a job that was put back into the queue may start again; Slurm's own default is 120.
REQUEUED_S = 10


class SlurmError(Exception):
    """A daemon did not start, or a command failed; the message has what it said."""


def missing() -> list[str]:
    """The programs that are not installed."""
    names = ("munged", "munge", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "srun")
    return [name for name in names if _program(name) is None]


@dataclass
class Slurm:
    """A cluster under way. `environment` is what a command needs to find it."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict, repr=False)

    @property
    def conf(self) -> Path:
        return self.folder / "slurm.conf"

    def run(self, *words: str, check: bool = True) -> str:
        """What a command of Slurm's prints, such as `run("squeue", "-h")`."""
        done = subprocess.run(
            words, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=PATIENCE_S
        )
        if check and done.returncode:
            raise SlurmError(f"{' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def state(self, job: str) -> str:
        """The state of a job, such as RUNNING, or "" where the controller does not know it any more."""
        answer = self.run("scontrol", "show", "job", "-o", job, check=False)
        return match[1] if (match := re.search(r"JobState=(\S+)", answer)) else ""

    def start(self, name: str) -> None:
        """Start one of the daemons: munged, slurmctld or slurmd."""
        options = {
            "munged": ["--foreground", "--force", *self._munge_files()],
            "slurmctld": ["-D", "-f", str(self.conf)],
            "slurmd": ["-D", "-f", str(self.conf)],
        }
        program = _program(name)
        assert program is not None, name
        with (self.folder / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(
                [program, *options[name]],
                env={**os.environ, **self.environment},
                stdout=out,
                stderr=out,
                start_new_session=True,  # Ctrl-C is for the tests, which then end it in order
            )

    def stop(self, name: str) -> None:
        """End one of the daemons and wait until it has ended."""
        daemon = self.daemons.pop(name, None)
        if daemon is None:
            return
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def wait_until_idle(self) -> None:
        """Wait until the controller answers and the node takes jobs."""
        end = time.monotonic() + PATIENCE_S
        while True:
            answer = self.run("sinfo", "-h", "-o", "%T", check=False).strip()
            if answer in ("idle", "mixed", "allocated"):
                return
            if time.monotonic() > end or any(one.poll() is not None for one in self.daemons.values()):
                logs = [f"{path.name}: {path.read_text()[-1500:]}" for path in self.folder.glob("*.out")]
                raise SlurmError(
                    f"Slurm does not start (the node is {answer or 'unknown'}):\n" + "\n".join(logs)
                )
            time.sleep(0.2)

    def _munge_files(self) -> list[str]:
        """The options of munged that name its files."""
        names = {"key-file": "munge.key", "pid-file": "munged.pid", "log-file": "munged.log",
                 "seed-file": "munged.seed", "socket": "munge.socket"}  # fmt: skip
        return [f"--{option}={self.folder / name}" for option, name in names.items()]


@contextlib.contextmanager
def slurm(**settings: object) -> Iterator[Slurm]:
    """A cluster of one node with two partitions, `main` and `short` (its jobs end after a minute).

    settings: more lines of slurm.conf, such as `MaxArraySize=4`.

    Raises:
        SlurmError: it does not start.
    """
    # A socket's path is short, and munged wants folders that everybody may pass.
    folder = Path(tempfile.mkdtemp(prefix="reid-slurm-"))
    folder.chmod(0o755)
    own = Slurm(folder)
    try:
        _write(own, settings)
        own.start("munged")
        _wait_for(folder / "munge.socket", own)
        own.start("slurmctld")
        own.start("slurmd")
        own.wait_until_idle()
        yield own
    finally:
        if "slurmctld" in own.daemons:
            own.run("scancel", "--full", "-u", str(os.getuid()), check=False)
            end = time.monotonic() + PATIENCE_S
            while own.run("squeue", "-h", check=False).strip() and time.monotonic() < end:
                own.run("scancel", "-s", "KILL", "-u", str(os.getuid()), check=False)
                time.sleep(0.5)
        for name in ("slurmd", "slurmctld", "munged"):
            own.stop(name)
        _end_steps(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _write(own: Slurm, settings: Mapping[str, object]) -> None:
    folder, host = own.folder, socket.gethostname().partition(".")[0]
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    user = psutil.Process().username()
    controller_port, node_port = _free_ports(2)
    memory_mib = int(psutil.virtual_memory().total * 0.8) >> 20
    cpus = len(os.sched_getaffinity(0))
    lines: dict[str, object] = {
        "ClusterName": "reid",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": controller_port,
        "SlurmdPort": node_port,
        "SlurmUser": user,
        "SlurmdUser": user,
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={folder / 'munge.socket'},cred_expire={REQUEUED_S}",
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "spool",
        "SlurmctldPidFile": folder / "slurmctld.pid",
        "SlurmdPidFile": folder / "slurmd.pid",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "MpiDefault": "none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core_Memory",
        # Without control groups Slurm looks at the memory of a job once a second.
        "JobAcctGatherType": "jobacct_gather/linux",
        "JobAcctGatherFrequency": "1",
        "JobAcctGatherParams": "OverMemoryKill",
        "DefMemPerCPU": max(512, memory_mib // (2 * cpus)),
        "ReturnToService": 2,
        "KillWait": 20,
        **settings,
    }
    text = "".join(f"{key}={value}\n" for key, value in lines.items())
    text += f"NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory_mib} State=UNKNOWN\n"
    text += f"PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP\n"
    text += f"PartitionName=short Nodes={host} MaxTime=1 State=UP\n"
    own.conf.write_text(text)
    own.environment = {"SLURM_CONF": str(own.conf)}


def _wait_for(path: Path, own: Slurm) -> None:
    end = time.monotonic() + PATIENCE_S
    while not path.exists():
        if time.monotonic() > end or any(one.poll() is not None for one in own.daemons.values()):
            said = "\n".join(
                file.read_text() for file in own.folder.glob("munged.*") if file.suffix != ".seed"
            )
            raise SlurmError(f"munged does not start:\n{said}")
        time.sleep(0.05)


def _end_steps(folder: Path) -> None:
    """End what a node's daemon left: the processes that look after a job, known by their folder."""
    for process in psutil.process_iter(["name", "environ"]):
        ours = (process.info["environ"] or {}).get("SLURM_CONF", "").startswith(str(folder))
        if process.info["name"] == "slurmstepd" and ours:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SBIN}")


def main(words: Sequence[str]) -> int:
    """Start a cluster and run a shell, or what is typed, in its environment."""
    if absent := missing():
        print(f"error: {', '.join(absent)} not found. Debian and Ubuntu: apt install slurm-wlm munge")
        return 2
    with slurm() as own:
        print(f"a Slurm of one node lies in {own.folder}; it ends with this command")
        command = list(words) or [os.environ.get("SHELL", "/bin/sh")]
        return subprocess.run(command, env={**os.environ, **own.environment}).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
