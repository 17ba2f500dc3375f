"""What adaptation without labels is worth: a model of the drawn day meets the drawn night.

    python -m experiments.adapt --minutes 120     runs the missing cells, a row of results/cells.csv each
    python -m experiments.adapt report            the table of the README, of the rows that are there

Kill it at any time: the same command goes on with the cell that was under way.
"""

import csv
import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.mean import Mean
from experiments.modern_recipe.run import Command, OutOfTime, in_process_of_its_own
from reid.config.dialects import CommandParser
from reid.engine.checkpoint import load_checkpoint
from reid.engine.checkpoint_meta import ADAPTATION
from reid.engine.rundir import LAST, read_status
from reid.home import home, source_root
from reid.terminal import Terminal, complaint
from reid.tracking import environment

RESULTS = Path(__file__).parent / "results"
COLUMNS = (
    "kind", "seed", "mAP", "low", "high", "rank-1", "clusters", "rounds", "minutes", "commit", "command",
)  # fmt: skip
#: The rows of a seed, in the order in which they are made; what each says in the README.
KINDS = {
    "direct": "as trained by day",
    "batch_norm": "batch norms of the night (`adapt.batch_norm_only=true`)",
    "adapted": "adapted without labels",
    "labelled": "trained on with the labels of the night",
}
#: The recipe of both trainings with labels: that of the quickstart.
RECIPE = (
    "backbone=resnet18", "backbone.weights=none", "image.height=64", "image.width=32", "image.padding=4",
    "epochs=14", "schedule.milestones=[9,12]", "schedule.warmup_epochs=2", "eval.period=0",
)  # fmt: skip
#: People on whom no default of `reid.adapt` was chosen; the others have dataset.seed=7.
PEOPLE = "dataset.seed=0"


@dataclass(frozen=True)
class Cell:
    """One command of the study: `kind` of its row, or `source` for the model that all of a seed begin
    with."""

    kind: str
    seed: int
    command: str
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.seed}"


def cells(seeds: int, folder: Path, more: Sequence[str] = ()) -> list[Cell]:
    """All cells, seed by seed.

    folder: of the runs. more: words for the data of all, such as `dataset.preset=tiny`, and for training.
    """
    found = []
    for seed in range(seeds):
        source = f"checkpoint={folder / f'source_{seed}' / 'model.pt'}"
        night = ("dataset=synthetic_night", PEOPLE, *_of_data(more))
        begin = f"init_from={folder / f'source_{seed}' / 'model.pt'}"
        found += [
            Cell("source", seed, "train", ("dataset=synthetic", PEOPLE, *RECIPE, f"seed={seed}", *more)),
            Cell("direct", seed, "evaluate", (source, *night, "card=true")),
            Cell(
                "batch_norm", seed, "adapt",
                (source, *night, f"seed={seed}", "adapt.batch_norm_only=true", *_of_adaptation(more)),
            ),
            Cell("adapted", seed, "adapt", (source, *night, f"seed={seed}", *_of_adaptation(more))),
            Cell(
                "labelled", seed, "train",
                (begin, "dataset=synthetic_night", PEOPLE, *RECIPE, f"seed={seed}", *more),
            ),
        ]  # fmt: skip
    return found


def _of_data(words: Sequence[str]) -> list[str]:
    return [word for word in words if word.startswith(("dataset.", "data.", "device="))]


def _of_adaptation(words: Sequence[str]) -> list[str]:
    return [word for word in words if word.startswith(("batch.", "adapt.", "optimizer.", "loss"))]


def run(cell: Cell, folder: Path, command: Command, seconds: float) -> float:
    """Run a cell to its end, or go on with what a kill has left of it; the minutes that this start took.

    Raises:
        OutOfTime: the seconds are over.
        RuntimeError: the command failed.
    """
    place = folder / cell.name
    words = [*cell.words, f"hydra.run.dir={place}"]
    if cell.command != "evaluate" and (place / LAST).exists():
        words.append(f"resume={place}")
    elif place.exists():
        shutil.rmtree(place)  # killed before there was anything to go on with
    began = time.monotonic()
    code = command(cell.command, [word for word in words if not _goes_on_by_itself(word, words)], seconds)
    if code != 0:
        raise RuntimeError(f"{cell.name}: reid.{cell.command} ended with {code}")
    return (time.monotonic() - began) / 60


def _goes_on_by_itself(word: str, words: Sequence[str]) -> bool:
    """Whether what a run begins with has no say any more, since the run goes on."""
    return word.startswith("init_from=") and any(one.startswith("resume=") for one in words)


