"""Names that hold marks of rich, of matplotlib's formulas or of Markdown are shown as they stand."""

import ast
import html
import io
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from matplotlib.text import Text as Drawn
from PIL import Image
from rich.console import Console

from experiments.tune.report import markdown as trials_markdown
from reid.commands.compare import Comparison, draw, show
from reid.figures import (
    Against,
    Hit,
    Pair,
    RankedList,
    Rate,
    cmc_curves,
    compared_pairs,
    contact_sheet,
    difference_figure,
    domain_bars,
    hardest_bands,
    pair_distances,
    ranked_lists,
    search_history,
    search_map,
    search_slices,
    sweep_figure,
    training_curves,
    verification_roc,
)
from reid.jobs.console import ConsoleProgress, score_table
from reid.jobs.data_commands import check
from reid.jobs.launch import _complain
from reid.retrieval import Embeddings, evaluate
from reid.runs.selection import families
from reid.runs.tables import comparison, run_table, show_comparison
from reid.sweeps.outcome import SweptRun
from reid.sweeps.summary import build
from reid.terminal import Terminal
from reid.tracking import RunRecord
from reid.words import as_markdown

ROOT = Path(__file__).resolve().parents[1]
NAMES = (
    "a[x]",
    "b[/y]",
    ":smile: [bold]",
    "c$d",
    r"$\frac{$",
    "$x_1^{2$",
    "_e_^f",
    "g|h<i>*j*`k`~~l~~[m](n)",
)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def printed(*things: object) -> str:
    """What a terminal and a log show of them."""
    terminal = Terminal(file=io.StringIO(), width=300)
    for thing in things:
        terminal.print(thing)
    assert isinstance(terminal.file, io.StringIO)
    return terminal.file.getvalue()


# ---- the terminal


@pytest.mark.slow
def test_only_the_terminal_of_the_suite_makes_consoles_and_tables() -> None:
    """So that the marks are switched off in one place."""
    for file in sorted([*(ROOT / "reid").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]):
        if file == ROOT / "reid" / "terminal.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.module not in ("rich", "rich.table", "rich.markup"), file
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "Console", f"{file}:{node.lineno}"
            if isinstance(node, ast.keyword):
                assert node.arg != "markup" or file.name == "console.py", f"{file}:{node.lineno}"


def test_a_line_and_a_score_table(name: str) -> None:
    data = Embeddings(torch.tensor([[0.0], [1.0]]), torch.tensor([1, 2]), torch.tensor([0, 0]))
    scores = evaluate(data, Embeddings(data.features, data.pids, data.camids + 1))
    table = score_table({name: scores}, f"on {name}")
    assert printed(name, table).count(name) == 3
    plain = Console(file=io.StringIO(), width=300)  # also by a console that is not the suite's
    plain.print(table)
    assert isinstance(plain.file, io.StringIO)
    assert plain.file.getvalue().count(name) == 2


def test_the_tables_of_runs(name: str) -> None:
    runs = [
        RunRecord(f"{i}" * 32, f"{name} {i}", "FINISHED", {name: f"{name} {i}"}, {"test/mAP": 0.5}, {}, name)
        for i in range(2)
    ]
    ids = {str(run.run_id): str(run.run_id)[:8] for run in runs}
    text = printed(run_table(families(runs), f"experiment {name}", ids))
    assert text.count(name) == 3
    terminal = Terminal(file=io.StringIO(), width=300)
    show_comparison(terminal, runs, comparison(runs))
    assert isinstance(terminal.file, io.StringIO)
    assert terminal.file.getvalue().count(name) == 2 + 3 + 2  # heads, the key with its two values, heads


