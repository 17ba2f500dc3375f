"""Speed and memory against the limit: `python -m experiments.benchmark ranked_loss evaluate`, or `all`.

Each benchmark prints its table and writes <name>.json and <name>.png; `table` makes table.md of them.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

from experiments.benchmark.catalogue import ROOT, NotHere, Setup, load, names
from experiments.benchmark.machine import Limits, describe, measure_limits
from experiments.benchmark.outcome import Outcome
from experiments.benchmark.show import markdown_table, picture, terminal_table
from experiments.house.versions import source_tree
from reid.config.dialects import CommandParser
from reid.engine.runtime import set_up_backend
from reid.figures import save
from reid.terminal import Terminal

RESULTS = Path(__file__).parent / "results"
#: The benchmark that starts the commands of any version.
OTHER_VERSIONS = "start"
#: The benchmark that takes embeddings of real images.
REAL = "search"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: all done, goals met (small sizes are not judged); 1: a goal missed, or a benchmark failed;
    2: wrong usage."""
    parser = _parser()
    options = parser.parse_args(arguments)
    known = names()
    unknown = [name for name in options.names if name not in (*known, "all", "table")]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are all, table, {', '.join(known)}")
    if options.repeats is not None and options.repeats < 1:
        parser.error(f"--repeats {options.repeats}: expected 1 or more")
    if options.version and options.names != [OTHER_VERSIONS]:
        parser.error(f"--version {options.version}: only {OTHER_VERSIONS} measures another version's code")
    if (options.crops is None) != (options.checkpoint is None) or (
        options.crops and REAL not in options.names
    ):
        parser.error(f"--crops and --checkpoint: {REAL} takes both, a folder of images and a model")
    if options.crops and not Path(options.crops).is_dir():
        parser.error(f"--crops {options.crops}: there is no such folder")
    console = Terminal()
    if not console.is_terminal:
        console.width = 120
    folder = Path(options.results) / "quick" if options.quick else Path(options.results)
    chosen = list(known) if "all" in options.names else [name for name in options.names if name != "table"]
    complaints: list[str] = []
    limits = None
    if chosen:
        set_up_backend(torch.device("cpu"))  # as the commands have it, and before the first tensor
        limits = measure_limits(options.quick)
    for name in dict.fromkeys(chosen):
        assert limits is not None
        complaints += _run(name, known[name], options, limits, folder, console)
    if "table" in options.names:
        try:
            console.print(_write_table(known, folder), highlight=False, soft_wrap=True)
        except ValueError as error:
            parser.error(str(error))
    for complaint in complaints:
        print(f"experiments.benchmark: {complaint}", file=sys.stderr)
    return 1 if complaints else 0


def _run(
    name: str, question: str, options: argparse.Namespace, limits: Limits, folder: Path, console: Terminal
) -> list[str]:
    """Run one benchmark, show and write what it found; returns what is to be complained of."""

    def say(text: str) -> None:
        console.print(f"{name}{' (quick)' if options.quick else ''}: {text}", highlight=False)

    try:
        benchmark = load(name)
        repeats = options.repeats or (1 if options.quick else benchmark.REPEATS)
        with source_tree(options.version or str(ROOT)) as source:
            crops = (options.crops, options.checkpoint) if options.crops else None
            cases = benchmark.measure(Setup(options.quick, repeats, limits, say, source, crops))
        machine = describe(limits) | ({"git_sha": options.version} if options.version else {})
        outcome = Outcome(name, question, options.quick, repeats, machine, cases)
    except NotHere as error:
        say(f"not measured: {error}")
        return []
    except Exception as error:  # the others of `all` still run
        traceback.print_exc()
        return [f"{name} failed: {error}"]
    outcome.write(folder / f"{name}.json")
    save(picture(outcome), folder / f"{name}.png")
    console.print(terminal_table(outcome))
    say(f"written to {folder / name}.json and .png")
    return [] if options.quick else [f"{name}, {missed}" for missed in outcome.missed]


def _write_table(known: dict[str, str], folder: Path) -> str:
    files = {name: folder / f"{name}.json" for name in known}
    text = markdown_table(
        {name: Outcome.read(file) if file.exists() else None for name, file in files.items()}
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(text, encoding="utf-8")
    return f"{text}\nwritten to {folder / 'table.md'}"


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:16}{line}" for name, line in names().items())
    parser = CommandParser(
        prog="python -m experiments.benchmark",
        description=(__doc__ or "").partition("\n")[0],
        epilog=f"benchmarks:\n{listed}\n  all             every one of them\n"
        "  table           write table.md from the results that are there (alone, or after others)\n\n"
        "Run it on a machine that does nothing else. Exit code 1: a goal was missed, or something failed.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="which to run; see below")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works; not judged")
    parser.add_argument("--repeats", type=int, help="how often each contestant is timed (default: its own)")
    parser.add_argument(
        "--version", help=f"of {OTHER_VERSIONS}: a commit or a folder, whose code is measured"
    )
    parser.add_argument(
        "--crops", help=f"of {REAL}: a folder of real images, whose embeddings are repeated with noise"
    )
    parser.add_argument("--checkpoint", help=f"of {REAL}: the model that embeds --crops")
    parser.add_argument("--results", default=str(RESULTS), help="folder to write to (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
