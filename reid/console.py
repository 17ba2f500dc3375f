"""What the commands show on the terminal: progress bars, tables, short lines."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from reid.retrieval import Scores

T = TypeVar("T")


class ConsoleProgress:
    """A bar on a terminal; one line per task where the output is a file or a pipe."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def __call__(self, items: Iterable[T], total: int, what: str) -> Iterable[T]:
        if not self.console.is_terminal:
            if not what.startswith("epoch"):
                self.console.print(f"{what}: {total:,}", highlight=False)
            yield from items
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True) as bars:
            yield from bars.track(items, total=total, description=what)


def score_table(scores: Mapping[str, Scores], header: str) -> Table:
    """One row of scores in percent for each named judgement; `header` says how they were computed."""
    table = Table(title=header, title_justify="left", title_style="dim")
    table.add_column("")
    for name in ("mAP", "rank-1", "rank-5", "rank-10", "mINP", "queries"):
        table.add_column(name, justify="right")
    for name, score in scores.items():
        ranks = [score.cmc[min(k, len(score.cmc)) - 1].item() for k in (1, 5, 10)]
        cells = [f"{100 * value:.1f}" for value in (score.mAP, *ranks, score.mINP)]
        skipped = f" ({score.skipped_queries} without a match)" if score.skipped_queries else ""
        table.add_row(name, *cells, f"{score.valid_queries:,}{skipped}")
    return table
