"""What a run was made with: code version, library versions, machine, command line."""

from __future__ import annotations

import os
import platform
import re
import shlex
import socket
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from reid.limits import cores
from reid.tracking.names import cut

_LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pillow", "mlflow", "hydra-core")
_MAX_DIFF = 1_000_000
#: What was typed, but is taken out of `sys.argv` before Hydra reads it.
unseen_by_hydra: list[str] = []
#: Untracked files of code that are kept whole: how many, and up to how many bytes.
_MAX_FILES, _MAX_FILE = 50, 100_000


@dataclass(frozen=True)
class Provenance:
    """tags: one value a fact, to be set on the run. diff: uncommitted changes and new code, "" for none."""

    tags: dict[str, str]
    diff: str = ""


def environment(source_root: Path | None) -> Provenance:
    """Describe code, libraries and machine. `source_root` is the source tree, None for an installed wheel.

    Outside a git repository the SHA is "none". Holds no path of the user's home.
    """
    code, diff = _code(source_root)
    command = _command(source_root)
    tags = {
        **code,
        **{f"reid.version.{name}": _version(name) for name in _LIBRARIES},
        "reid.version.python": platform.python_version(),
        "reid.command": command,
        "reid.host": socket.gethostname(),
        "reid.os": platform.platform(terse=True),
        "reid.cpu": cpu_model(),
        "reid.cpu_count": str(cores()),
        "reid.memory_gb": f"{_memory_bytes() / 1e9:.1f}",
        "reid.gpu": ", ".join(_gpus()) or "none",
        # The UI has columns for these.
        "mlflow.source.name": command.split(" ")[0],
        "mlflow.source.type": "LOCAL",
    }
    if tags["reid.git.sha"] != "none":
        tags["mlflow.source.git.commit"] = tags["reid.git.sha"]
    return Provenance({name: hide_home(value) for name, value in tags.items()}, diff)


def hide_home(text: str) -> str:
    """`text` with the user's home folder written as ~."""
    home = str(Path.home())
    return re.sub(rf"(?<![\w./~-]){re.escape(home)}(?![\w.-])", "~", text) if len(home) > 1 else text


def _code(source_root: Path | None) -> tuple[dict[str, str], str]:
    sha = None if source_root is None else _git(source_root, "rev-parse", "HEAD")
    if source_root is None or not sha:
        return {"reid.git.sha": "none"}, ""
    changes = _git(source_root, "diff", "HEAD", "--", ".") or ""
    untracked = (_git(source_root, "ls-files", "--others", "--exclude-standard") or "").splitlines()
    notes = [f"# untracked: {name}" for name in untracked]
    # A loss of one's own is what its run was made with, committed or not.
    code = [name for name in untracked if _is_code(source_root / name)][:_MAX_FILES]
    added = [_git(source_root, "diff", "--no-index", "--", os.devnull, name) or "" for name in code]
    tags = {
        "reid.git.sha": sha,
        "reid.git.branch": _git(source_root, "rev-parse", "--abbrev-ref", "HEAD") or "none",
        "reid.git.dirty": str(bool(changes or untracked)).lower(),
    }
    return tags, cut("\n".join([*notes, changes, *added]).strip(), _MAX_DIFF)


def _is_code(path: Path) -> bool:
    return path.suffix in (".py", ".yaml") and path.is_file() and path.stat().st_size <= _MAX_FILE


def _git(root: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    # `diff --no-index` answers 1 where there is a difference.
    return answer.stdout.strip("\n") if answer.returncode <= ("--no-index" in arguments) else None


def _command(source_root: Path | None) -> str:
    program = Path(sys.argv[0])
    name = program.name or "python"
    if source_root and program.suffix == ".py" and program.resolve().is_relative_to(source_root):
        # `python -m reid.train` shows up here as the path of its file.
        name = ".".join(program.resolve().relative_to(source_root).with_suffix("").parts)
    return shlex.join([name.removesuffix(".__main__"), *unseen_by_hydra, *sys.argv[1:]])


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "none"


def cpu_model() -> str:
    """What the processor is called."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _memory_bytes() -> int:
    import psutil

    return int(psutil.virtual_memory().total)


def _gpus() -> list[str]:
    import torch

    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
