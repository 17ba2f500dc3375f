"""What the commands show on the terminal: progress bars, tables, short lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from reid.config.schema import TrainConfig
from reid.home import home, source_root
from reid.terminal import Table
from reid.tracking import default_store
from reid.words import percent

if TYPE_CHECKING:
    from reid.retrieval import Scores

T = TypeVar("T")

UI_HINT = "make ui" if source_root() else "reid-ui"


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
        name = TextColumn("{task.description}", markup=False)
        columns = (name, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True) as bars:
            yield from bars.track(items, total=total, description=what)


def score_table(scores: Mapping[str, Scores], header: str) -> Table:
    """One row of scores in percent for each named judgement; `header` says how they were computed."""
    table = Table(title=header, title_justify="left", title_style="dim")
    table.add_column("")
    for name in ("mAP", "rank-1", "rank-5", "rank-10", "mINP"):
        table.add_column(f"{name} %", justify="right")
    table.add_column("queries", justify="right")
    for name, score in scores.items():
        ranks = [score.cmc[min(k, len(score.cmc)) - 1].item() for k in (1, 5, 10)]
        cells = [f"{100 * value:.1f}" for value in (score.mAP, *ranks, score.mINP)]
        skipped = f" ({score.skipped_queries} without a match)" if score.skipped_queries else ""
        table.add_row(name, *cells, f"{score.valid_queries:,}{skipped}")
    return table


def epoch_line(epoch: int, epochs: int, values: Mapping[str, float]) -> str:
    """What an epoch of training is told by: its losses, its speed."""
    shown = {
        "loss": "{:.3f}".format,
        "accuracy": percent,
        "hardest_positive": "{:.2f}".format,
        "hardest_negative": "{:.2f}".format,
        "lr": "{:.2g}".format,
    }
    parts = [
        f"{name.replace('_', ' ')} {write(values[f'train/{name}'])}"
        for name, write in shown.items()
        if f"train/{name}" in values
    ]
    if "train/teacher_share" in values:
        parts.append(f"teacher {100 * values['train/teacher_share']:.0f} % of the time")
    size = ""
    if "train/image_height" in values:  # where image.sizes changes it
        size = f" at {values['train/image_height']:.0f}x{values['train/image_width']:.0f}"
    speed = f"{values['train/images_per_second']:.0f} images/s{size}"
    return f"epoch {epoch:3d}/{epochs}  {'  '.join(parts)}  {speed}"


def tracked_as(run_id: str | None, uri: str, folder: Path) -> str:
    """Where the run of `folder` is in the store, or how it comes there."""
    if run_id is None:
        return f"not in {uri} yet (the warning above says why): python -m reid.sync {folder} sends it later"
    return f"tracked as run {run_id} in {uri}"


def score_line(epoch: int, scores: Scores, split: str) -> Text:
    """What an epoch is told by that was judged."""
    rest = f"  rank-1 {percent(scores.rank(1))} on {split}" + ("  (before training)" if epoch == 0 else "")
    return Text.assemble(f"epoch {epoch:3d}  ", (f"mAP {percent(scores.mAP)}", "bold"), rest)


def say_where(
    console: Console,
    settings: TrainConfig,
    folder: Path,
    history: list[dict[str, float]],
    scores: Mapping[str, float],
    run_id: str | None,
) -> None:
    """The last words of a run: before and after, and where everything is; `scores` are those of its model."""
    key = f"{settings.eval.split}/mAP"
    scored = [row for row in history if key in row]
    if scored[0]["epoch"] == 0:
        before, after = scored[0][key], scores[key]
        console.print(
            f"mAP on people not trained on: {percent(before)} before training, {percent(after)} after"
        )
    for what, path in (
        ("data", settings.dataset["root"]),
        ("figures", folder / "figures"),
        ("numbers by epoch", folder / "history.csv"),
        ("the trained model", folder / "model.pt"),
    ):
        console.print(f"{what}: {path}", highlight=False, soft_wrap=True)
    store = default_store(home(), settings.tracking.uri)
    uri = store.public_uri
    console.print(tracked_as(run_id, uri, folder), highlight=False, soft_wrap=True)
    hint = UI_HINT if store == default_store(home()) else f"python -m reid.ui --uri {uri}"
    where = uri if store.is_server else hint
    console.print(f"compare runs in the MLflow UI: {where}", highlight=False, soft_wrap=True)
