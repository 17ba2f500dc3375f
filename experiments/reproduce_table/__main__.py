"""The published table by one command: `make reproduce-table`, or `python -m experiments.reproduce_table`.

Plans, looks for everything that is needed, estimates, trains what is not finished, writes the table.
"""

import argparse
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from experiments.reproduce_table import needs, probe, render
from experiments.reproduce_table.collect import finished_runs, provenance, sweep_folder
from experiments.reproduce_table.picture import picture
from experiments.reproduce_table.plan import Planned, plan, sweep_words
from experiments.reproduce_table.profiles import PROFILES, Profile, published_scores
from experiments.reproduce_table.table import Table, fill
from reid.config.checks import ConfigError
from reid.config.dialects import CommandParser
from reid.config.schema import register
from reid.engine.compute import choose_device
from reid.figures import save
from reid.home import home
from reid.jobs.compose_errors import explain
from reid.jobs.console import ConsoleProgress
from reid.jobs.frame import UNTIL, TimeUp
from reid.terminal import Terminal, complaint
from reid.tracking import TrackingError, attach, default_store, describe, read_record
from reid.tracking.names import MAX_TAG, cut

#: What may be added to each run: it changes where and how things run, never what is trained.
ALLOWED = ("data.root=", "data.store=", "device=", "tracking.uri=", "sweep.", "hydra")


def reproduce(options: argparse.Namespace, console: Console) -> int:
    """Run the table, or with `--dry-run` list what it would run and what is missing; returns the exit code.

    Raises:
        ConfigError, HydraException, TrackingError: wrong usage.
    """
    profile, more = PROFILES[options.profile], list(options.override)
    refused = [word for word in more if not word.lstrip("+").startswith(ALLOWED)]
    if refused:
        raise ConfigError(
            f"{' '.join(refused)}: that would be another table. Only {', '.join(ALLOWED)} … may be added; "
            "other recipes are for `python -m reid.train`"
        )
    if options.minutes is not None and not options.minutes > 0:
        raise ConfigError(f"MINUTES={options.minutes:g}: expected a number above 0")
    until = math.inf if options.minutes is None else time.time() + 60 * options.minutes
    seeds = profile.seeds if options.seeds is None else options.seeds
    if seeds < 1:
        raise ConfigError(f"SEEDS={seeds}: expected 1 or more")
    words = sweep_words(profile, seeds, options.force, more)
    planned = plan(words)
    ready = _prepare(profile, planned, console)
    if options.dry_run:
        return 0  # the plan was the question, and what is missing is part of the answer
    if not ready:
        return 1
    code = _sweep(words, until)
    if code == 2:
        return 2
    time_is_up = code == TimeUp().exit_code and time.time() >= until
    folder = sweep_folder([one.cell for one in planned], planned[0].settings.tracking.experiment)
    if folder is None:  # it ended before it began, and has said why
        return code or 1
    table = _write(profile, planned, folder, _command(options), console)
    if time_is_up and not table.failures:
        console.print(f"the {options.minutes:g} minutes are over; the same command goes on with the rest")
        return 0
    return code or (0 if table.complete else 1)


def _prepare(profile: Profile, planned: list[Planned], console: Console) -> bool:
    """Print the plan, what is there, how long it will take, what is missing; True where nothing is."""

    def show(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    todo = [one for one in planned if not one.finished]
    show(f"{profile.title}: {len(planned)} runs, {len(planned) - len(todo)} of them finished already")
    common = set.intersection(*(set(one.cell.overrides) for one in planned))
    for one in planned:
        apart = [word for word in one.cell.overrides if word not in common]
        show(f"  {'finished' if one.finished else 'to run  '}  {' '.join(apart)}")
    if not todo:
        return True
    device = choose_device(todo[0].settings.device)
    progress = ConsoleProgress(console)
    found = needs.check(planned, device, progress)
    for line in found.found:
        show(f"there: {line}")
    by_backbone = {str(one.settings.backbone["name"]): one.settings for one in todo}
    paces = {
        name: probe.measure(settings, device)
        for name, settings in progress(by_backbone.items(), len(by_backbone), "networks measured")
    }
    for name, pace in paces.items():
        show(f"  {name}: {1 / pace.train:.3g} images/s training, {1 / pace.embed:.3g} embedding, on {device}")
    total = probe.estimate(planned, paces, found.counts)
    show(
        "estimate: none, since the data are not there to be counted"
        if total is None
        else f"estimate: {probe.duration(total)} for the {len(todo)} runs, one after the other on {device} "
        f"(from a few steps; without decoding, figures and re-ranking)"
    )
    if found.missing:
        show(f"\nMISSING, {len(found.missing)} to get before anything can run:")
        for number, item in enumerate(found.missing, 1):
            show(f"{number}. " + item.replace("\n", "\n   "))
    return not found.missing


def _sweep(words: list[str], until: float) -> int:
    """Run the sweep in a process of its own and wait for it; returns its exit code.

    until: seconds since 1970 after which no cell begins.

    Ctrl-C reaches it from the terminal, SIGTERM is passed on; either way its end is waited for, since it
    saves what it has.
    """
    variables = os.environ | ({UNTIL: str(until)} if math.isfinite(until) else {})
    child = subprocess.Popen([sys.executable, "-m", "reid.train", "-m", *words], env=variables)
    handlers = {
        signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: child.terminate()),
    }
    try:
        return child.wait()
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


