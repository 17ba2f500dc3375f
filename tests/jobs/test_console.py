"""Printed scores are in percent and say so; what is stored stays a fraction."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from composing import settings_of

from reid.jobs.console import epoch_line, say_where, score_line, score_table
from reid.judging.judge import score_values
from reid.retrieval import Embeddings, Scores, evaluate
from reid.runs.details import show_details
from reid.runs.tables import comparison, run_table, show_comparison
from reid.terminal import Terminal
from reid.tracking import RunRecord
from reid.words import percent


@pytest.fixture
def scores() -> Scores:
    """Two queries, the match of one at rank 1 and of the other at rank 2."""
    query = Embeddings(torch.tensor([[0.0], [10.0]]), torch.tensor([1, 2]), torch.tensor([0, 0]))
    gallery = Embeddings(
        torch.tensor([[1.0], [9.5], [12.0]]), torch.tensor([1, 3, 2]), torch.tensor([1, 1, 1])
    )
    return evaluate(query, gallery)


def lines(terminal: Terminal) -> list[str]:
    assert isinstance(terminal.file, io.StringIO)
    return [line.rstrip() for line in terminal.file.getvalue().splitlines()]


def terminal() -> Terminal:
    return Terminal(file=io.StringIO(), width=120, highlight=False)


def test_percent() -> None:
    assert [percent(value) for value in (0, 0.02849, 0.7594, 1)] == ["0.0 %", "2.8 %", "75.9 %", "100.0 %"]


def test_of_an_epoch(scores: Scores) -> None:
    values = {
        "train/loss": 1.5,
        "train/accuracy": 0.1234,
        "train/lr": 3.5e-4,
        "train/images_per_second": 95.4,
    }
    assert epoch_line(3, 120, values) == "epoch   3/120  loss 1.500  accuracy 12.3 %  lr 0.00035  95 images/s"
    assert score_line(3, scores, "val").plain == "epoch   3  mAP 75.0 %  rank-1 50.0 % on val"
    assert score_line(0, scores, "val").plain.endswith("rank-1 50.0 % on val  (before training)")


def test_of_a_table_that_fits_eighty_columns(scores: Scores) -> None:
    shown = Terminal(file=io.StringIO(), width=80)
    shown.print(score_table({"last epoch": scores}, "how"))
    rows = lines(shown)
    assert rows[2].split("┃")[2:-1] == [
        " mAP % ",
        " rank-1 % ",
        " rank-5 % ",
        " rank-10 % ",
        " mINP % ",
        " queries ",
    ]
    assert rows[4].split("│")[1:-1] == [
        " last epoch ", "  75.0 ", "     50.0 ", "    100.0 ", "     100.0 ", "   75.0 ", "       2 ",
    ]  # fmt: skip
    # While the tracker gets fractions.
    assert score_values("test", scores)["test/mAP"] == pytest.approx(0.75)


def test_of_the_last_line_of_a_run(tmp_path: Path) -> None:
    shown, settings = terminal(), settings_of("dataset=synthetic")
    settings = replace(settings, tracking=replace(settings.tracking, uri=f"sqlite:///{tmp_path}/mlflow.db"))
    history = [
        {"epoch": 0, "test/mAP": 0.0284},
        {"epoch": 1, "train/loss": 1.0},
        {"epoch": 2, "test/mAP": 0.7},
    ]
    # The model that is kept need not be that of the last row.
    say_where(shown, settings, tmp_path, history, {"test/mAP": 0.7594}, "id")
    assert lines(shown)[0] == "mAP on people not trained on: 2.8 % before training, 75.9 % after"


def test_of_tracked_runs() -> None:
    metrics = {
        "val/mAP": 0.4567,
        "val/rank-1": 0.5,
        "train/accuracy": 0.25,
        "train/loss": 1.5,
        "val/valid_queries": 18.0,
    }
    run = RunRecord("1" * 32, "name", "FINISHED", {}, metrics, {"reid.score_split": "val"})
    shown = terminal()
    shown.print(run_table([(run, [])], "title", {run.run_id or "": "1111"}))
    head, row = lines(shown)[1:3]
    assert head.split() == ["run", "name", "status", "mAP", "%", "rank-1", "%", "on", "age"]
    assert row.split() == ["1111", "name", "FINISHED", "45.7", "50.0", "val"]
    other = replace(run, run_id="2" * 32, metrics={**metrics, "val/mAP": 0.5, "train/accuracy": 0.5})
    shown = terminal()
    show_comparison(shown, [run, other], comparison([run, other]))
    rows = {line.split("│")[1].strip(): line.split("│")[3].strip() for line in lines(shown) if "│" in line}
    assert rows["val/mAP (%)"] == "50.0 (+4.3)"
    assert rows["train/accuracy (%)"] == "50.0 (+25.0)"
    assert rows["train/loss"] == "1.5 (+0)"


def test_of_one_run_in_full() -> None:
    unknown = (
        "run_id name experiment parent took started age error typed differs data code command machine folder "
        "checkpoint artifacts"
    )
    child = {"run_id": "2", "status": "FINISHED", "name": "x", "mAP": 0.5, "split": "val"}
    facts = {
        **dict.fromkeys(unknown.split()),
        "kind": "sweep",
        "status": "FINISHED",
        "split": "val",
        "data_fingerprint": {},
        "registered": [],
        "metrics": {"val/mAP": 0.4567, "train/coverage": 0.5, "train/loss": 1.5},
        "children": [child],
    }
    shown = terminal()
    show_details(shown, facts)
    shares = {line.split()[0]: line.split()[1:] for line in lines(shown) if line.startswith("    ")}
    assert shares["val/mAP"] == ["45.7", "%"]
    assert shares["train/coverage"] == ["50.0", "%"]
    assert shares["train/loss"] == ["1.5"]
    assert lines(shown)[-1] == "    2  FINISHED  x  mAP 50.0 % on val"
