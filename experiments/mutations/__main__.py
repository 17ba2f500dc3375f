"""Does a damaged or hostile file ever get past the suite?  `python -m experiments.mutations --files 10000`

Mutates small real files of every kind that the suite reads, and reads each by the suite's own reader, in a
process that is watched.
"""

import argparse
import csv
import json
import math
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from experiments.mutations.outcome import (
    CRASH,
    FAULTS,
    HANG,
    MEMORY,
    MOST_MEMORY,
    READ,
    REFUSED,
    Outcome,
)  # fmt: skip
from experiments.mutations.specimens import SPECIMENS, Specimen
from reid.config.dialects import CommandParser

RESULTS = Path(__file__).parent / "results" / "mutations.csv"
#: Seconds of processor time; the slowest of these files takes a tenth of one to read.
PATIENCE_S = 20.0
#: Seconds by the clock: for what waits and computes nothing, on a machine that may be busy with other things.
WAITING_S = 600.0
#: Bytes; a process that holds more is killed, before the machine suffers.
TOO_MUCH = MOST_MEMORY + 2**30
#: Seconds until the process that reads is ready: it imports torch and MLflow first.
START_S = 1800.0


@dataclass
class Row:
    """One kind of file: how many were read as before, read as something else or refused; and the faults."""

    kind: str
    files: int = 0
    as_before: int = 0
    otherwise: int = 0
    refused: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    mebibytes: float = 0.0

    def as_dict(self) -> dict[str, object]:
        counts = {fault: self.faults[fault] for fault in FAULTS}
        return {
            "kind": self.kind, "files": self.files, "read as before": self.as_before,
            "read as something else": self.otherwise, "refused": self.refused, **counts,
            "slowest, s": f"{self.seconds:.1f}", "most memory, MiB": f"{self.mebibytes:.0f}",
        }  # fmt: skip


class Reader:
    """The process that reads; it is started again where a file has brought it down."""

    def __init__(self, folder: Path, specimens: Sequence[Specimen]) -> None:
        self.folder = folder
        self._specimens = specimens
        self._process: subprocess.Popen[str] | None = None

    def read(self, specimen: Specimen) -> Outcome:
        """What the file that lies there now comes to."""
        process = self.start()
        assert process.stdin is not None
        process.stdin.write(json.dumps(specimen.name) + "\n")
        process.stdin.flush()
        answer = self._answer(process, WAITING_S, PATIENCE_S)
        if answer is not None:
            return Outcome(**json.loads(answer))
        alive, (_, held) = process.poll() is None, _used(process)
        self.stop()
        if alive and held > TOO_MUCH:
            return Outcome(MEMORY, f"killed at {held / 2**30:.1f} GiB", 0, held)
        kind, says = (HANG, "") if alive else (CRASH, f"exit code {process.returncode}")
        return Outcome(kind, says, PATIENCE_S if alive else 0, 0)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def start(self) -> subprocess.Popen[str]:
        """The process, which is ready; it reads the originals first."""
        if self._process is not None:
            return self._process
        words = [sys.executable, "-m", "experiments.mutations.reader", str(self.folder)]
        words += [specimen.name for specimen in self._specimens]
        for specimen in self._specimens:
            restore(self.folder, specimen)
        with (self.folder / "reader.log").open("ab") as log:
            self._process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        if self._answer(self._process, START_S) is None:
            raise RuntimeError(f"the reader does not start; see {self.folder / 'reader.log'}")
        return self._process

    def _answer(self, process: subprocess.Popen[str], wait: float, computing: float = math.inf) -> str | None:
        """The next line; None where the process has ended, is too slow, or holds too much."""
        assert process.stdout is not None
        deadline, latest = time.monotonic() + wait, _used(process)[0] + computing
        while time.monotonic() < deadline:
            ready, _, _ = select.select([process.stdout], [], [], 0.1)
            if ready:
                return process.stdout.readline() or None
            seconds, held = _used(process)
            if seconds > latest or held > TOO_MUCH:
                return None
        return None


