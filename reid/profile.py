"""What networks cost: `python -m reid.profile model.pt backbone=resnet50,resnet18 --batch 1,8,64`.

It shows the parameters and multiply-adds of each network, and for each size of batch its memory, latency and
throughput. `--runs EXPERIMENT` adds the networks of tracked runs, and `-o picture.png` draws their accuracy
against their latency.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from reid.config.dialects import CommandParser
from reid.engine.checkpoint_source import check_checkpoint
from reid.errors import RunError, UsageError
from reid.home import home
from reid.jobs.networks import named_networks
from reid.terminal import Terminal
from reid.tracking import default_store


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: measured; 1: something failed; 2: asked wrongly."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.threads is not None and options.threads < 1:
        parser.error(f"--threads {options.threads}: expected 1 or more")
    if options.seconds <= 0:
        parser.error(f"--seconds {options.seconds}: expected a number above 0")
    if options.output is not None and options.output.suffix.lower() != ".png":
        parser.error(f"-o {options.output}: expected a name that ends in .png; for a table there is --csv")
    if not (options.networks or options.runs):
        parser.error("no network is named: give a checkpoint, backbone=resnet50, or --runs EXPERIMENT")
    keys = [word for word in options.networks if "=" in word and not Path(word).exists()]
    named = [word for word in keys if word.startswith("checkpoint=")]
    overrides = [word for word in keys if word not in named]
    names = [word for word in options.networks if word not in keys]
    options.checkpoints = [*names, *(word.partition("=")[2] for word in named)]
    try:
        for name in options.checkpoints:
            check_checkpoint(name)
        if options.runs:
            default_store(home(), options.uri)
        options.settings = named_networks(overrides) if overrides else []
        # Here, since what was typed wrongly is refused before torch is imported.
        from reid.commands.profile import run

        return run(options)
    except (UsageError, RunError, OSError) as error:
        Terminal(stderr=True, soft_wrap=True).print(f"reid.profile: {error}", highlight=False)
        return 2 if isinstance(error, UsageError) else 1


def _batches(text: str) -> list[int]:
    sizes = [int(word) for word in text.split(",")]
    if min(sizes) < 1:
        raise ValueError(text)
    return sorted(set(sizes))


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m reid.profile",
        description="Measure what networks cost: parameters, multiply-adds, memory, latency, throughput.",
    )
    parser.add_argument(
        "networks",
        nargs="*",
        metavar="NETWORK",
        help="checkpoints (a file, a run's folder, an MLflow run id), or keys of the training config with "
        "random weights: backbone=resnet50,resnet18 image.height=256",
    )
    parser.add_argument(
        "--batch",
        type=_batches,
        default=[1, 8, 64],
        metavar="1,8,64",
        help="sizes of batches (default: 1,8,64)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, help="of PyTorch on the CPU (default: one a core)")
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="to time one network with one size of batch (default: 2)"
    )
    parser.add_argument(
        "--runs", metavar="EXPERIMENT", help="the networks of the finished runs of this MLflow experiment too"
    )
    parser.add_argument(
        "--uri", help="the store of --runs (default: MLFLOW_TRACKING_URI, else mlflow.db of the project)"
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="print everything as JSON")
    shown.add_argument("--csv", action="store_true", help="print the table as CSV")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="PICTURE.png",
        help="draw mAP against the latency of the smallest batch, for networks whose score is known",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
