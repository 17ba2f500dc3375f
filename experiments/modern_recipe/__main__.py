"""The study of a recipe of today: `python -m experiments.modern_recipe screen --crops DIR --weights FILE`.

Each stage runs the cells that it still lacks, and writes a row of results/cells.csv after each. Kill it at
any time: the same command goes on.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from experiments.modern_recipe import cost
from experiments.modern_recipe.estimate import estimate
from experiments.modern_recipe.plan import HERE, PLAN, Cell, Plan
from experiments.modern_recipe.run import ROOT, Command, OutOfTime, Runner, in_process_of_its_own
from experiments.modern_recipe.stages import STAGES, Study
from experiments.modern_recipe.table import Table
from reid.config.dialects import CommandParser
from reid.errors import RunError, UsageError
from reid.jobs.compose_errors import explain
from reid.terminal import Terminal, complaint
from reid.tracking import environment

OTHERS = ("plan", "cost", "report")


def main(arguments: Sequence[str] | None = None, command: Command = in_process_of_its_own) -> int:
    """Exit code 0: the stage is complete, or its time is over; 1: a cell failed; 2: wrong usage.

    command: runs a command of the suite; tests give another.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    console = Terminal(soft_wrap=True)
    try:
        study_plan = Plan(options.plan)
        table = Table(options.results / "cells.csv")
        if options.stage == "plan":
            console.print(estimate(study_plan, table, environment(ROOT).tags["reid.cpu"]), highlight=False)
            return 0
        if options.stage == "cost":
            costs = cost.measure_all(table.rows, study_plan, options.seconds)
            cost.write(costs, options.results / "cost.csv")
            console.print(f"{len(costs)} networks: {options.results / 'cost.csv'}", highlight=False)
            return 0
        if options.stage == "report":
            from experiments.modern_recipe.publish import publish  # matplotlib, which no cell needs

            publish(study_plan, table, options.results, options.readme)
            console.print(f"written to {options.readme} and {options.results}", highlight=False)
            return 0
        if options.crops is None or options.weights is None:
            parser.error(f"{options.stage} trains: --crops DIR and --weights FILE are needed")
        ends = time.monotonic() + 60 * options.minutes if options.minutes is not None else float("inf")
        places = {"crops": options.crops, "weights": options.weights, **dict(options.place)}
        runner = Runner(study_plan, places, command, ends)
        return _run(options.stage, study_plan, table, runner, console)
    except (HydraException, OmegaConfBaseException) as error:
        message = explain(error, "train", [])
    except UsageError as error:
        message = str(error)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on", highlight=False)
        return 130
    except RunError as error:
        Terminal(stderr=True, soft_wrap=True).print(complaint(str(error)), highlight=False)
        return 1
    Terminal(stderr=True, soft_wrap=True).print(complaint(message), highlight=False)
    return 2


def _run(stage: str, plan: Plan, table: Table, runner: Runner, console: Terminal) -> int:
    """Run the cells of a stage, one after the other, until it is complete or the time is over."""
    study = Study(plan, table, runner.cpu)
    table.refuse_other_code(runner.tree, runner.machine["reid.version.torch"], runner.threads, runner.cpu)
    runner.refuse_stale(table)
    while cells := study.needed(stage):
        left = runner.ends - time.monotonic()
        of_all = 3600 * float(plan.section("hours")) - table.seconds()
        # A shorter cell may still fit where the next one does not.
        cell = next((one for one in cells if study.seconds(one) <= min(left, of_all)), None)
        if cell is None:
            expected = study.seconds(cells[0]) / 60
            if left <= of_all:
                end = f"{max(0, left) / 60:.0f} are left. The same command goes on with it"
            else:
                end = f"the {plan.section('hours')} hours of the plan (`hours`) leave {of_all / 60:.0f}"
            console.print(f"{cells[0]} takes about {expected:.0f} minutes, and {end}", highlight=False)
            return 0
        console.print(f"{cell}  ({len(cells)} known to be left)", highlight=False)
        try:
            row = runner.row(cell, _teachers(study, cell))
        except OutOfTime:
            console.print(f"{cell}: the time is over. The same command goes on with it", highlight=False)
            return 0
        table.add(row)
        console.print(f"{cell}: mAP {row.mAP:.1f}, rank-1 {row.rank_1:.1f}", highlight=False)
    console.print(f"{stage} is complete; python -m experiments.modern_recipe report", highlight=False)
    return 0


def _teachers(study: Study, cell: Cell) -> dict[str, Cell]:
    """The cells whose models a cell begins with, by the names that its changes have for them."""
    if not cell.models:
        return {}
    return {
        variant.name: variant.cells[0] for variant in study.series(cell.stage) if variant.name in cell.models
    }


def _named(text: str) -> tuple[str, str]:
    name, mark, path = text.partition("=")
    if not (name and mark and path):
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=PATH")
    return name, path


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m experiments.modern_recipe",
        description=(__doc__ or "").partition("\n")[0],
        epilog="plan prints what there is to run and how long it takes. cost measures the networks of the "
        "rows. report writes the tables of the README and the figures.",
    )
    parser.add_argument("stage", choices=(*STAGES, *OTHERS), help="what to run")
    parser.add_argument(
        "--minutes", type=float, help="stop after so many: no cell is begun that would take longer"
    )
    parser.add_argument("--crops", help="the Market train-half split")
    parser.add_argument("--weights", help="ImageNet weights of MobileNetV2")
    parser.add_argument(
        "--place", type=_named, action="append", default=[], metavar="NAME=PATH",
        help="where else lies what the plan calls {NAME}: lite0, weights of EfficientNet-Lite0",
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=5.0, help="of cost: to time a network (default: 5)")
    parser.add_argument("--plan", type=Path, default=PLAN, help="default: plan.yaml here")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="default: results/ here")
    parser.add_argument("--readme", type=Path, default=HERE / "README.md", help="of report: where tables go")
    return parser


if __name__ == "__main__":
    sys.exit(main())
