"""The trackers that an export is for, in a Python environment of their own, and what they make of a file.

BoxMOT and Ultralytics are under the AGPL. Nothing of this project imports them: their code runs in processes
of that environment alone, by the scripts in `drivers/`, and the suite sees the numbers that these write.

The environment sees the project's PyTorch, which is large, by a line in a `.pth` file, and not the project.
"""

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[2]
DRIVERS = Path(__file__).parent / "drivers"
#: Where what lasts between two calls lies, such as the environment.
KEPT = ROOT / ".outside"
#: BoxMOT asks for exactly this onnxruntime, and would install it while it loads a file.
REQUIREMENTS = ("boxmot>=25,<26", "ultralytics>=8.4,<8.5", "onnxruntime==1.24.3")
#: Seconds for installing them, and for one script.
INSTALLED, ANSWERED = 600, 240


class NotInstalledError(Exception):
    """The trackers cannot be installed here; the message says what pip said."""


@dataclass(frozen=True)
class Answer:
    """What a tracker made of the boxes of a frame.

    Attributes:
        features: (N, C) float32, of length 1, in the order of the boxes.
        versions: the packages that took part.
        refused: what its process tried and was not allowed: an address, an installer. Expected to be empty.
    """

    features: npt.NDArray[np.float32]
    versions: dict[str, str]
    refused: list[str]


def installed(folder: Path) -> Path:
    """The Python of the environment below `folder`, made first where it is not there yet.

    Raises:
        NotInstalledError: there is no network, no room, or no such wheel.
    """
    packages = sysconfig.get_paths()["purelib"]
    key = hashlib.sha256("\n".join([*REQUIREMENTS, sys.version, packages]).encode()).hexdigest()[:12]
    place = folder / f"trackers-{key}"
    python, ready = place / "bin" / "python", place / "ready"
    if ready.is_file():
        return python
    _run([sys.executable, "-m", "venv", "--clear", str(place)])
    own = next((place / "lib").glob("python*")) / "site-packages"
    (own / "project.pth").write_text(f"{packages}\n")
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS])
    ready.touch()
    return python


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALLED, check=False)
    except subprocess.TimeoutExpired as error:
        raise NotInstalledError(f"not installed after {INSTALLED} s") from error
    if done.returncode:
        raise NotInstalledError(" ".join(done.stderr.split())[-400:] or f"exit code {done.returncode}")


def ask(
    python: Path, tracker: str, model: Path, frame: Path, boxes: npt.NDArray[np.float32], folder: Path
) -> Answer:
    """The features that `tracker` (boxmot or ultralytics) takes with `model` of the boxes of a frame.

    boxes: (N, 4), x1, y1, x2, y2 in pixels of the frame.
    folder: an empty one for the process, which is its home too.
    """
    home = folder / "home"
    home.mkdir(parents=True)
    np.save(folder / "boxes.npy", boxes)
    places = [model, frame, folder / "boxes.npy", folder / "features.npy", folder / "facts.json"]
    done = subprocess.run(
        [str(place) for place in (python, DRIVERS / f"{tracker}_features.py", *places)],
        env=_environment(home),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=ANSWERED,
        check=False,
    )
    assert done.returncode == 0, f"{tracker} ended with {done.returncode}: {done.stderr[-2000:]}"
    facts = json.loads((folder / "facts.json").read_text())
    return Answer(np.load(folder / "features.npy"), facts["versions"], facts["refused"])


def _environment(home: Path) -> dict[str, str]:
    """No network, no installer, nothing of the user's home, nothing of this project."""
    kept = {key: os.environ[key] for key in ("PATH", "LANG", "OMP_NUM_THREADS") if key in os.environ}
    return {
        **kept,
        "HOME": str(home),
        "PIP_NO_INDEX": "1",
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        "YOLO_CONFIG_DIR": str(home / "ultralytics"),
        "HF_HUB_OFFLINE": "1",
    }