def _write(profile: Profile, planned: list[Planned], folder: Path, command: str, console: Console) -> Table:
    """Write the table from what the sweep in `folder` left, and put it on the sweep's run."""
    store = default_store(home(), planned[0].settings.tracking.uri)
    runs, failures = finished_runs(folder, store)
    table = fill(profile, runs, len(planned), published_scores(), failures, provenance(runs, command))
    files = write(table, home() / "experiments" / "reproduce_table" / profile.results)
    try:
        parent = read_record(folder).run_id
        if parent is not None:
            for path in files:
                attach(store, parent, path, "table")
            describe(store, parent, cut(render.markdown(table, whole=False), MAX_TAG))
    except TrackingError as error:
        console.print(f"the table could not be put on the sweep's run: {error}")
    console.print(render.markdown(table, whole=False), highlight=False, soft_wrap=True)
    console.print(f"table: {files[0].parent}", highlight=False, soft_wrap=True)
    return table


def write(table: Table, folder: Path) -> list[Path]:
    """Write table.md, table.csv, table.html and table.png to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "table.md": render.markdown(table),
        "table.csv": render.comma_separated(table),
        "table.html": render.html(table),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [*(folder / name for name in texts), save(picture(table), folder / "table.png")]


def _command(options: argparse.Namespace) -> str:
    words = [f"PROFILE={options.profile}"] if options.profile != "full" else []
    words += [f"SEEDS={options.seeds}"] if options.seeds is not None else []
    words += ["FORCE=1"] if options.force else []
    words += [f"ARGS={shlex.quote(' '.join(options.override))}"] if options.override else []
    return " ".join(["make reproduce-table", *words])


def main(arguments: list[str] | None = None) -> int:
    """The command.

    Exit codes: 0 done, which of a dry run means that the plan is printed, and with `--minutes` that they are
    over; 1 something is missing or failed; 2 wrong usage.
    """
    parser = CommandParser(prog="python -m experiments.reproduce_table", description=__doc__)
    parser.add_argument(
        "--profile", choices=PROFILES, default="full", help="smoke: minutes, drawn: hours; no data needed"
    )
    parser.add_argument("--seeds", type=int, help="seeds 0, 1, … of each cell (default: 1; of drawn: 3)")
    parser.add_argument(
        "--minutes", type=float, help="no cell begins later; the one under way then ends, and the command"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and what is missing")
    parser.add_argument("--force", action="store_true", help="run all, also what is finished")
    parser.add_argument("override", nargs="*", help="for each run: data.root=…, device=…, hydra/launcher=…")
    options = parser.parse_args(arguments)
    register()
    console = Terminal()
    try:
        return reproduce(options, console)
    except torch.OutOfMemoryError as error:
        console.print(f"error: the device's memory is not enough: {error}")
        return 1
    except (HydraException, OmegaConfBaseException) as error:
        message = explain(error, "train", list(options.override))
    except (ConfigError, TrackingError) as error:
        message = str(error)
    Terminal(stderr=True, soft_wrap=True).print(complaint(message), highlight=False)
    return 2


if __name__ == "__main__":
    sys.exit(main())
