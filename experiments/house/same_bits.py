"""Whether two versions of the suite compute the same bits: three small trainings on a CPU, as hashes.

    python -m experiments.house.same_bits 1e3f991               prints the hashes of one version
    python -m experiments.house.same_bits 1e3f991 HEAD          prints both and compares them
    python -m experiments.house.same_bits before.txt .          an earlier output, and the files as they are

A version is a commit, a folder that holds the source tree, or a file with what this script printed for one
before. Each version is trained by its own code in a process of its own. Hashes are comparable only on one
machine with one installation of torch, since another CPU rounds in another way.
"""

import argparse
import csv
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from experiments.house.versions import source_tree

#: Two epochs in place of fourteen, with the steps of the schedule moved with them: under a minute.
QUICKSTART = (
    "experiment=quickstart", "epochs=2", "schedule.milestones=[1]", "schedule.warmup_epochs=1",
    "eval.period=0", "device=cpu",
)  # fmt: skip
TINY = (
    "dataset=synthetic", "dataset.preset=tiny", "backbone=resnet18", "backbone.weights=none",
    "image.height=32", "image.width=16", "image.padding=2", "batch.identities=4", "tricks.warmup=1",
    "eval.period=0", "device=cpu",
)  # fmt: skip
SWEEP = (*TINY, "epochs=2", "loss.temperature=1.0,10.0")
RESUMED = (*TINY, "epochs=4", "schedule.milestones=[2,3]")

#: Columns of history.csv that measure time, which no seed fixes.
CLOCK = ("train/seconds", "train/images_per_second", "train/data_wait")
STOPPED = 128 + signal.SIGTERM
#: Seconds within which the first epoch of the run that is stopped has ended.
PATIENCE_S = 300

Lines = dict[str, str]


class Training:
    """The trainings of one source tree; what they write goes to a temporary home."""

    def __init__(self, source: Path, home: Path) -> None:
        self._home = home
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("MLFLOW_", "REID_", "HYDRA_"))
        }
        self._environment = {
            **kept,
            "PYTHONPATH": str(source),
            "REID_HOME": str(home),
            "REID_DATA": str(home / "data"),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "reid.train", *arguments],
            cwd=self._home,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str) -> str:
        """Train to the end; what was printed."""
        return finished(self.start(*arguments), 0)


def finished(process: subprocess.Popen[str], code: int) -> str:
    """Wait for a training that has to end with this exit code; what it printed."""
    output, _ = process.communicate()
    if process.returncode != code:
        raise SystemExit(f"{output}\nThe training ended with {process.returncode}, expected {code}")
    return output


def wait_for_first_epoch(process: subprocess.Popen[str], folder: Path) -> None:
    history, deadline = folder / "history.csv", time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        if history.exists() and "\n1," in history.read_text():
            return
        time.sleep(0.01)
    process.terminate()
    raise SystemExit(f"{process.communicate()[0]}\nNo epoch ended in {folder}")


def model_hashes(checkpoint: Path) -> Lines:
    """SHA-256 of the tensors with their names, and of the tensors alone (equal where only names changed)."""
    model: Mapping[str, torch.Tensor] = torch.load(checkpoint, map_location="cpu", weights_only=True)["model"]
    named, digests = hashlib.sha256(), []
    for name in sorted(model):
        tensor = model[name].contiguous()
        content = f"{tensor.dtype} {tuple(tensor.shape)}".encode()
        content += tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        named.update(name.encode() + content)
        digests.append(hashlib.sha256(content).hexdigest())
    unnamed = hashlib.sha256("".join(sorted(digests)).encode())
    return {"tensors with names": named.hexdigest(), "tensors": unnamed.hexdigest()}


def history_hashes(history: Path) -> Lines:
    """SHA-256 of each column of numbers, but those of the clock."""
    with history.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = sorted(set(rows[0]) - set(CLOCK))
    return {
        f"history {column}": hashlib.sha256("\n".join(row[column] for row in rows).encode()).hexdigest()
        for column in columns
    }


def run_lines(name: str, folder: Path) -> Iterator[tuple[str, str]]:
    """All that is compared of one finished run."""
    status = json.loads((folder / "status.json").read_text())
    meta = json.loads(torch.load(folder / "last.pt", map_location="cpu", weights_only=True)["meta"])
    found = {
        "config hash": status["config_hash"],
        "resume hash": meta["resume_hash"],
        "data fingerprint": status["data_fingerprint"],
        **model_hashes(folder / "model.pt"),
        **history_hashes(folder / "history.csv"),
    }
    for what, value in found.items():
        yield f"{name}: {what}", value


def train_all(source: Path) -> Lines:
    """The three trainings with the code of `source`."""
    lines: Lines = {}
    with tempfile.TemporaryDirectory(prefix="same-bits-") as temporary:
        home = Path(temporary)
        training = Training(source, home)
        training.run(*QUICKSTART, f"hydra.run.dir={home / 'quickstart'}")
        lines.update(run_lines("quickstart", home / "quickstart"))

        training.run("-m", *SWEEP, f"hydra.sweep.dir={home / 'sweep'}")
        for cell in ("0", "1"):
            lines.update(run_lines(f"sweep {cell}", home / "sweep" / cell))

        folder = home / "resumed"
        process = training.start(*RESUMED, f"hydra.run.dir={folder}")
        wait_for_first_epoch(process, folder)
        process.send_signal(signal.SIGTERM)
        finished(process, STOPPED)
        output = training.run(*RESUMED, "resume=auto", f"hydra.run.dir={home / 'again'}")
        if "resumed after epoch" not in output:
            raise SystemExit(f"{output}\nThe stopped run was not resumed")
        lines.update(run_lines("resumed", folder))
    return lines


def lines_of(version: str) -> Lines:
    """The lines of a commit, of a source tree, or of a file that holds an earlier output."""
    path = Path(version)
    if path.is_file():
        lines = (line.rpartition("  ") for line in path.read_text().splitlines() if not line.startswith("#"))
        return {name.strip(): value for name, _, value in lines if name}
    with source_tree(version) as source:
        return train_all(source)


def differences(before: Lines, after: Lines) -> list[str]:
    """The names of the lines that are not in both or not equal."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("versions", nargs="+", metavar="VERSION", help="a commit, a folder, a file")
    versions = parser.parse_args().versions
    if len(versions) > 2:
        parser.error("expected one version or two")
    results = []
    for version in versions:
        lines = lines_of(version)
        print(f"# {version}, torch {torch.__version__}, {platform.machine()}, one thread")
        width = max(map(len, lines))
        print("".join(f"{name:<{width}}  {value}\n" for name, value in lines.items()), flush=True, end="")
        results.append(lines)
    if len(results) == 1:
        return 0
    differing = differences(*results)
    for name in differing:
        print(f"differs: {name}")
    if not differing:
        print(f"the same: all {len(results[0])} lines")
    return 1 if differing else 0


if __name__ == "__main__":
    raise SystemExit(main())
