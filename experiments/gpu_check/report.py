"""What the checks found: one report as JSON and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Outcome = Literal["passed", "failed", "not run"]


@dataclass(frozen=True)
class Result:
    """One check: how it ended, in how many seconds of the `limit` that it had, and what it measured.

    `message` says why it failed or was not run.
    """

    name: str
    outcome: Outcome
    seconds: float
    limit: float
    message: str = ""
    numbers: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """All checks of one call, and the device and machine that they ran on."""

    device: Mapping[str, Any]
    machine: Mapping[str, Any]
    budget: float
    seconds: float
    results: Sequence[Result]

    def named(self, outcome: Outcome) -> list[str]:
        """The names of the checks that ended so."""
        return [result.name for result in self.results if result.outcome == outcome]

    def write(self, folder: Path) -> list[Path]:
        """Write gpu_check.json and gpu_check.md to `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        texts = {
            "gpu_check.json": json.dumps(asdict(self), indent=1) + "\n",
            "gpu_check.md": self.markdown(),
        }
        for name, text in texts.items():
            partial = folder / f"{name}.tmp"
            partial.write_text(text, encoding="utf-8")
            partial.replace(folder / name)
        return [folder / name for name in texts]

    def markdown(self) -> str:
        """The same for readers."""
        counts = ", ".join(
            f"{len(self.named(outcome))} {outcome}" for outcome in ("passed", "failed", "not run")
        )
        lines = [
            f"# GPU check: {counts}",
            "",
            f"{self.seconds:.0f} s of a budget of {self.budget:.0f} s. Written by `make gpu-check`.",
            "",
            "| | |",
            "|---|---|",
            *(f"| {key} | {value} |" for key, value in {**self.device, **self.machine}.items()),
            "",
            "| check | outcome | seconds | limit |",
            "|---|---|---|---|",
            *(
                f"| {one.name} | **{one.outcome}** | {one.seconds:.1f} | {one.limit:.0f} |"
                for one in self.results
            ),
        ]
        for one in self.results:
            if one.message or one.numbers:
                lines += ["", f"## {one.name}", ""]
            if one.message:
                lines += ["```", one.message, "```"]
            if one.numbers:
                lines += ["", "| | |", "|---|---|"] if one.message else ["| | |", "|---|---|"]
                lines += [f"| {name} | {_shown(value)} |" for name, value in one.numbers.items()]
        return "\n".join(lines) + "\n"


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"