def _used(process: subprocess.Popen[str]) -> tuple[float, int]:
    """The processor time (seconds) that a process has used, and the memory (bytes) that it holds."""
    try:
        one = psutil.Process(process.pid)
        times = one.cpu_times()
        return float(times.user + times.system), int(one.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0.0, 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: no fault was found; 1: some were, their files are kept; 2: wrong usage."""
    options = _parser().parse_args(arguments)
    chosen = [specimen for specimen in SPECIMENS if options.only in specimen.name]
    if not chosen or options.files < len(chosen):
        kinds = "; ".join(specimen.name for specimen in SPECIMENS)
        least = len(chosen) or 1
        print(
            f"experiments.mutations: expected --files {least} or more, and --only part of: {kinds}",
            file=sys.stderr,
        )
        return 2
    folder = Path(options.folder or tempfile.mkdtemp(prefix="reid-mutations-")).absolute()
    make_originals(folder, chosen)
    rows, reader = [], Reader(folder, chosen)
    try:
        for number, specimen in enumerate(chosen):
            count = options.files // len(chosen) + (number < options.files % len(chosen))
            rows.append(_attack(specimen, count, options.seed, reader))
            print("  ".join(f"{key} {value}" for key, value in rows[-1].as_dict().items()), flush=True)
    finally:
        reader.stop()
    if options.out:
        _write(rows, options.out)
    faults = sum(row.faults.total() for row in rows)
    where = f"; their files and what was said lie in {folder / 'faults'}" if faults else ""
    print(f"{sum(row.files for row in rows):,} files, {faults or 'no'} faults{where}")
    if not faults and not options.folder:
        shutil.rmtree(folder)
    return 1 if faults else 0


def make_originals(folder: Path, specimens: Sequence[Specimen]) -> None:
    """A folder of each kind's own: as it was made in `originals`, and one that is read."""
    for specimen in specimens:
        place = folder / specimen.name
        if not (folder / "originals" / specimen.name).is_dir():
            place.mkdir(parents=True)
            specimen.make(place)  # where it will be read, since some files name their place
            shutil.copytree(place, folder / "originals" / specimen.name)


def restore(folder: Path, specimen: Specimen) -> None:
    """Put everything back as it was made."""
    place, original = folder / specimen.name, folder / "originals" / specimen.name
    for path in place.iterdir():
        if path.name not in specimen.stays:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(
        original, place, dirs_exist_ok=True, ignore=lambda _, names: set(names) & set(specimen.stays)
    )


def mutated(specimen: Specimen, content: bytes, seed: int, number: int) -> bytes:
    """The file of that number: one to three mutations of the original."""
    chance = random.Random(f"{seed} {specimen.name} {number}")
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        content = chance.choice(specimen.mutations)(content, chance)
    return content


def _attack(specimen: Specimen, count: int, seed: int, reader: Reader) -> Row:
    row = Row(specimen.name)
    said: Counter[str] = Counter()
    restore(reader.folder, specimen)
    place = next((reader.folder / specimen.name).glob(specimen.file))
    content = place.read_bytes()
    original = reader.read(specimen)
    if original.kind != READ:
        raise RuntimeError(f"{specimen.name} itself is not read: {original.says}")
    for number in range(count):
        reader.start()  # the last file may have ended it
        restore(reader.folder, specimen)
        new = mutated(specimen, content, seed, number)
        place.write_bytes(new)
        outcome = reader.read(specimen)
        row.files += 1
        row.seconds = max(row.seconds, outcome.seconds)
        row.mebibytes = max(row.mebibytes, outcome.memory / 2**20)
        if outcome.kind == READ:
            same = outcome.says == original.says
            row.as_before += same
            row.otherwise += not same
        elif outcome.kind == REFUSED:
            row.refused += 1
        else:
            row.faults[outcome.kind] += 1
            last = (outcome.says.strip().splitlines() or [""])[-1]
            said[last] += 1
            if said[last] <= 3:
                _keep(
                    reader.folder / "faults", f"{specimen.name}-{number}-{outcome.kind}", place, new, outcome
                )
                print(f"{specimen.name}, file {number}: {outcome.kind}: {last[:300]}", flush=True)
    restore(reader.folder, specimen)
    return row


def _keep(folder: Path, name: str, place: Path, content: bytes, outcome: Outcome) -> None:
    folder.mkdir(exist_ok=True)
    stem = name.replace(" ", "_").replace(",", "")
    (folder / f"{stem}{place.suffix}").write_bytes(content)
    (folder / f"{stem}.txt").write_text(outcome.says, errors="replace")


def _write(rows: Sequence[Row], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0].as_dict(), lineterminator="\n")
        table.writeheader()
        table.writerows(row.as_dict() for row in rows)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="python -m experiments.mutations", description=__doc__)
    parser.add_argument(
        "--files", type=int, default=10_000, help="how many, of all kinds together (default: 10000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default: 0)")
    parser.add_argument("--only", default="", help="only kinds whose name holds this text")
    parser.add_argument("--folder", help="where to work, about 100 MB (default: a new temporary folder)")
    parser.add_argument("--out", type=Path, help="write the table to this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
