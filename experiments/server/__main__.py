"""A tracking server to try out, or to test with: `python -m experiments.server`, or `make server`."""

from __future__ import annotations

import argparse
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from types import FrameType

from experiments.server.mlflow_server import ServerError
from experiments.server.pair import ADMINISTRATOR, STUDIES, Pair, add_user
from reid.config.dialects import CommandParser
from reid.errors import UsageError
from reid.home import home
from reid.locks import NoLocksError


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: stopped as it was told to; 1: a server did not start, or ended; 2: asked wrongly."""
    options = _parser().parse_args(arguments)
    folder = (options.folder or home() / "server").absolute()
    try:
        if options.add_user is not None:
            return _add_user(folder, options.add_user, options.port)
        pair = Pair(folder, options.port, options.database_port)
        return _serve(pair)
    except (ServerError, UsageError, NoLocksError) as error:
        print(f"experiments.server: {error}", file=sys.stderr)
        return 1


def _serve(pair: Pair) -> int:
    """Serve until Ctrl-C or SIGTERM, or until one of the two ends."""
    ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(number: int, frame: FrameType | None) -> None:
        for each in ends:  # a second one does not keep the first from being obeyed
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in ends}
    try:
        print(f"starting PostgreSQL and MLflow in {pair.folder}; a first start takes a minute", flush=True)
        pair.start()
        print(_instructions(pair), flush=True)
        while True:
            time.sleep(0.5)
            for one, name in ((pair.database, "PostgreSQL"), (pair.server, "the MLflow server")):
                if one.ended():
                    print(f"experiments.server: {name} has ended by itself; see {one.log}", file=sys.stderr)
                    return 1
    except KeyboardInterrupt:
        return 0
    finally:
        print("stopping the server, then PostgreSQL", flush=True)
        pair.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


def _instructions(pair: Pair) -> str:
    studies = pair.database.uri(STUDIES)
    return f"""
MLflow serves {pair.uri}; its users, runs and studies are in PostgreSQL. Type this to use it:

{variables(pair.uri, ADMINISTRATOR, pair.password_file)}

For a study of experiments.tune in PostgreSQL also:

    export PGPASSWORD="$(cat {quote(str(pair.database_password_file))})"
    python -m experiments.tune study.storage={studies} …

A user more: python -m experiments.server --folder {quote(str(pair.folder))} --port {pair.port} --add-user
<name> Logs: {pair.server.log} and {pair.database.log}. Ctrl-C stops both."""


def variables(uri: str, name: str, password_file: Path) -> str:
    """What a user types to point the suite at the server; the password stays in its file."""
    return f"""\
    export MLFLOW_TRACKING_URI={uri}
    export MLFLOW_TRACKING_USERNAME={name}
    export MLFLOW_TRACKING_PASSWORD="$(cat {quote(str(password_file))})\""""


def _add_user(folder: Path, name: str, port: int) -> int:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        print(f"experiments.server: {name!r} is no name of a user: letters, digits, . _ -", file=sys.stderr)
        return 2
    uri = f"http://127.0.0.1:{port}"
    place = add_user(uri, folder, name)
    print(f"{name} may use {uri} now. Give them the password in {place}, which goes into the environment:\n")
    print(variables(uri, name, place))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m experiments.server",
        description="Start PostgreSQL and an MLflow server with names and passwords on this machine, as a "
        "pair. Ctrl-C stops both; the next start goes on with the same data.",
    )
    parser.add_argument(
        "--port", type=_port, default=5000, help="of MLflow, 0 for a free one (default: 5000)"
    )
    parser.add_argument(
        "--database-port", type=_port, default=5433, help="of PostgreSQL, 0 for a free one (default: 5433)"
    )
    parser.add_argument(
        "--folder", type=Path, help="of the data and the passwords (default: server/ of the home)"
    )
    parser.add_argument("--add-user", metavar="NAME", help="make a user at the server that runs on --port")
    return parser


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a port, 0 to 65535")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
