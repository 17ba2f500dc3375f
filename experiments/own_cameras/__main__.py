"""What to believe of a model on cameras of one's own: who, or nobody; how sure; and two features as one.

    python -m experiments.own_cameras --market market.pt --crops DIR --drawn quickstart.pt

measures the model of the Market train-half split on its split, and the one of the drawn set on drawn people
by day and by night. Each measurement has two steps: `fixed`, in which thresholds, calibrations and weights
are fitted on half of the people and written down, and `tested`, on the other half. results/log.csv holds the
steps in the order in which they happened; the command fails if one was tested before it was fixed.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reid.config.dialects import CommandParser
from reid.errors import UsageError
from reid.terminal import Terminal

RESULTS = Path(__file__).parent / "results"
#: A line of the log of a command that says that a step is done.
STEP = re.compile(r"^\[([\d-]+ [\d:,]+)\].* - (fixed|tested): (.*)$", re.MULTILINE)
STEPS = ["fixed", "tested"]
#: What each command writes down.
RECORDS = {"identify": "identify.json", "calibrate": "calibration.json", "fuse": "fusion.json"}


@dataclass(frozen=True)
class Measurement:
    """A command on one model and data; `command` is identify, calibrate or fuse."""

    name: str
    command: str
    overrides: tuple[str, ...]


def measurements(
    market: Path | None, crops: Path | None, drawn: Path | None, preset: str = "small",
    more: Sequence[str] = (), identify: Sequence[str] = (),
) -> Iterator[Measurement]:  # fmt: skip
    """All of them, in their order, with absolute places.

    more: keys of every command. identify: keys of reid.identify alone.
    """
    places: list[tuple[str, Path, tuple[str, ...]]] = []
    if market is not None and crops is not None:
        root = crops.absolute()
        places.append(("market split", market, ("dataset=folder", f"dataset.root={root}")))
    if drawn is not None:
        for domain, choice in (("day", "synthetic"), ("night", "synthetic_night")):
            places.append((f"drawn {domain}", drawn, (f"dataset={choice}", f"dataset.preset={preset}")))
    for name, model, data in places:
        checkpoint = model.absolute()
        common = (f"checkpoint={checkpoint}", *data, *more)
        yield Measurement(name, "identify", (*common, *identify))
        for method in ("logistic", "isotonic"):
            yield Measurement(f"{name}, {method}", "calibrate", (*common, f"method={method}"))
        both = ", ".join(
            f"{{checkpoint: '{checkpoint}', label: {side}, neck_feature: {side}}}"
            for side in ("after", "before")
        )
        yield Measurement(f"{name}, two features", "fuse", (f"models=[{both}]", *data, *more))


def measure(one: Measurement, folder: Path) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """Run a measurement, its checkpoint written to `folder`; its steps, and what it wrote down.

    Raises:
        UsageError, RunError: as the command. StepsError: it was not fixed first and tested then.
    """
    from reid.jobs.python_call import call  # torch, which help and what is typed wrongly do without

    overrides = list(one.overrides)
    if one.command != "fuse":
        overrides.append(f"output={folder / (re.sub(r'[^a-z]+', '_', one.name) + '.pt')}")
    job = call(one.command, f"reid.commands.{one.command}:run", overrides)
    log = (job.folder / f"{one.command}.log").read_text()
    record = json.loads((job.folder / RECORDS[one.command]).read_text())
    return steps(one, log), record


class StepsError(UsageError):
    """Something was tested before it was fixed, or not at all."""


def steps(one: Measurement, log: str) -> list[dict[str, str]]:
    """The two steps that the log of a command tells, in its order.

    Raises:
        StepsError: they are not `fixed` and then `tested`, once each.
    """
    found = [
        {"measurement": one.name, "command": one.command, "step": step, "time": time, "what": what}
        for time, step, what in STEP.findall(log)
    ]
    if [row["step"] for row in found] != STEPS:
        raise StepsError(
            f"{one.name}, {one.command}: the log tells {[row['step'] for row in found]}, expected {STEPS}"
        )
    return found


def rows(one: Measurement, record: dict[str, Any]) -> list[dict[str, object]]:
    """What a measurement found, a row each: what, value and interval; fractions."""
    found: list[tuple[str, float | None, Sequence[float | None]]] = []
    if one.command == "identify":
        for fusion, each in record["tested"].items():
            ends = each["intervals"]
            found += [
                (f"FPIR, {fusion}", each["fpir"], ends["fpir"]),
                (f"DIR, {fusion}", each["dir"], ends["dir"]),
            ]
        for size in record["tested"][record["open_set"]["fusion"]]["sizes"]:
            people = size["enrolled"]
            found.append((f"FPIR among {people}", size["fpir"], size["fpir_interval"]))
            found.append((f"FPIR among {people}, modelled", size["modelled"], (None, None)))
            found.append((f"DIR at the FPIR among {people}", size["dir_at"], size["dir_at_interval"]))
    elif one.command == "calibrate":
        for name, each in record["tested"].items():
            found.append((f"ECE, {name}", each["corrected"], each["ece_interval"]))
            found.append((f"Cllr, {name}", each["cllr"], each["cllr_interval"]))
    else:
        for label, gains in record["tested"]["gains"].items():
            for measure_, gain in gains.items():
                found.append((f"{measure_}, fused less {label}", gain["difference"], gain["interval"]))
    return [
        {"measurement": one.name, "what": what, "value": value, "low": ends[0], "high": ends[1]}
        for what, value, ends in found
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: measured; 1: something failed; 2: asked wrongly."""
    parser = CommandParser(prog="python -m experiments.own_cameras", description="What to believe, measured.")
    parser.add_argument("--market", type=Path, help="a model of the Market train-half split, with --crops")
    parser.add_argument("--crops", type=Path, help="the folder of that split")
    parser.add_argument("--drawn", type=Path, help="a model of the drawn people by day")
    parser.add_argument("--preset", choices=("small", "tiny"), default="small", help="of the drawn people")
    parser.add_argument("--target", default="fpir_1e-2", help="of reid.identify (default: fpir_1e-2)")
    parser.add_argument("--share", default="0.5", help="of the people that is enrolled (default: 0.5)")
    parser.add_argument("--replicates", default="1000", help="of the bootstrap (default: 1000)")
    parser.add_argument("--data-root", type=Path, help="where the drawn sets lie, or will be drawn")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the tables go")
    options = parser.parse_args(arguments)
    if options.market is None and options.drawn is None:
        parser.error("nothing to measure: give --market with --crops, or --drawn")
    if (options.market is None) != (options.crops is None):
        parser.error("--market and --crops belong together")
    for name in ("market", "crops", "drawn"):
        place = getattr(options, name)
        if place is not None and not place.exists():
            parser.error(f"--{name} {place}: there is nothing of that name")
    more = ["device=cpu", f"replicates={options.replicates}"]
    more += [f"data.root={options.data_root.absolute()}"] if options.data_root else []
    identify = [f"target={options.target}", f"share={options.share}"]
    results: Path = options.results
    results.mkdir(parents=True, exist_ok=True)
    done_steps: list[dict[str, str]] = []
    found: list[dict[str, object]] = []
    try:
        for one in measurements(options.market, options.crops, options.drawn, options.preset, more, identify):
            stepped, record = measure(one, results.absolute())
            done_steps += stepped
            found += rows(one, record)
            write(results / "log.csv", done_steps)
            write(results / "results.csv", found)
    except (UsageError, OSError, RuntimeError) as error:
        Terminal(stderr=True, soft_wrap=True).print(f"experiments.own_cameras: {error}", highlight=False)
        return 2 if isinstance(error, UsageError) else 1
    print(f"{len(found)} values in {results / 'results.csv'}, the order of the steps in log.csv")
    return 0


def write(file: Path, table: Sequence[dict[str, Any]]) -> None:
    """A table of rows that have the same keys."""
    with file.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(table[0]))
        writer.writeheader()
        writer.writerows(table)


if __name__ == "__main__":
    sys.exit(main())
