"""Does a sweep survive anything?  `python -m experiments.faults --rounds 3`

Runs a small sweep undisturbed, then the same sweep with one fault at a random moment in each round, started
again until it is finished; compares what is there at the end with the undisturbed sweep.
"""

import argparse
import csv
import json
import os
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from experiments.faults.faults import (
    FAULTS,
    WITH_POSTGRES,
    WITH_SERVER,
    Fault,
    Scene,
    corrupt_image,
    fill_disk,
    orphans_of,
)  # fmt: skip
from experiments.faults.sweep import CampaignError, Sweep
from experiments.faults.verdict import Numbers, Verdict, judge, numbers_of
from experiments.server.mlflow_server import MlflowServer
from experiments.server.postgres import Postgres
from reid.config.dialects import CommandParser
from reid.data import load_dataset
from reid.tracking import default_store
from reid.tracking.sources import code as code_hash

RESULTS = Path(__file__).parent / "results" / "campaign.csv"
#: Two cells of one sweep; of the corrupt image: the same cell on two copies of the data.
CELLS = ("loss.alpha=1.4,1.6",)
MOST_STARTS = 6
DISK_MIB = 900


@dataclass(frozen=True)
class Row:
    """One round.  seed, round: what the moment was drawn by.

    moment: how many operations its cells had tracked when the fault struck, of how many.
    exits: of each start; -9 is a launcher that was killed.  The other columns are those of `Verdict`.
    """

    fault: str
    launcher: str
    seed: int
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
    """Exit code 0: nothing lost, doubled or changed; 1: something was; 2: wrong usage.

    Rounds that the log has already are not run again: the same command goes on after a kill.
    """
    options = _parser().parse_args(arguments)
    chosen = [fault for fault in FAULTS if options.only in f"{fault.name}, {fault.launcher}"]
    if not chosen or options.rounds < 1:
        faults = "; ".join(f"{fault.name}, {fault.launcher}" for fault in FAULTS)
        print(
            f"experiments.faults: expected --rounds 1 or more, and --only part of: {faults}", file=sys.stderr
        )
        return 2
    folder = Path(options.folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    rows = _read(options.out)
    done = {(row.fault, row.launcher, row.seed, row.round) for row in rows}
    print(f"working in {folder}; {len(rows)} rounds are in {options.out}", flush=True)
    reference = _undisturbed(folder)
    for number in range(1, options.rounds + 1):
        for fault in chosen:
            if (fault.name, fault.launcher, options.seed, number) in done:
                continue
            # A string is seeded by its hash of sha512, the same in every process.
            chance = random.Random(f"{options.seed} {fault.name} {fault.launcher} {number}")
            row = _round(fault, options.seed, number, chance, folder, reference)
            print("  ".join(f"{key} {value}" for key, value in asdict(row).items()), flush=True)
            rows.append(row)
            _write(rows, options.out)
    bad = sum(row.lost + row.doubled + row.left_open + row.changed + abs(row.parents - 1) for row in rows)
    print(f"{len(rows)} rounds: {bad or 'nothing'} lost, doubled, left open or changed")
    return 1 if bad else 0


def _undisturbed(folder: Path) -> Reference:
    """The sweep that all others are compared with, by the basic launcher: run once in a folder."""
    kept, made_of = folder / "reference.json", [code_hash(), *CELLS]
    if kept.exists():
        found = json.loads(kept.read_text())
        if found["made_of"] == made_of:
            return Reference(
                {name: _numbers(values) for name, values in found["numbers"].items()}, found["operations"]
            )
    home = folder / "reference"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    sweep = Sweep(home, "basic", [*CELLS, f"data.root={_data(folder / 'data')}"])
    sweep.start()
    if sweep.wait() != 0:
        raise CampaignError(f"the undisturbed sweep failed; see {sweep.log}")
    numbers = {name: found for (name, _), found in numbers_of(home, default_store(home).uri).items()}
    reference = Reference(numbers, sweep.progress())
    kept.write_text(json.dumps({"made_of": made_of, **asdict(reference)}))
    return reference


def _numbers(values: dict[str, Any]) -> Numbers:
    """The same from JSON, which has no tuples; its floats are exact."""
    metrics = {name: [(step, value) for step, value in points] for name, points in values["metrics"].items()}
    return Numbers(metrics, values["weights"])


def _round(
    fault: Fault, seed: int, number: int, chance: random.Random, folder: Path, reference: Reference
) -> Row:
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
        _server(folder, title, fault) as (server, postgres),
    ):
        sweep = Sweep(home, fault.launcher, words, server.uri if server else None)
        moment = chance.randrange(operations)
        sweep.start()
        if sweep.wait_for(moment):
            time.sleep(chance.random())
            with orphans_of(sweep):
                scene = Scene(server, images, data / ".store", postgres)
                repair = fault.strike(sweep, chance, scene)
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
        uri = server.database if server else default_store(sweep.home).uri
        verdict: Verdict = judge(sweep.home, uri, reference.numbers)
    if verdict.clean:
        shutil.rmtree(sweep.home)
    return Row(
        fault.name, fault.launcher, seed, number, f"{moment} of {operations}", len(sweep.exits),
        " ".join(map(str, sweep.exits)), **asdict(verdict), seconds=round(time.monotonic() - started),
    )  # fmt: skip


@contextmanager
def _home(home: Path, full: bool) -> Iterator[Path]:
    """The folder of a round's outputs; where its disk will be full, a small file system of its own.

    What a round that was cut off has left there goes.
    """
    for left in home.parent.glob(f"{home.name}*"):
        if left.is_mount():
            subprocess.run(["umount", "--lazy", left], check=True)
        shutil.rmtree(left) if left.is_dir() else left.unlink()
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
def _server(folder: Path, title: str, fault: Fault) -> Iterator[tuple[MlflowServer | None, Postgres | None]]:
    """The tracking server of a round that needs one, and its PostgreSQL if it needs that too."""
    if fault.strike not in WITH_SERVER:
        yield None, None
        return
    place = folder / f"{title}-server"
    postgres, database, variables = None, None, {}
    with ExitStack() as stack:
        if fault.strike in WITH_POSTGRES:
            password = secrets.token_hex(16)
            postgres = Postgres(place, password)
            postgres.start()
            stack.callback(postgres.kill)
            postgres.make_database("mlflow")
            database, variables = postgres.uri("mlflow"), {"PGPASSWORD": password}
            os.environ["PGPASSWORD"] = password  # what judges the round reads the database too
        server = MlflowServer(place, database, variables=variables)
        server.start()
        stack.callback(server.kill)
        yield server, postgres


def _data(root: Path) -> Path:
    """The tiny synthetic set under `root`, drawn where it is missing; every copy has the same bytes."""
    load_dataset("synthetic", root / "synthetic" / "day_tiny_0", preset="tiny")
    return root


def _read(path: Path) -> list[Row]:
    """The rounds that the log has."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        kinds = {field.name: field.type for field in fields(Row)}
        return [
            Row(**{name: int(value) if kinds[name] is int else value for name, value in row.items()})  # type: ignore[arg-type]
            for row in csv.DictReader(file)
        ]


def _write(rows: Sequence[Row], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, asdict(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(map(asdict, rows))


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="python -m experiments.faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="rounds of each fault in all (default: 1)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the moments at which they strike (default: 0)"
    )
    parser.add_argument("--only", default="", help="only faults whose name and launcher hold this text")
    parser.add_argument(
        "--folder",
        default=str(Path(tempfile.gettempdir()) / "reid-faults"),
        help="where to work, about 1 GB; the undisturbed sweep is kept there (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="the log (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
