"""What a tracker's process may not do: reach the network, or start an installer. Imported before all else."""

import json
import sys
from importlib.metadata import version
from pathlib import Path

REFUSED: list[str] = []


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    wanted = ""
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        address = arguments[1] if event != "socket.getaddrinfo" else arguments[0]
        if isinstance(address, str | tuple) and not str(address).startswith("/"):  # no local socket
            wanted = f"{event} {address}"
    elif event == "subprocess.Popen":
        words = arguments[1]
        command = " ".join(map(str, words)) if isinstance(words, list | tuple) else str(words)
        if "install" in command or "pip" in command.split():
            wanted = command
    if wanted:
        REFUSED.append(wanted)
        raise PermissionError(f"refused here: {wanted}")


sys.addaudithook(_refuse)


def write_facts(path: str, packages: list[str]) -> None:
    """What took part, and what was refused."""
    versions = {name: version(name) for name in packages}
    Path(path).write_text(json.dumps({"versions": versions, "refused": REFUSED}))
