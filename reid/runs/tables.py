"""How `reid.runs` shows runs: tables for people, rows for scripts."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Mapping, Sequence, Set
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.text import Text

from reid.runs.selection import differing, run_score, short_ids
from reid.terminal import Table
from reid.tracking import RunRecord

_STYLE = {"FINISHED": "green", "FAILED": "red", "KILLED": "yellow", "RUNNING": "cyan"}
#: Metrics that are fractions, as their names end; they are shown in percent.
_SCORES = ("mAP", "mINP", "rank-1", "rank-5", "rank-10")
_PERCENT = (*_SCORES, "accuracy", "coverage", "active_fraction", "data_wait")
Families = Sequence[tuple[RunRecord, Sequence[RunRecord]]]


def run_table(found: Families, title: str, ids: Mapping[str, str], gone: Set[str] = frozenset()) -> Table:
    """One row a run, children indented below their parent; scores in percent; `gone` see `died`."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    table.add_column("run", no_wrap=True)
    table.add_column("name", overflow="fold")
    table.add_column("status")
    for name in ("mAP %", "rank-1 %"):
        table.add_column(name, justify="right")
    table.add_column("on")
    table.add_column("age", justify="right")
    for head, kin in found:
        for indent, run in [("", head), *(("  ", child) for child in kin)]:
            score = run_score(run)
            best = "best " if score.best else ""
            table.add_row(
                indent + ids[str(run.run_id)],
                indent + run.name,
                Text("died", style="red")
                if run.run_id in gone
                else Text(run.status, style=_STYLE.get(run.status, "")),
                "" if score.mAP is None else f"{best}{100 * score.mAP:.1f}",
                "" if score.rank1 is None else f"{100 * score.rank1:.1f}",
                "" if score.mAP is None else score.split,
                age(run.started),
            )
    return table


def run_row(run: RunRecord) -> dict[str, Any]:
    """One run for scripts; scores are fractions, times are UTC."""
    score = run_score(run)
    return {
        "run_id": run.run_id,
        "parent": run.parent,
        "experiment": run.experiment,
        "name": run.name,
        "kind": run.tags.get("reid.kind", "run"),
        "status": run.status,
        "split": score.split,
        "mAP": score.mAP,
        "rank-1": score.rank1,
        "started": when(run.started),
        "ended": when(run.ended),
    }


def write_csv(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """The rows on the standard output, with a header; None is an empty cell."""
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def comparison(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """What differs between runs, as plain data: params, and each metric with its differences to the first."""
    names = sorted({name for run in runs for name in run.metrics})
    metrics = {}
    for name in sorted(names, key=lambda name: (not name.endswith(_SCORES), name)):
        values = [run.metrics.get(name) for run in runs]
        first = values[0]
        metrics[name] = {
            "values": values,
            "differences": [None if v is None or first is None else v - first for v in values],
        }
    return {"runs": [run_row(run) for run in runs], "params": differing(runs), "metrics": metrics}


def show_comparison(console: Console, runs: Sequence[RunRecord], found: Mapping[str, Any]) -> None:
    """The same as two tables, one column a run."""
    ids = short_ids(runs)
    heads = [f"{ids[str(run.run_id)]}\n{run.name}" for run in runs]
    if found["params"]:
        table = _side_by_side("what differs", heads)
        for key, values in found["params"].items():
            table.add_row(key, *values)
        console.print(table)
    else:
        console.print("no parameter differs")
    if found["metrics"]:
        table = _side_by_side("last values, with the difference to the first run", heads)
        for name, row in found["metrics"].items():
            pairs = zip(row["values"], row["differences"], strict=True)
            cells = [
                _number(name, value)
                + ("" if i == 0 or change is None else f" ({_number(name, change, '+')})")
                for i, (value, change) in enumerate(pairs)
            ]
            table.add_row(name + (" (%)" if is_share(name) else ""), *cells)
        console.print(table)


def is_share(metric: str) -> bool:
    """Whether a metric is a fraction, and shown in percent."""
    return metric.endswith(_PERCENT)


def when(moment: float | None) -> str | None:
    """A Unix time as ISO 8601 in UTC, to the second."""
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")


def age(moment: float | None) -> str:
    """How long ago a Unix time was, in one unit."""
    return "" if moment is None else duration(time.time() - moment)


def duration(lasted: float) -> str:
    """Seconds in one unit, such as `3 min` or `12 d`."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if lasted >= (2 * size if unit != "min" else size):
            return f"{int(lasted // size)} {unit}"
    return f"{max(0, int(lasted))} s"


def size(count: int) -> str:
    """Bytes in words: `3.2 MB`."""
    amount, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while amount >= 1000 and len(units) > 1:
        amount, units = amount / 1000, units[1:]
    return f"{count} B" if units[0] == "B" else f"{amount:.1f} {units[0]}"


def _side_by_side(title: str, heads: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for head in heads:
        table.add_column(head, justify="right", overflow="fold")
    return table


def _number(name: str, value: float | None, sign: str = "") -> str:
    if value is None:
        return "-"
    return f"{100 * value:{sign}.1f}" if is_share(name) else f"{value:{sign}.4g}"
