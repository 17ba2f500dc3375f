"""All that only a GPU can show, in minutes: `make gpu-check`, or `python -m experiments.gpu_check`.

The CUDA tests, short trainings of each precision, rankings against the CPU's, a training repeated bit for
bit, the benchmark in its short form; one report, gpu_check.json and gpu_check.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from experiments.gpu_check.checks import CHECKS, Named
from experiments.gpu_check.context import LEAST, Context, Failed, OutOfTime
from experiments.gpu_check.report import Report, Result
from reid.config.checks import ConfigError
from reid.config.dialects import CommandParser
from reid.engine.compute import choose_device
from reid.home import source_root
from reid.tracking import environment

RESULTS = Path(__file__).parents[1] / "benchmark" / "results"
#: Seconds: eight minutes, less what it takes to come here and to write the report.
BUDGET = 460.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: no check failed; 1: one did; 2: wrong usage, or there is no GPU."""
    parser = _parser()
    options = parser.parse_args(arguments)
    known = {one.name: one for one in CHECKS}
    unknown = [name for name in options.checks if name not in known]
    if unknown:
        parser.error(f"no check {', '.join(unknown)}; there are {', '.join(known)}")
    if options.device == "cpu" and options.results is None:
        parser.error("--device cpu tries the checks themselves, no GPU: give --results FOLDER")
    if options.device != "cpu" and not torch.cuda.is_available():
        message = "there is no GPU here that PyTorch can use, so nothing was checked"
        print(f"experiments.gpu_check: {message}", file=sys.stderr)
        return 2
    try:
        device = choose_device(options.device)
    except ConfigError as error:
        parser.error(str(error))
    chosen = [one for one in CHECKS if not options.checks or one.name in options.checks]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpu_check_") as home:
        results = run(chosen, Context(str(device), Path(home)), started + options.budget)
    report = Report(
        described(device), machine(), options.budget, round(time.monotonic() - started, 1), results
    )
    files = report.write(options.results or RESULTS)
    print(f"written: {', '.join(map(str, files))}")
    for outcome in ("failed", "not run"):
        if report.named(outcome):
            print(f"{outcome}: {', '.join(report.named(outcome))}")
    return int(bool(report.named("failed")))


def run(checks: Sequence[Named], context: Context, until: float, least: float = LEAST) -> list[Result]:
    """Each check, one after the other, within its limit and what is left until that `time.monotonic`.

    least: seconds below which one is not started.
    """
    results: list[Result] = []
    for one in checks:
        started = time.monotonic()
        limit = min(one.limit, until - started)
        if limit < least and limit < one.limit:
            results.append(Result(one.name, "not run", 0.0, one.limit, "the budget was spent before it"))
            continue
        print(f"{one.name}: at most {limit:.0f} s", flush=True)
        result = _run(one, context.of(one.name, started + limit), cut=limit < one.limit)
        results.append(result)
        print(f"{one.name}: {result.outcome} in {result.seconds:.0f} s. {result.message}", flush=True)
    return results


def _run(one: Named, context: Context, cut: bool) -> Result:
    started = time.monotonic()

    def ended(outcome: Any, message: str = "", **rest: Any) -> Result:
        return Result(one.name, outcome, round(time.monotonic() - started, 1), one.limit, message, **rest)

    try:
        return ended("passed", numbers=dict(one.check(context)))
    except OutOfTime as late:
        # What the budget cut off says nothing of the suite; what its own limit did, does.
        return ended("not run", f"the budget ended within it; {late}") if cut else ended("failed", str(late))
    except Failed as failure:
        return ended("failed", str(failure))
    except Exception as error:  # the others still run
        return ended("failed", f"{type(error).__name__}: {error}")


def described(device: torch.device) -> dict[str, Any]:
    """The device, its driver and what torch was built for."""
    facts: dict[str, Any] = {
        "device": str(device),
        "torch": torch.__version__,
        "CUDA": str(torch.version.cuda),
    }
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        facts |= {
            "name": card.name,
            "compute capability": f"{card.major}.{card.minor}",
            "memory GiB": round(card.total_memory / 2**30, 1),
            "cuDNN": str(torch.backends.cudnn.version()),
            "driver": _driver(),
        }
    return facts


def _driver() -> str:
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.strip().partition("\n")[0]


def machine() -> dict[str, Any]:
    """The host and the code."""
    tags = environment(source_root()).tags
    return {
        "CPU": tags["reid.cpu"],
        "cores": tags["reid.cpu_count"],
        "Python": tags["reid.version.python"],
        "commit": tags["reid.git.sha"] + (" and changes" if tags.get("reid.git.dirty") == "true" else ""),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(
        f"  {one.name:20}{one.limit:4.0f} s  {(one.check.__doc__ or '').partition(chr(10))[0]}"
        for one in CHECKS
    )
    parser = CommandParser(
        prog="python -m experiments.gpu_check",
        description="Check on a GPU what no CPU can show, and write one report.",
        epilog=f"checks, each with its limit:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checks", nargs="*", metavar="CHECK", help="which (default: all)")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to try the checks themselves")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for all (default: %(default)s)")
    parser.add_argument("--results", type=Path, help=f"folder to write to (default: {RESULTS})")
    return parser


if __name__ == "__main__":
    sys.exit(main())
