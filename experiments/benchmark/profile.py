"""Where the time of a training step and of an evaluation goes: `python -m experiments.benchmark.profile`.

Writes profile_train_step.png and profile_evaluate.png: the operators of torch by their own time on the CPU.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch.profiler import ProfilerActivity, profile

from experiments.benchmark.features import draw, market, size
from experiments.benchmark.measurements.train_step import (
    HEIGHT,
    WIDTH,
    small_store,
    stream_of,
    training_batches,
)
from experiments.benchmark.trainee import Trainee
from reid.config.dialects import CommandParser
from reid.figures import save
from reid.figures.style import BLUE, INK, MUTED, SMALL, headline, new_figure, styled
from reid.retrieval import evaluate

RESULTS = Path(__file__).parent / "results"
SHOWN = 12
STEPS = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: both pictures are there."""
    parser = CommandParser(
        prog="python -m experiments.benchmark.profile", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--backbone", default="resnet50", help="the network (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--results", default=str(RESULTS), help="folder to write to (default: %(default)s)")
    options = parser.parse_args(arguments)
    folder = Path(options.results) / "quick" if options.quick else Path(options.results)
    for name, (title, spent) in {
        "train_step": train_step(options.backbone, options.quick),
        "evaluate": evaluation(options.quick),
    }.items():
        path = save(picture(title, spent), folder / f"profile_{name}.png")
        print(f"{title}\n{table(spent)}\nwritten to {path}\n")
    return 0


def train_step(backbone: str, quick: bool) -> tuple[str, dict[str, float]]:
    """Title and seconds by operator of a training step."""
    height, width = (64, 32) if quick else (HEIGHT, WIDTH)
    with small_store(height, width) as store:
        trainee = Trainee.build(backbone, 64, torch.device("cpu"))
        stream = stream_of(training_batches(store, trainee.compute.device))
        trainee.suite(itertools.islice(stream, 1))
        spent = _by_operator(lambda: trainee.suite(itertools.islice(stream, STEPS)), STEPS)
    return f"One training step: {backbone}, {height}x{width}, batch 64", spent


def evaluation(quick: bool) -> tuple[str, dict[str, float]]:
    """Title and seconds by operator of an evaluation at Market-1501's size."""
    scale = market(64).part(0.05) if quick else market(2048)
    query, gallery = draw(scale)
    evaluate(query, gallery)
    return f"One evaluation: {size(scale)}", _by_operator(lambda: evaluate(query, gallery), 1)


def table(spent: dict[str, float]) -> str:
    """The operators as lines of text, with seconds and shares."""
    whole = sum(spent.values())
    return "\n".join(
        f"  {name:40} {seconds:9.4f} s {100 * seconds / whole:5.1f} %"
        for name, seconds in _shown(spent).items()
    )


@styled
def picture(title: str, spent: dict[str, float]) -> Figure:
    """One bar an operator, the longest first, with its share of the whole."""
    shown, whole = _shown(spent), sum(spent.values())
    figure = new_figure(height=1.3 + 0.3 * len(shown))
    axes = figure.subplots()
    axes.barh(range(len(shown)), list(shown.values()), color=BLUE, height=0.66)
    for place, seconds in enumerate(shown.values()):
        axes.annotate(
            f"{100 * seconds / whole:.1f} %", (seconds, place), xytext=(4, 0), textcoords="offset points",
            va="center", fontsize=9, color=INK,
        )  # fmt: skip
    axes.set_yticks(range(len(shown)), list(shown))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 1.14 * max(shown.values()))
    axes.set_xlabel("seconds of the operator itself")
    headline(figure, f"{title}: {whole:.3g} s")
    made_by = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    figure.supxlabel(made_by, fontsize=SMALL, color=MUTED, x=0.011, ha="left")
    return figure


def _by_operator(work: Callable[[], object], times: int) -> dict[str, float]:
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        work()
    found = {
        event.key.removeprefix("aten::"): event.self_cpu_time_total / 1e6 / times
        for event in profiled.key_averages()
    }
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _shown(spent: dict[str, float]) -> dict[str, float]:
    most = dict(itertools.islice(spent.items(), SHOWN))
    rest = sum(spent.values()) - sum(most.values())
    return {**most, f"the other {len(spent) - len(most)}": rest} if len(spent) > len(most) else most


if __name__ == "__main__":
    sys.exit(main())
