"""The lowest versions that pyproject.toml allows, in a Python environment of their own.

Each `>=` of the dependencies, and of the extras that the suite's commands use, becomes `==`. What these need
themselves pip chooses, within what they say. Extras that are tools of developers are left out: the tests
themselves run with the newest of those.
"""

import hashlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
#: Of the extras, those that commands import.
EXTRAS = ("search", "export", "sweeps")
#: Comes as source alone, at every version.
FROM_SOURCE = "antlr4-python3-runtime"
#: Seconds: PyTorch with what it needs of CUDA is 2.5 GB.
INSTALLED, ANSWERED = 1800, 600


class NotInstalledError(Exception):
    """The lowest versions cannot be installed together; the message says what pip said."""


def lowest_pins(pyproject: Path = ROOT / "pyproject.toml") -> list[str]:
    """`name==version` of each dependency, in the order of the file; one without a lower bound is an error."""
    project = tomllib.loads(pyproject.read_text())["project"]
    texts = [*project["dependencies"]]
    for extra in EXTRAS:
        texts += project["optional-dependencies"][extra]
    pins = []
    for requirement in map(Requirement, texts):
        (lowest,) = (one.version for one in requirement.specifier if one.operator == ">=")
        pins.append(f"{requirement.name}=={lowest}")
    return pins


def installed(folder: Path) -> Path:
    """The Python of the environment below `folder`, made first where it is not there yet.

    Raises:
        NotInstalledError: there is no network, no room, no such wheel, or two bounds exclude each other.
    """
    pins = lowest_pins()
    key = hashlib.sha256("\n".join([*pins, sys.version]).encode()).hexdigest()[:12]
    place = folder / f"lowest-{key}"
    python, ready = place / "bin" / "python", place / "ready"
    if ready.is_file():
        return python
    _run([sys.executable, "-m", "venv", "--clear", str(place)])
    wheels = ("--only-binary", ":all:", "--no-binary", FROM_SOURCE)
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wheels, *pins])
    ready.touch()
    return python


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALLED, check=False)
    except subprocess.TimeoutExpired as error:
        raise NotInstalledError(f"not installed after {INSTALLED} s") from error
    if done.returncode:
        raise NotInstalledError(" ".join(done.stderr.split())[-800:] or f"exit code {done.returncode}")


def run(python: Path, words: list[str], home: Path) -> "subprocess.CompletedProcess[str]":
    """`python -m word…` of this source tree in that environment; outputs and tracking store go to `home`."""
    private = ("MLFLOW_", "REID_", "HYDRA_", "PYTHON")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(private)}
    own = {"REID_HOME": str(home), "PYTHONPATH": str(ROOT), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    command = [str(python), "-m", *words]
    return subprocess.run(
        command, env={**kept, **own}, cwd=home, capture_output=True, text=True, timeout=ANSWERED, check=False
    )
