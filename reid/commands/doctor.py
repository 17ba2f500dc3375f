"""The doctor: looks at everything side by side, and prints one page of what it has found."""

from __future__ import annotations

import argparse
import json
import logging
import textwrap
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence

from rich.text import Text

from reid.commands.findings import Finding, Look, Verdict, take_all
from reid.terminal import Terminal

#: Columns of the page, and of what stands before a text.
WIDTH, MARGIN = 80, 24
#: PyTorch takes seconds to be imported, and a checkpoint to be read.
_LONG = 4.0
_COLOURS: dict[Verdict, str] = {"ok": "green", "note": "yellow", "problem": "bold red"}
_DISK = "a disk or a share does not answer: look at `df` and `mount`"


def run(options: argparse.Namespace) -> int:
    """What `python -m reid.doctor` does with its options; the exit code."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # the page is all that is printed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sections = take_all(_looks(options), options.seconds)
    finally:
        logging.disable(before)
    problems = [finding for _, found in sections for finding in found if finding.verdict == "problem"]
    if options.json:
        print(json.dumps(_as_json(sections), indent=2))
    else:
        _show(sections)
    return 1 if problems else 0


def _looks(options: argparse.Namespace) -> list[Look]:
    """What is looked at. Each imports what it needs, so that a broken package is one line of the page."""

    def of(module: str, name: str, *arguments: object) -> Callable[[], Iterable[Finding]]:
        def take() -> Iterator[Finding]:
            from importlib import import_module

            yield from getattr(import_module(f"reid.commands.{module}"), name)(*arguments)

        return take

    looks = [
        Look("Installed", "packages", of("installed", "installed"), _DISK),
        Look("This machine", "cores", of("machine_state", "machine"), _DISK),
        Look("This machine", "disk", of("machine_state", "disks"), _DISK),
        Look("This machine", "locks", of("machine_state", "locks"), "is the lock service of NFS running?"),
        Look("This machine", "variables", of("machine_state", "environment"), ""),
        Look(
            "PyTorch and GPU", "GPU", of("gpu_state", "gpu_and_weights", options.seconds),
            "try nvidia-smi; if it hangs too, restart the driver or the machine", _LONG + 1,
        ),
        Look(
            "Tracking", "store", of("data_state", "tracking", options.uri),
            "restart the server, or see to the disk of the store. Runs go on without it, and python -m "
            "reid.sync sends what it has missed",
        ),
        Look("Data", "datasets", of("data_state", "data"), _DISK),
        Look("Data", "image stores", of("data_state", "stores"), _DISK),
    ]  # fmt: skip
    if options.checkpoint is not None:
        look = of("checkpoint_state", "checkpoint", options.checkpoint, options.uri)
        silent = "give it more time: --seconds 100"
        looks.append(Look("The checkpoint", "file", look, silent, _LONG))
    return looks


def _show(sections: Sequence[tuple[str, list[Finding]]]) -> None:
    console = Terminal(soft_wrap=True, highlight=False)
    console.print(Text(f"reid.doctor, {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC", "bold"))
    for section, found in sections:
        console.print(Text(f"\n{section}", "bold"))
        for finding in found:
            first, *rest = lines(finding)
            verdict = first[:10]
            console.print(Text.assemble((verdict, _COLOURS[finding.verdict]), first[10:]))
            for line in rest:
                console.print(line)
    console.print(f"\n{conclusion([finding for _, found in sections for finding in found])}")


def lines(finding: Finding) -> list[str]:
    """A finding on the page: verdict, subject and text, and below it what to do."""
    head = f"  {finding.verdict:8}{finding.subject:{MARGIN - 11}} "
    if len(head) > MARGIN:
        head = f"{head.rstrip()}: "
    margin = MARGIN * " "
    written = _wrapped(finding.text, head, margin)
    if finding.remedy:
        written += _wrapped(f"-> {finding.remedy}", margin, f"{margin}   ")
    return written


def _wrapped(text: str, first: str, other: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=other, break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip


def conclusion(found: Sequence[Finding]) -> str:
    """The last line of the page."""
    problems, notes = (sum(one.verdict == verdict for one in found) for verdict in ("problem", "note"))
    if problems:
        them = "one problem" if problems == 1 else f"{problems} problems"
        return f"{them}: what to do stands at the arrow below each."
    if notes:
        return "Nothing is wrong. A note is worth knowing, and may be what you want."
    return "Nothing is wrong."


def _as_json(sections: Sequence[tuple[str, list[Finding]]]) -> dict[str, object]:
    found = [
        {
            "section": section, "subject": finding.subject, "verdict": finding.verdict, "text": finding.text,
            "remedy": finding.remedy,
        }
        for section, findings in sections
        for finding in findings
    ]  # fmt: skip
    return {"problems": sum(one["verdict"] == "problem" for one in found), "findings": found}
