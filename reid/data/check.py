"""Look for trouble in a dataset before training on it: `python -m reid.data.check SOURCE`, `--help`."""

import argparse
import json
import sys
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from reid.data.audit import TINY, Audit, audit
from reid.data.crops import Progress, ReidDataset
from reid.data.pictures import describe_treatments
from reid.terminal import Table

DESCRIPTION = (
    "Count identities, images and cameras, and look for trouble: unreadable and tiny images, "
    "the same bytes under two identities, people or images shared by train and test, queries without a "
    "match or with their own picture in the gallery, frames of tracklets without cameras.  Exit code 0: "
    "nothing found; 1: trouble; 2: asked wrongly."
)


def check(dataset: ReidDataset, options: argparse.Namespace, console: Console, progress: Progress) -> int:
    """Look at every image of `dataset` and print what was found; 1 if anything is wrong, else 0."""
    found = audit(dataset, (options.min_height, options.min_width), progress)
    if options.json:
        facts = {
            "dataset": dataset.name, "root": str(dataset.root), "cameras_known": dataset.cameras,
            "junk": dataset.junk, "strays": dataset.strays, **asdict(found),
        }  # fmt: skip
        if dataset.corrections:
            facts["corrections"] = [asdict(applied) for applied in dataset.corrections]
        print(json.dumps(facts, indent=2, default=str))
    else:
        _show(console, dataset, found, options.cases)
    return 1 if found.findings else 0


def _show(console: Console, dataset: ReidDataset, found: Audit, cases: int) -> None:
    table = Table(title=f"{dataset.name} in {dataset.root}", title_justify="left", title_style="dim")
    table.add_column("split")
    for name in ("identities", "images", "cameras"):
        table.add_column(name, justify="right")
    for split, counts in found.counts.items():
        cameras = str(counts.cameras) if dataset.cameras else "unknown"
        table.add_row(split, f"{counts.identities:,}", f"{counts.images:,}", cameras)
    console.print(table)
    if dataset.notice:
        console.print(dataset.notice)
    if not dataset.query:
        console.print("no query: fit to train on as a part of dataset=joint, not to be judged on")
    if not dataset.train:
        console.print("nobody to train on: fit to be judged on by reid.evaluate and reid.threshold")
    for number, what in (
        (dataset.junk, "junk crops (pid -1), left out"),
        (found.distractors, "images of distractors, whom nobody looks for"),
        (dataset.strays, "files that are no crops, left out"),
        (found.repeats, "images that repeat another of the same identity byte by byte"),
    ):
        if number:
            console.print(f"{number:,} {what}")
    for line in describe_treatments(found.treatments):
        console.print(line)
    for finding in found.findings:
        console.print(Text.assemble((f"{len(finding.cases):,}", "bold red"), f" {finding.meaning}:"))
        for case in finding.cases[:cases]:
            console.print(f"    {case}")
        if len(finding.cases) > cases:
            console.print(f"    … and {len(finding.cases) - cases:,} more (--cases)")
    if not found.findings:
        console.print("nothing wrong was found")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options beside those that say which dataset is meant."""
    parser.add_argument("--min-height", type=int, default=TINY[0], help="in pixels (default %(default)s)")
    parser.add_argument("--min-width", type=int, default=TINY[1], help="in pixels (default %(default)s)")
    parser.add_argument("--cases", type=int, default=10, help="how many of a kind are named (default 10)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON, all cases named")


if __name__ == "__main__":
    from reid.jobs import data_commands

    sys.exit(data_commands.check())
