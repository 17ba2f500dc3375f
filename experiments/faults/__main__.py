"""Does a sweep survive anything?  `python -m experiments.faults --rounds 3`

Runs a small sweep undisturbed, then the same sweep with one fault at a random moment in each round, started
again until it is finished; compares what is there at the end with the undisturbed sweep.
"""

import argparse
import csv
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from experiments.faults.faults import FAULTS, Fault, Scene, corrupt_image, fill_disk, kill_server, orphans_of
from experiments.faults.sweep import CampaignError, Sweep
from experiments.faults.verdict import Numbers, Verdict, judge, numbers_of
from experiments.server.mlflow_server import MlflowServer
from reid.config.dialects import CommandParser
from reid.data import load_dataset
from reid.tracking import default_store

RESULTS = Path(__file__).parent / "results" / "campaign.csv"
#: Three cells of one sweep; of the corrupt image: the same cell on two copies of the data.
CELLS = ("loss.alpha=1.4,1.6,1.8",)
MOST_STARTS = 6
DISK_MIB = 900


@dataclass(frozen=True)
class Row:
    """One round.  moment: how many operations its cells had tracked when the fault struck, of how many.

    exits: of each start; -9 is a launcher that was killed.  The other columns are those of `Verdict`.
    """

    fault: str
    launcher: str
    round: int
    moment: str
    starts: int
    exits: str
    cells: int
    lost: int
    doubled: int
    left_open: int
    parents: int
    changed: int
    seconds: int


@dataclass(frozen=True)
class Reference:
    """The undisturbed sweep: its numbers by config hash, and how many operations it tracked."""

    numbers: dict[str, Numbers]
    operations: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: nothing lost, doubled or changed; 1: something was; 2: wrong usage."""
    options = _parser().parse_args(arguments)
    chosen = [fault for fault in FAULTS if options.only in f"{fault.name}, {fault.launcher}"]
    if not chosen or options.rounds < 1:
        faults = "; ".join(f"{fault.name}, {fault.launcher}" for fault in FAULTS)
        print(
            f"experiments.faults: expected --rounds 1 or more, and --only part of: {faults}", file=sys.stderr
        )
        return 2
    folder = Path(options.folder or tempfile.mkdtemp(prefix="reid-faults-")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    print(f"working in {folder}", flush=True)
    reference = _undisturbed(folder)
    rows = []
    for number in range(1, options.rounds + 1):
        for fault in chosen:
            # A string is seeded by its hash of sha512, the same in every process.
            chance = random.Random(f"{options.seed} {fault.name} {fault.launcher} {number}")
            row = _round(fault, number, chance, folder, reference)
            print("  ".join(f"{key} {value}" for key, value in asdict(row).items()), flush=True)
            rows.append(row)
            _write(rows, options.out)
    bad = sum(row.lost + row.doubled + row.left_open + row.changed + abs(row.parents - 1) for row in rows)
    print(f"{len(rows)} rounds: {bad or 'nothing'} lost, doubled, left open or changed")
    return 1 if bad else 0


def _undisturbed(folder: Path) -> Reference:
    """Run the sweep that all others are compared with, by the basic launcher."""
    home = folder / "reference"
    home.mkdir()
    sweep = Sweep(home, "basic", [*CELLS, f"data.root={_data(folder / 'data')}"])
    sweep.start()
    if sweep.wait() != 0:
        raise CampaignError(f"the undisturbed sweep failed; see {sweep.log}")
    numbers = numbers_of(home, default_store(home).uri)
    return Reference({name: found for (name, _), found in numbers.items()}, sweep.progress())


def _round(fault: Fault, number: int, chance: random.Random, folder: Path, reference: Reference) -> Row:
    started = time.monotonic()
    title = f"{fault.strike.__name__}-{fault.launcher}-{number}"
    data = _data(folder / "data")
    words, images, operations = [*CELLS, f"data.root={data}"], [], reference.operations
    if fault.strike is corrupt_image:
        own = _data(folder / f"data-{title}")
        images = sorted((own / "synthetic").rglob("*.jpg")) or sorted((own / "synthetic").rglob("*.png"))
        # The cell on its own data is the last one; later than this it would have read them.
        words, operations = [CELLS[0].partition(",")[0], f"data.root={data},{own}"], operations // 3
    with (
        _home(folder / title, full=fault.strike is fill_disk) as home,
        _server(folder, title, fault) as server,
    ):
        sweep = Sweep(home, fault.launcher, words, server.uri if server else None)
        moment = chance.randrange(operations)
        sweep.start()
        if sweep.wait_for(moment):
            time.sleep(chance.random())
            with orphans_of(sweep):
                repair = fault.strike(sweep, chance, Scene(server, images))
                code = sweep.wait()
                repair()
                # Orphans may be at work while it is started again.
                while code != 0 and len(sweep.exits) < MOST_STARTS:
                    sweep.start()
                    code = sweep.wait()
        else:
            sweep.wait()
        if server:
            # What the sweep could not send itself is sent when it is started once more.
            sweep.start()
            sweep.wait()
        uri = server.database if server else default_store(home).uri
        verdict: Verdict = judge(home, uri, reference.numbers)
    if verdict.clean:
        shutil.rmtree(folder / title)
    return Row(
        fault.name, fault.launcher, number, f"{moment} of {operations}", len(sweep.exits),
        " ".join(map(str, sweep.exits)), **asdict(verdict), seconds=round(time.monotonic() - started),
    )  # fmt: skip


@contextmanager
def _home(home: Path, full: bool) -> Iterator[Path]:
    """The folder of a round's outputs; where its disk will be full, a small file system of its own."""
    home.mkdir()
    if full:
        # Only root may; mount refuses anybody else.
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", home], check=True)
    try:
        yield home
    finally:
        if full:
            # Lazily: MLflow keeps the database open as long as this process lives.
            subprocess.run(["umount", "--lazy", home], check=True)


@contextmanager
def _server(folder: Path, title: str, fault: Fault) -> Iterator[MlflowServer | None]:
    if fault.strike is not kill_server:
        yield None
        return
    server = MlflowServer(folder / f"{title}-server")
    server.start()
    try:
        yield server
    finally:
        server.kill()


def _data(root: Path) -> Path:
    """The tiny synthetic set under `root`, drawn where it is missing; every copy has the same bytes."""
    load_dataset("synthetic", root / "synthetic" / "day_tiny_0", preset="tiny")
    return root


def _write(rows: Sequence[Row], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, asdict(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(map(asdict, rows))


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="python -m experiments.faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="rounds of each fault (default: 1)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the moments at which they strike (default: 0)"
    )
    parser.add_argument("--only", default="", help="only faults whose name and launcher hold this text")
    parser.add_argument("--folder", help="where to work, about 1 GB (default: a new temporary folder)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the log (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
