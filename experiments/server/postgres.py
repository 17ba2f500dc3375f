"""A PostgreSQL cluster of one's own on loopback, made by the programs that the machine has."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.server.mlflow_server import ServerError, last_lines
from experiments.server.processes import Served, free_port, group_of, write_secret

if TYPE_CHECKING:
    import psycopg

#: The owner of the cluster, and of what is in it.
OWNER = "reid"
#: Where Debian keeps the programs of each version, which are not on the path.
_DEBIAN = Path("/usr/lib/postgresql")
#: The users that the cluster may run as where this process is root's: PostgreSQL refuses to run as root.
_UNPRIVILEGED = ("postgres", "nobody")
#: Of which it may need most after a kill, to bring its files into order.
_ANSWERS_WITHIN_S = 120.0


class Postgres:
    """The cluster in `folder`/cluster, made at its first start. It takes passwords only, and from loopback
    only.

    port: 0 for a free one, which stays the same from start to start.
    """

    def __init__(self, folder: Path, password: str, port: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.cluster = folder / "cluster"
        self.log = folder / "postgres.log"
        self.port = port or free_port()
        self._password = password
        self._user = _unprivileged_user() if os.geteuid() == 0 else None
        self._process: Served | None = None

    def uri(self, database: str) -> str:
        """The SQLAlchemy URI of a database in it; the password is left to the variable PGPASSWORD."""
        return f"postgresql+psycopg://{OWNER}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Return when it answers. Raises ServerError where that does not come about."""
        programs = programs_of(self.cluster)
        if not self.cluster.exists():
            self._make(programs)
        self.log.touch()
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",  # the path of a socket may have 107 bytes only
            "logging_collector": "off",
            "max_connections": "200",
        }
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        command = [str(programs / "postgres"), "-D", str(self.cluster), *words]
        deadline = time.monotonic() + _ANSWERS_WITHIN_S
        try:
            self._process = self._served(command)
            while (why := self._silence()) is not None:
                if time.monotonic() > deadline or (self._process.ended() and not self._is_still_leaving()):
                    raise ServerError(
                        f"PostgreSQL does not answer ({why}); its last words, of "
                        f"{self.log}:\n{last_lines(self.log)}"
                    )
                time.sleep(0.05)
                if self._process.ended():
                    self._process = self._served(command)
        except BaseException:
            self.kill()
            raise

    def _served(self, command: list[str]) -> Served:
        return Served(
            command, self.log, _environment(), self.cluster, user=self._user, end=signal.SIGINT, to_all=False
        )

    def _is_still_leaving(self) -> bool:
        """Whether processes of a PostgreSQL that was killed have not noticed yet."""
        return "shared memory block" in last_lines(self.log, 4)

    def make_database(self, name: str) -> None:
        """Make a database where there is none of that name."""
        with self._connect() as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone()
            if found is None:
                connection.execute(f'CREATE DATABASE "{name}"'.encode())

    def ended(self) -> bool:
        """Whether it has ended by itself."""
        return self._process is not None and self._process.ended()

    def stop(self) -> None:
        """Have it end in good order: those who are connected are sent away."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def kill(self) -> None:
        """SIGKILL it with all its processes."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def _make(self, programs: Path) -> None:
        """Make the cluster beside its place and move it there: a kill leaves none, or a whole one."""
        partial = self.folder / "cluster.partial"
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(mode=0o700)
        if self._user is not None:
            shutil.chown(partial, self._user, group_of(self._user))
            self._refuse_hidden_folder(partial)
        password = self.folder / "cluster.password"
        write_secret(password, self._password)
        if self._user is not None:
            shutil.chown(password, self._user)
        command = [str(programs / "initdb"), "-D", str(partial), "--username", OWNER, "--encoding", "UTF8"]
        command += ["--locale", "C.UTF-8", "--auth", "scram-sha-256", "--pwfile", str(password)]
        try:
            made = self._call(command)
        finally:
            password.unlink()
        if made.returncode != 0:
            raise ServerError(f"initdb failed:\n{made.stderr.strip() or made.stdout.strip()}")
        partial.rename(self.cluster)

    def _refuse_hidden_folder(self, folder: Path) -> None:
        if self._call(["test", "-w", str(folder)]).returncode == 0:
            return
        raise ServerError(
            f"PostgreSQL does not run as root, and the user {self._user} may not enter {self.folder}. Run "
            "this as a user of your own, or name a folder that everybody may pass through: --folder "
            "/srv/reid-server"
        )

    def _call(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        group = None if self._user is None else group_of(self._user)
        return subprocess.run(
            command, capture_output=True, text=True, env=_environment(), cwd="/", check=False,
            user=self._user, group=group, extra_groups=[] if self._user else None,
        )  # fmt: skip

    def _silence(self) -> str | None:
        """Why it does not answer; None if it does."""
        import psycopg

        try:
            self._connect().close()
        except psycopg.Error as error:
            return str(error).splitlines()[0]
        return None

    def _connect(self) -> psycopg.Connection:
        import psycopg

        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=OWNER, password=self._password, dbname="postgres",
            autocommit=True, connect_timeout=5,
        )  # fmt: skip


def _environment() -> dict[str, str]:
    """What PostgreSQL gets of this process: none of the variables that name another cluster or its user."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    return {**kept, "LC_ALL": "C.UTF-8"}


def programs_of(cluster: Path) -> Path:
    """The folder of PostgreSQL's programs: of the version that made `cluster`, else of the newest.

    Raises ServerError where there is none.
    """
    found = {int(path.parents[1].name): path.parent for path in _DEBIAN.glob("[0-9]*/bin/postgres")}
    elsewhere = shutil.which("postgres")
    made_by = int((cluster / "PG_VERSION").read_text()) if (cluster / "PG_VERSION").exists() else None
    if made_by in found:
        return found[made_by]
    if made_by is not None and found:
        raise ServerError(
            f"{cluster} was made by PostgreSQL {made_by}, and installed are {sorted(found)}. Install that "
            f"one (apt install postgresql-{made_by}), or move the data by pg_upgrade"
        )
    if found:
        return found[max(found)]
    if elsewhere and (Path(elsewhere).parent / "initdb").exists():
        return Path(elsewhere).parent
    raise ServerError(
        "PostgreSQL is not installed. Debian and Ubuntu: apt install postgresql; elsewhere put its programs "
        "`postgres` and `initdb` on the PATH"
    )


def _unprivileged_user() -> str:
    import pwd

    for name in _UNPRIVILEGED:
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise ServerError(f"PostgreSQL does not run as root, and there is no user {' or '.join(_UNPRIVILEGED)}")
