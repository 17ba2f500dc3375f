"""The study of generalisation: `python -m experiments.generalisation plan | run | report`.

`run` types the commands that `plan` prints, one after the other. Each is a sweep of `reid.train`, so
whatever was killed goes on where it was when `run` is typed again, and what is finished is not run again.
`report` makes the tables of what is there.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from reid.home import home

HERE = Path(__file__).parent
PLAN = HERE / "plan.yaml"
#: Where the sweeps of this study lie, below the home of the project.
SWEEPS = Path("multirun") / "generalisation"


@dataclass(frozen=True)
class Sweep:
    """One setting of a table: the words that are typed after `python -m reid.train`."""

    table: str
    setting: str
    words: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return home() / SWEEPS / f"{self.table}-{self.setting}"

    def command(self) -> list[str]:
        return [
            sys.executable,
            "-m",
            "reid.train",
            "-m",
            *self.words,
            f"hydra.sweep.dir={quoted(self.folder)}",
        ]


def sweeps(plan: dict[str, Any], crops: str, weights: str) -> Iterator[Sweep]:
    """The sweeps of the plan, in their order."""
    seeds = ",".join(map(str, plan["seeds"]))
    parts = f"dataset.parts=[synthetic,synthetic_night,{{name:folder,root:{quoted(crops)}}}]"
    for table, entry in plan["tables"].items():
        source = quoted(weights) if entry["weights"] else "none"
        for setting, keys in entry["settings"].items():
            chosen = {word.partition("=")[0]: word for word in [*plan["common"], *keys]}  # a later one wins
            words = ["sweep=leave_one_out", "dataset=joint", parts, f"seed={seeds}", *chosen.values()]
            words += [f"backbone.weights={source}", "tracking.experiment=generalisation"]
            yield Sweep(table, setting, (*words, f"sweep.name={table}-{setting}"))


def quoted(path: str | Path) -> str:
    """A path as a value of Hydra's grammar, whatever letters it has."""
    text = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def shown(sweep: Sweep) -> str:
    """The command as somebody would type it."""
    return f"python {shlex.join(sweep.command()[1:])}"


def run(planned: Sequence[Sweep]) -> int:
    """Run every sweep; 1 if one of them did not finish, after all others were tried."""
    failed = []
    for number, sweep in enumerate(planned, start=1):
        print(f"{number} of {len(planned)}: {shown(sweep)}", flush=True)
        if subprocess.run(sweep.command(), cwd=home(), check=False).returncode:
            failed.append(f"{sweep.table}-{sweep.setting}")
    if failed:
        print(f"not finished: {', '.join(failed)}. The same command goes on with them", file=sys.stderr)
    return int(bool(failed))


def report(planned: Sequence[Sweep]) -> int:
    """Make one table of the sweeps of each table; 1 if cells are missing."""
    code = 0
    for table in dict.fromkeys(sweep.table for sweep in planned):
        there = [sweep for sweep in planned if sweep.table == table and sweep.folder.is_dir()]
        if not there:
            print(f"{table}: no sweep was begun. python -m experiments.generalisation run", file=sys.stderr)
            code = 1
            continue
        runs = ",".join(str(sweep.folder) for sweep in there)
        words = [sys.executable, "-m", "reid.report", f"runs={runs}", "--name", table]
        done = subprocess.run(words, cwd=home(), check=False).returncode
        code = max(code, done, int(len(there) < sum(sweep.table == table for sweep in planned)))
    return min(code, 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: done; 1: something is not finished; 2: asked wrongly."""
    parser = argparse.ArgumentParser(prog="python -m experiments.generalisation", description=__doc__)
    parser.add_argument("stage", choices=("plan", "run", "report"))
    parser.add_argument("--crops", help="the Market train-half split, a folder in Market's layout")
    parser.add_argument("--weights", help="ImageNet weights of MobileNetV2, a file")
    parser.add_argument(
        "--only", action="append", default=[], metavar="SETTING", help="of these settings alone"
    )
    options = parser.parse_args(arguments)
    plan = yaml.safe_load(PLAN.read_text())
    crops, weights = (
        str(Path(one).expanduser().absolute()) if one else default
        for one, default in (
            (options.crops, "/path/to/market_split"),
            (options.weights, "/path/to/mobilenet_v2.pt"),
        )
    )
    planned = list(sweeps(plan, crops, weights))
    known = [sweep.setting for sweep in planned]
    for name in options.only:
        if name not in known:
            parser.error(f"--only {name}: expected one of {', '.join(known)}")
    planned = [sweep for sweep in planned if not options.only or sweep.setting in options.only]
    if options.stage == "plan":
        print("\n".join(shown(sweep) for sweep in planned))
        return 0
    if options.stage == "report":
        return report(planned)
    for name, path in (("--crops", options.crops), ("--weights", options.weights)):
        if path is None or not Path(path).expanduser().exists():
            parser.error(f"{name} {path or ''}: expected a path that is there")
    return run(planned)


if __name__ == "__main__":
    sys.exit(main())