def test_a_complaint(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    _complain(f"there is no {name}")
    assert capsys.readouterr().err == f"error: there is no {name}\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_bar_under_way(name: str, terminal: bool) -> None:
    console = Terminal(file=io.StringIO(), width=200, force_terminal=terminal)
    assert list(ConsoleProgress(console)([1, 2], 2, name)) == [1, 2]
    assert isinstance(console.file, io.StringIO)
    assert name in console.file.getvalue()


@pytest.mark.slow
def test_comparing_images(name: str, tmp_path: Path) -> None:
    images = [tmp_path / f"{i}{name.replace('/', '-')}.png" for i in range(2)]
    for image in images:
        Image.new("RGB", (4, 8)).save(image)
    found = Comparison([str(image) for image in images], [[0.0, 1.0], [1.0, 0.0]], None, f"note on {name}")

    class Model:
        class space:
            @staticmethod
            def describe() -> str:
                return name

    terminal = Terminal(file=io.StringIO(), width=300)
    show(terminal, Model, found)  # type: ignore[arg-type]
    assert isinstance(terminal.file, io.StringIO)
    text = terminal.file.getvalue()
    assert all(image.name in text for image in images)
    assert f"note on {name}" in text
    assert draw(found, images, tmp_path / "pairs.png").stat().st_size > 0


def test_checking_a_folder(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / name.replace("/", "-")
    for person, number in itertools.product(range(4), (1, 2)):
        place = folder / str(person) / f"c{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 8), (40 * person, 100 * number, 0)).save(place)
    place.write_bytes(b"no picture")
    assert check([str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.strip().endswith(f"in {folder}") for line in lines)
    assert any(str(place) in line for line in lines)


# ---- figures

CROP = np.zeros((8, 4, 3), np.uint8)
DISTANCES = np.linspace(0.5, 1.5, 12).reshape(3, 4)
COUNTS = np.arange(1, 21)


def swept(keys: list[str], **columns: list[object]) -> Figure:
    return sweep_figure(
        pd.DataFrame(dict(zip(keys, columns.values(), strict=False)) | {"mAP": columns["mAP"]}), keys, "mAP"
    )


def searched(key: str) -> pd.DataFrame:
    numbers = np.linspace(0.001, 0.9, 4)
    columns = {"trial": range(4), key: numbers, "b": numbers**2, "val/mAP": numbers, "status": "FINISHED"}
    return pd.DataFrame(columns)


#: Every figure, with a name wherever text enters it: how often the name stands in it at least.
FIGURES: dict[str, tuple[int, Callable[[str], Figure]]] = {
    "cmc": (1, lambda name: cmc_curves({name: [0.5, 1.0]})),
    "training": (2, lambda name: training_curves(pd.DataFrame({"epoch": [1], f"{name}/mAP": [0.5]}), name)),
    "rankings": (
        3,
        lambda name: ranked_lists([RankedList(CROP, 1.0, name, [Hit(CROP, True, name)])], "best", title=name),
    ),
    "sheet": (3, lambda name: contact_sheet([[[CROP]]], [name], [name], title=name)),
    "pairs": (
        4,
        lambda name: compared_pairs([Pair(CROP, CROP, name, name, 1.0, True)], title=name, note=name),
    ),
    "hardest": (2, lambda name: hardest_bands(DISTANCES, DISTANCES, distance_label=name, title=name)),
    "distances": (
        3,
        lambda name: pair_distances(
            COUNTS / 20, COUNTS, COUNTS, 0.5, threshold_label=name, distance_label=name, title=name
        ),
    ),
    "roc": (
        4,
        lambda name: verification_roc(
            COUNTS / 20, COUNTS / 20, [Rate(name, 0.5, 0.5)], impostor_pairs=20, legend_title=name,
            note=name, title=name,
        ),
    ),
    "domains": (2, lambda name: domain_bars({name: {"mAP": 0.5}}, title=name)),
    "differences": (
        3,
        lambda name: difference_figure([Against(name, 50.0, 1.0, 0.5, 2.0)], (name, 49.0), name),
    ),
    "line": (2, lambda name: swept([name], a=[1, 2], mAP=[0.5, 0.6])),
    "dots": (3, lambda name: swept([name], a=[name, "x"], mAP=[0.5, 0.6])),
    "map": (4, lambda name: swept([name, f"{name}2"], a=[name, "x"], b=[name, "x"], mAP=[0.5, 0.6])),
    "parallel": (
        4,
        lambda name: swept([name, f"{name}2", f"{name}3"], a=[name] * 2, b=[1, 2], c=[1, 2], mAP=[0.5, 0.6]),
    ),
    "slices": (1, lambda name: search_slices(searched(name), [name, "b"], "val/mAP")),
    "surface": (2, lambda name: search_map(searched(name), name, "b", "val/mAP")),
    "history": (0, lambda name: search_history(searched(name), "val/mAP")),
}  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", FIGURES)
def test_a_figure(kind: str) -> None:
    name = r"$\frac{$ [x]"
    least, make = FIGURES[kind]
    figure = make(name)
    figure.draw_without_rendering()
    texts: list[Drawn] = [text for text in figure.findobj(Drawn) if text.get_text()]
    assert not [text.get_text() for text in texts if text.get_parse_math()]
    assert sum(text.get_text().count(name) for text in texts) >= least


def test_a_name_that_begins_with_a_dash_below_is_in_the_legend() -> None:
    (below,) = cmc_curves({"_a": [0.5], "b": [0.6]}).legends
    assert [text.get_text() for text in below.get_texts()] == ["_a: rank-1 50.0 %", "b: rank-1 60.0 %"]


def test_powers_of_ten_need_no_formula() -> None:
    far = np.geomspace(1e-5, 1, 50)
    figure = verification_roc(far, far, [], impostor_pairs=10**5)
    figure.draw_without_rendering()
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert "10⁻³" in labels
    figure = sweep_figure(pd.DataFrame({"lr": np.geomspace(1e-4, 1e-2, 30), "mAP": 0.5}), ["lr"], "mAP")
    figure.draw_without_rendering()
    assert "10⁻³" in [label.get_text() for label in figure.axes[0].get_xticklabels()]


# ---- Markdown

PAGE = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def shown(markdown: str) -> str:
    return PAGE.render(markdown)


def test_markdown_shows_a_name_as_it_stands(name: str) -> None:
    as_text = html.escape(name, quote=False)
    assert shown(as_markdown(name)) == f"<p>{as_text}</p>\n"
    assert f"<td>{as_text}</td>" in shown(f"| a |\n|---|\n| {as_markdown(name)} |")


def test_ordinary_names_stay_readable_in_the_source() -> None:
    for text in ("loss.alpha=1.2, backbone=resnet50_ibn", "schedule: 40 to 70 (half)", "best/val/mAP"):
        assert as_markdown(text) == text


def test_the_report_of_a_sweep(name: str) -> None:
    runs = [
        SweptRun({"key": value}, "0", "FINISHED", {"val/mAP": score, "val/rank-1": score})
        for value, score in ((name, 0.6), ("other", 0.5))
    ]
    runs.append(SweptRun({"key": "lost"}, "0", "FAILED", {}, name))
    report = build(runs, ["key", "seed"], "val", name)
    page, as_text = shown(report.page(figure=True, again="x")), html.escape(name, quote=False)
    assert f"<h1>{as_text}</h1>" in page
    assert f"<td>{as_text}</td>" in page
    assert f'alt="{html.escape(name)}"' in page
    assert f"Best: key={as_text} with" in page
    assert f"key=lost, seed=0 ({as_text})" in page
    figure = report.figure()
    assert figure is not None
    figure.draw_without_rendering()


def test_the_table_of_a_search(name: str) -> None:
    class Search:
        keys = ("key",)

    table = pd.DataFrame(
        {"trial": [0], "key": [name], "val/mAP": [0.5], "epochs": [1], "status": ["FINISHED"]}
    )
    page = shown(trials_markdown(Search, table))  # type: ignore[arg-type]
    assert f"<td>{html.escape(name, quote=False)}</td>" in page
    assert "<td>50.0</td>" in page