def is_done(cell: Cell, folder: Path) -> bool:
    status = read_status(folder / cell.name)
    return status is not None and status.status == "FINISHED"


def row_of(cell: Cell, folder: Path, minutes: float) -> dict[str, object]:
    """What is kept of a cell: scores with their interval over people, from the checkpoint that it wrote."""
    of = folder / (f"source_{cell.seed}" if cell.kind == "direct" else cell.name)
    meta = load_checkpoint(of / "model.pt").meta
    scores = next(row for row in reversed(meta["scores"]) if not row["reranked"] and _is_night(row, cell))
    low, high = scores["intervals"].get("mAP", (math.nan, math.nan))
    adapted = meta.get(ADAPTATION, {})
    tags = environment(source_root()).tags
    shown = [word for word in cell.words if "/" not in word]
    return {
        "kind": cell.kind, "seed": cell.seed, "mAP": scores["values"]["mAP"], "low": low, "high": high,
        "rank-1": scores["values"]["rank-1"], "clusters": adapted.get("clusters", ""),
        "rounds": adapted.get("rounds", "") if cell.kind == "adapted" else "", "minutes": round(minutes, 1),
        "commit": tags.get("reid.git.sha", "")[:10],
        "command": f"python -m reid.{cell.command} {' '.join(shown)}",
    }  # fmt: skip


def _is_night(row: Mapping[str, object], cell: Cell) -> bool:
    """Of a model of the day that was judged on the night too, the row of the night."""
    return cell.kind != "direct" or row["own"] is False


def read(results: Path) -> list[dict[str, str]]:
    file = results / "cells.csv"
    if not file.exists():
        return []
    with file.open(newline="") as handle:
        return list(csv.DictReader(handle))


def append(results: Path, row: Mapping[str, object]) -> None:
    results.mkdir(parents=True, exist_ok=True)
    new = not (results / "cells.csv").exists()
    with (results / "cells.csv").open("a", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """The README's table: mean mAP over the seeds, and the difference from direct transfer, seed by seed."""
    direct = {row["seed"]: 100 * float(row["mAP"]) for row in rows if row["kind"] == "direct"}
    lines = [
        "| model | mAP by night (%) | rank-1 (%) | mAP less direct transfer, points | seeds | minutes |",
        "|---|---|---|---|---|---|",
    ]
    for kind, words in KINDS.items():
        of = [row for row in rows if row["kind"] == kind]
        if not of:
            continue
        scores, first = (Mean.of([100 * float(row[name]) for row in of]) for name in ("mAP", "rank-1"))
        paired = [100 * float(row["mAP"]) - direct[row["seed"]] for row in of if row["seed"] in direct]
        less = "-" if kind == "direct" or not paired else Mean.of(paired).signed()
        minutes = Mean.of([float(row["minutes"]) for row in of]).value
        lines.append(f"| {words} | {scores} | {first} | {less} | {len(of)} | {minutes:.1f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None, command: Command = in_process_of_its_own) -> int:
    """Exit code 0: all cells are there, or the time is over; 1: a cell failed; 2: wrong usage."""
    parser = CommandParser(prog="python -m experiments.adapt", description=__doc__)
    parser.add_argument("stage", nargs="?", choices=("run", "report"), default="run", help="what to do")
    parser.add_argument("--minutes", type=float, help="end after so many; the same command goes on")
    parser.add_argument("--seeds", type=int, default=3, help="models of the day (default 3)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of cells.csv")
    parser.add_argument("--runs", type=Path, help="the folder of the runs (default outputs/adapt_study)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a key of the runs, for a try"
    )
    options = parser.parse_args(arguments)
    console = Terminal(soft_wrap=True)
    if options.stage == "report":
        console.print(table(read(options.results)), highlight=False)
        return 0
    folder = (options.runs or home() / "outputs" / "adapt_study").absolute()
    ends = math.inf if options.minutes is None else time.monotonic() + 60 * options.minutes
    kept = {(row["kind"], int(row["seed"])) for row in read(options.results)}
    try:
        for cell in cells(options.seeds, folder, options.set):
            if (cell.kind, cell.seed) in kept:
                continue
            if time.monotonic() >= ends:
                raise OutOfTime
            minutes = 0.0
            if not is_done(cell, folder):
                minutes = run(cell, folder, command, ends - time.monotonic())
            if cell.kind in KINDS:
                append(options.results, row_of(cell, folder, minutes))
    except OutOfTime:
        console.print("the time is over; the same command goes on", highlight=False)
        return 0
    except RuntimeError as error:
        Terminal(stderr=True, soft_wrap=True).print(complaint(str(error)), highlight=False)
        return 1
    console.print(table(read(options.results)), highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
