"""The report of a sweep: its table and its figure, on the parent run and in its folder."""

from pathlib import Path

import pandas as pd

from reid.engine.rundir import RunStatus
from reid.figures import save, sweep_figure
from reid.tracking import Tracker


def write(parent: Tracker, folder: Path, jobs: list[RunStatus], keys: list[str], split: str) -> None:
    """Put the table and the figure of the sweep in `folder` on its parent run.

    Raises:
        OSError: a file could not be written.
    """
    table = sweep_table(jobs, keys, split)
    score = f"{split}/mAP"
    if len(table):
        parent.text(table.to_csv(index=False), "sweep.csv")
        if keys and table[score].notna().any():
            figure = sweep_figure(table, keys, score, score_label=f"mAP on {split} (%)")
            parent.artifact(save(figure, folder / "sweep.png"), "figures")
        parent.description(markdown(table, keys, split))
        best = table[score].max()
        if pd.notna(best):
            parent.metrics({f"best/{score}": best}, 0)
            parent.tags({"reid.selected_on": split})


def sweep_table(jobs: list[RunStatus], keys: list[str], split: str) -> pd.DataFrame:
    """One row a job: the swept keys, mAP and rank-1 as fractions (NaN: not finished), its status."""
    rows = []
    for number, job in enumerate(jobs):
        values = dict(override.lstrip("+~").partition("=")[::2] for override in job.overrides)
        scores = {name: job.scores.get(f"{split}/{name}", float("nan")) for name in ("mAP", "rank-1")}
        rows.append(
            {
                "job": number,
                **{key: values.get(key, "") for key in keys},
                **{f"{split}/{name}": value for name, value in scores.items()},
                "status": job.status,
                "run_id": job.run_id or "",
            }
        )
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame, keys: list[str], split: str) -> str:
    """The sweep's table for the parent's description, best first."""
    score = f"{split}/mAP"
    lines = [
        f"| {' | '.join(keys)} | mAP on {split} | rank-1 | status |",
        "|" + "---|" * (len(keys) + 3),
    ]
    for _, row in table.sort_values(score, ascending=False).iterrows():
        numbers = [
            f"{100 * row[name]:.1f}" if pd.notna(row[name]) else "-" for name in (score, f"{split}/rank-1")
        ]
        lines.append(f"| {' | '.join([*(str(row[key]) for key in keys), *numbers, row['status']])} |")
    return "\n".join(lines)
