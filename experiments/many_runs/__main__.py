"""What ten thousand runs in one experiment cost: `python -m experiments.many_runs`."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, open_dict

from experiments.faults.sweep import TINY
from experiments.many_runs.fill import EXPERIMENT, facts, write_runs
from experiments.many_runs.page import can_look, seconds_to_rows
from experiments.server.pair import RUNS, Pair
from reid.config.dialects import CommandParser
from reid.config.schema import config_folder, register
from reid.home import source_root
from reid.sweeps.callback import SweepCallback
from reid.tracking import Store, default_store, read_record, sqlite_uri

RESULTS = Path(__file__).parent / "results" / "seconds.csv"
_SWEPT = ("loss.alpha=1.2,1.4", "epochs=1", "eval.period=0", f"tracking.experiment={EXPERIMENT}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: measured and written."""
    options = _parser().parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="reid-many-"))
    folder.chmod(0o755)
    rows = []
    try:
        words = _trained_sweep(folder / "trained")
        for name, count in [(name, count) for name in ("sqlite", "server") for count in (0, options.runs)]:
            place = folder / f"{name}-{count}"
            # The same sweep for each: its runs are sent to every store anew.
            shutil.copytree(folder / "trained" / "multirun", place / "multirun")
            with _sqlite(place) if name == "sqlite" else _server(place) as (variables, filled):
                if count:
                    started = time.monotonic()
                    write_runs(filled, count)
                    print(f"{name}: {count} runs in {time.monotonic() - started:.0f} s", flush=True)
                    print(facts(filled), flush=True)
                for what, seconds in _measured(place, variables, words, options.times).items():
                    rows.append({"store": name, "runs": count, "what": what, "seconds": f"{seconds:.2f}"})
                    print("  ".join(map(str, rows[-1].values())), flush=True)
    finally:
        shutil.rmtree(folder)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["store", "runs", "what", "seconds"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return 0


@contextmanager
def _sqlite(folder: Path) -> Iterator[tuple[dict[str, str], Store]]:
    """The variables that lead the suite to a store in a sqlite file, and the store to fill."""
    uri = sqlite_uri(folder / "mlflow.db")
    yield {"MLFLOW_TRACKING_URI": uri}, default_store(folder, uri)


@contextmanager
def _server(folder: Path) -> Iterator[tuple[dict[str, str], Store]]:
    """The same of a server on PostgreSQL; it is filled behind the server's back, which is quicker."""
    pair = Pair(folder / "server")
    pair.start()
    try:
        os.environ |= pair.database_variables()
        # The experiment, with artifacts at the server.
        with _environment(pair.variables()):
            Store(pair.uri).prepare(EXPERIMENT)
        yield pair.variables(), Store(pair.database.uri(RUNS))
    finally:
        pair.stop()


def _trained_sweep(home: Path) -> list[str]:
    """Train a sweep of two small cells in a home of its own; the words that were typed."""
    home.mkdir()
    words = [*TINY, *_SWEPT, f"data.root={home / 'data'}"]
    with _environment({"REID_HOME": str(home)}):
        _command("reid.train", "-m", *words)
    return words


def _measured(home: Path, variables: Mapping[str, str], words: Sequence[str], times: int) -> dict[str, float]:
    """Seconds of each part of a sweep and of each command, the best of so many."""
    (sweep,) = (home / "multirun").iterdir()
    elsewhere = home / "elsewhere"
    elsewhere.mkdir()
    with _environment({**variables, "REID_HOME": str(home), "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}):
        _start_and_end(sweep, words)  # sends what is new to this store, and imports what a sweep needs
        starts, ends = zip(*[_start_and_end(sweep, words) for _ in range(times)], strict=True)
        found = {"a sweep's start": min(starts), "a sweep's end": min(ends)}
        parent = str(read_record(sweep).run_id)

        def command(module: str, *more: str) -> float:
            return min(_seconds(lambda: _command(module, *more)) for _ in range(times))

        found["runs list"] = command("reid.runs", "list")
        found["runs list --experiment"] = command("reid.runs", "list", "--experiment", EXPERIMENT)
        found["runs show"] = command("reid.runs", "show", parent)
        with _environment({"REID_HOME": str(elsewhere)}):
            found["report, elsewhere"] = command("reid.report", f"runs={parent}")
        if variables["MLFLOW_TRACKING_URI"].startswith("http"):
            found["100 runs for the UI"] = min(_seconds(lambda: _page(variables)) for _ in range(times))
            if can_look():
                found["the UI's table, first visit"], found["the UI's table, next visit"] = seconds_to_rows(
                    variables["MLFLOW_TRACKING_URI"],
                    variables["MLFLOW_TRACKING_USERNAME"],
                    variables["MLFLOW_TRACKING_PASSWORD"],
                    Store(variables["MLFLOW_TRACKING_URI"]).prepare(EXPERIMENT),
                    home / "browser",
                )
    return found


def _start_and_end(sweep: Path, words: Sequence[str]) -> tuple[float, float]:
    """Seconds that the sweep's own bookkeeping takes before its first job and after its last one."""
    config = _config(sweep, words)
    started = time.monotonic()
    callback = SweepCallback()
    callback.on_multirun_start(config)
    running = time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()):  # the report, the same each time
        callback.on_multirun_end(config)
    return running - started, time.monotonic() - running


def _config(sweep: Path, words: Sequence[str]) -> DictConfig:
    """The config that Hydra hands to the callback of a sweep."""
    register()
    single = [word.partition(",")[0] if word.startswith("loss.alpha") else word for word in words]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", overrides=single, return_hydra_config=True)
    with open_dict(config):
        config.hydra.sweep.dir = str(sweep)
        config.hydra.overrides.task = list(words)
    return config


def _page(variables: Mapping[str, str]) -> None:
    """What the UI asks of the server when it opens an experiment."""
    store = Store(variables["MLFLOW_TRACKING_URI"])
    body = {
        "experiment_ids": [store.prepare(EXPERIMENT)],
        "max_results": 100,
        "order_by": ["attributes.start_time DESC"],
    }
    login = f"{variables['MLFLOW_TRACKING_USERNAME']}:{variables['MLFLOW_TRACKING_PASSWORD']}"
    request = urllib.request.Request(
        f"{store.uri}/api/2.0/mlflow/runs/search",
        json.dumps(body).encode(),
        {
            "Content-Type": "application/json",
            "Authorization": f"Basic {b64encode(login.encode()).decode()}",
        },
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()


def _command(module: str, *words: str) -> None:
    """Run a command as a user does. Raises RuntimeError where it fails."""
    variables = {**os.environ, "PYTHONPATH": str(source_root() or "")}
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        env=variables, cwd=os.environ["REID_HOME"], capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"{module} {' '.join(words)} ended with {done.returncode}:\n{done.stderr[-2000:]}")


def _seconds(call: Callable[[], object]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """These variables for a block."""
    before = dict(os.environ)
    os.environ |= variables
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m experiments.many_runs",
        description="Fill a store with runs that nobody trained, and time what reads and writes it: a sqlite "
        "file, and a server on PostgreSQL, each empty and full.",
    )
    parser.add_argument("--runs", type=int, default=10_000, help="in one experiment (default: 10000)")
    parser.add_argument("--times", type=int, default=3, help="each is measured; the best counts (default: 3)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the table (default: that of the README)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
