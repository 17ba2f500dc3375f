"""The published table by one command: what stands in it, what is planned, and the smoke profile for real."""

import csv
import io
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from composing import settings_of
from conftest import Runner, Starter

from experiments.reproduce_table import needs, probe, render
from experiments.reproduce_table.__main__ import main, write
from experiments.reproduce_table.collect import finished_runs, provenance
from experiments.reproduce_table.plan import Planned, plan, sweep_words
from experiments.reproduce_table.profiles import BACKBONES, DRAWN, FULL, ROWS, SMOKE, published_scores
from experiments.reproduce_table.table import Run, Score, Table, fill
from experiments.reproduce_table.words import DASH, cells, difference, measured
from reid.config.schema import config_folder
from reid.data.crops import silent
from reid.engine.rundir import RunStatus, read_status
from reid.jobs.frame import UNTIL
from reid.sweeps.sweep_file import job_statuses
from reid.tracking import default_store, list_runs
from reid.tracking.sources import code

PAPER = sorted((config_folder() / "experiment" / "paper").glob("*.yaml"))
SCORES = {"test/mAP": 0.862, "test/rank-1": 0.95}
CPU = torch.device("cpu")


def run(seed: int = 0, **scores: float) -> Run:
    address = f"http://127.0.0.1:5000/#/experiments/7/runs/{seed:032x}"
    return Run("resnet50", "market", seed, {**SCORES, **scores}, f"{seed:032x}", address)


def filled(*runs: Run) -> Table:
    return fill(FULL, runs, 10, published_scores())


# ---- the recipes


@pytest.mark.parametrize("file", PAPER, ids=lambda file: file.stem)
def test_a_recipe_opens_with_its_command_and_its_published_score(file: Path) -> None:
    dataset, _, backbone = file.stem.partition("_")
    lines = file.read_text().splitlines()
    assert lines[1] == f"# python -m reid.train experiment=paper/{file.stem}"
    text = " ".join(lines)
    for reranked in (False, True):
        published = published_scores().get((backbone, dataset, reranked))
        if published:
            assert f"mAP {published[0]}, rank-1 {published[1]} (published)" in text
    assert "duration" in text
    assert ("rerank: true" in text) == ((backbone, dataset, True) in published_scores())


def test_the_table_runs_these_recipes_and_no_other() -> None:
    assert sorted(FULL.words[0].removeprefix("experiment=").split(",")) == [
        f"paper/{file.stem}" for file in PAPER
    ]
    assert {(b, c.dataset) for b in BACKBONES for c in FULL.columns} | {
        ("resnet50_ibn_a", c.dataset) for c in FULL.columns
    } == {(backbone, dataset) for backbone, dataset, _ in published_scores()}


# ---- what stands in the table


@pytest.mark.parametrize(
    ("values", "tolerance", "shown"),
    [
        ((86.2,), 1.0, "-1.0"),
        ((86.14,), 1.0, "-1.1 ▼"),  # 86.1 as it is printed
        ((88.3,), 1.0, "+1.1 ▲"),
        ((84.0, 88.0), 1.0, "-1.2 ▼"),  # two seeds say nothing of the spread
        ((84.0, 86.0, 88.0), 4.0, "-1.2"),  # a standard deviation of 2
        ((85.9, 86.0, 86.1), 1.0, "-1.2 ▼"),  # of 0.1: one point counts
    ],
)
def test_a_difference_outside_the_tolerance_is_marked(
    values: tuple[float, ...], tolerance: float, shown: str
) -> None:
    score = Score(values, 87.2)
    assert score.tolerance == pytest.approx(tolerance)
    assert difference(score) == shown


def test_several_seeds_are_shown_with_their_standard_deviation() -> None:
    assert measured(Score((86.2,))) == "86.2"
    assert measured(Score((84.0, 86.0, 88.0))) == "86.0 ± 2.0"


def test_what_was_not_run_is_a_dash_and_never_the_published_number() -> None:
    table = filled(run())
    entries = {(e.row.label, e.column.dataset): cells(e) for e in table.entries}
    assert entries.pop(("ResNet50", "market")) == ("86.2 / 95.0", "87.2 / 95.0", "-1.0 / +0.0")
    assert len(entries) == 11
    assert {(value, apart) for value, _, apart in entries.values()} == {(DASH, DASH)}
    assert entries["ResNet50-IBN-a + re-ranking", "market"][1] == "94.4 / 95.7"
    lines = list(csv.DictReader(io.StringIO(render.comma_separated(table))))
    assert sum(bool(line["measured"]) for line in lines) == 2
    assert len(lines) == 24
    assert not table.complete
    assert "NOT COMPLETE: 9 of 10" in table.state()


def test_the_re_ranked_row_takes_the_same_runs() -> None:
    again = Run(
        "resnet50_ibn_a", "market", 0, {**SCORES, "test/rerank/mAP": 0.943, "test/rerank/rank-1": 0.957}
    )
    rows = {e.row.label: e for e in filled(again).entries if e.column.dataset == "market"}
    assert cells(rows["ResNet50-IBN-a"])[0] == "86.2 / 95.0"
    assert cells(rows["ResNet50-IBN-a + re-ranking"])[0] == "94.3 / 95.7"
    assert len(filled(again).runs) == 1


def test_other_data_have_no_published_score_beside_them() -> None:
    table = fill(SMOKE, [replace(run(), dataset="synthetic")], 10, published_scores())
    assert {text for entry in table.entries for text in cells(entry)[1:]} == {DASH}
    assert "says nothing of the published scores" in render.markdown(table)


def test_drawn_people_have_intervals_in_the_place_of_published_scores() -> None:
    values = {0: 0.71, 1: 0.74, 2: 0.77}
    runs = [replace(run(seed, **{"test/mAP": value}), dataset="synthetic") for seed, value in values.items()]
    table = fill(DRAWN, runs, 30, published_scores())
    entry = table.row(ROWS[1])[0]
    # Student's t of two degrees of freedom is 4.303; the standard deviation is 3.
    half = 4.303 * 3 / 3**0.5
    assert entry.mAP.interval == pytest.approx((74 - half, 74 + half), abs=1e-2)
    assert cells(entry, comparable=False) == ("74.0 ± 3.0 / 95.0 ± 0.0", "66.5 to 81.5", "95.0 to 95.0")
    text = render.markdown(table)
    assert "| mAP, 95 % | rank-1, 95 % |" in text
    assert "not comparable with the published scores" in text
    assert Score((50.0,)).interval is None
    assert next(csv.DictReader(io.StringIO(render.comma_separated(filled(run())))))["low"] == ""


def test_each_cell_leads_to_its_runs() -> None:
    one, many = run(), (run(0), run(1), run(2))
    assert f"[86.2 / 95.0]({one.address})" in render.markdown(filled(one))
    for text in (render.markdown(filled(*many)), render.html(filled(*many))):
        assert all(str(each.address) in text for each in many)
    assert all(str(each.run_id) in render.comma_separated(filled(*many)) for each in many)


def test_a_table_that_was_not_run_says_so(tmp_path: Path) -> None:
    table = replace(filled(), provenance=provenance([], "make reproduce-table"))
    files = write(table, tmp_path)
    assert [path.name for path in files] == ["table.md", "table.csv", "table.html", "table.png"]
    assert "Not run here" in files[0].read_text()
    assert files[3].read_bytes().startswith(b"\x89PNG")


# ---- the plan


@pytest.fixture
def recipe_words(own_home: None) -> list[str]:
    return ["experiment=paper/market_resnet50_ibn_a", "backbone.weights=/no/such/file"]


def finish(tmp_path: Path, one: Planned, **changes: str) -> None:
    """Leave what a finished run of a cell leaves."""
    folder = tmp_path / "multirun" / "sweep" / "0"
    folder.mkdir(parents=True)
    cell = one.cell
    status = RunStatus(
        "FINISHED",
        config_hash=cell.config_hash,
        data_root=cell.data_root,
        run_dir=str(folder),
        code=code(),
    )
    replace(status, **changes).write(folder)  # type: ignore[arg-type]


@pytest.mark.slow
def test_more_seeds_take_the_cells_that_are_finished(recipe_words: list[str], tmp_path: Path) -> None:
    finish(tmp_path, plan([*recipe_words, "seed=0"])[0])
    assert [one.finished for one in plan([*recipe_words, "seed=0,1,2"])] == [True, False, False]
    again = plan([*recipe_words, "seed=0,1,2", "sweep.take=none"])
    assert [one.finished for one in again] == [False] * 3


@pytest.mark.slow
def test_a_cell_of_other_code_has_to_run_again(recipe_words: list[str], tmp_path: Path) -> None:
    finish(tmp_path, plan([*recipe_words, "seed=0"])[0], code="another")
    assert [one.finished for one in plan([*recipe_words, "seed=0"])] == [False]


def test_the_words_of_the_sweep() -> None:
    assert sweep_words(FULL, 3)[-1] == "seed=0,1,2"
    assert sweep_words(SMOKE, 1, force=True, more=["device=cpu"])[-3:] == [
        "seed=0",
        "device=cpu",
        "sweep.take=none",
    ]


@pytest.mark.slow
def test_the_cells_of_drawn_people_train_as_the_quickstart_does(own_home: None) -> None:
    planned = plan(sweep_words(DRAWN, DRAWN.seeds))
    assert len(planned) == 30
    quickstart = settings_of("experiment=quickstart")
    for settings in (one.settings for one in planned):
        for part in ("epochs", "image", "schedule", "tricks", "loss", "optimizer"):
            assert getattr(settings, part) == getattr(quickstart, part), part
        assert (settings.dataset["preset"], settings.backbone["weights"]) == ("small", "none")


def test_no_cell_begins_once_the_time_is_up(
    start_command: Starter, tiny: list[str], template_db: Path, tmp_path: Path
) -> None:
    shutil.copy(template_db, tmp_path)
    words = ["reid.train", "-m", *tiny, "epochs=1", "seed=0,1"]
    process = start_command(*words, home=tmp_path, variables={UNTIL: "0"})
    _, complaint = process.communicate(120)
    assert process.returncode == 143
    assert "the time of this sweep is up. To go on: the same command" in complaint
    (sweep,) = (tmp_path / "multirun").iterdir()
    assert (sweep / "sweep.json").exists()
    assert [(job.status, job.error) for job in job_statuses(sweep)] == [
        ("KILLED", "not begun: the time was up"), ("FAILED", "not begun"),
    ]  # fmt: skip
    assert finished_runs(sweep, default_store(tmp_path)) == ([], [])
    assert [one.status for one in list_runs(default_store(tmp_path), "reid")] == ["KILLED"]


@pytest.mark.slow
def test_all_that_is_missing_is_one_list(
    recipe_words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan([*recipe_words, "seed=0,1"])
    monkeypatch.setattr(needs, "free_bytes", lambda _: 2**20)
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    found = needs.check(planned, CPU, silent)
    assert [item.partition(" ")[0] for item in found.missing] == ["data", "weights", "disk", "memory"]
    assert str(tmp_path / "data" / "market1501") in found.missing[0]
    assert "/no/such/file" in found.missing[1]
    assert found.counts == {str(tmp_path / "data" / "market1501"): probe.Counts(12_936, 3_368, 15_913)}

    done = [replace(one, finished=True) for one in planned]
    assert needs.check(done, CPU, silent).missing == []


@pytest.mark.slow
def test_the_estimate_counts_epochs_and_evaluations(recipe_words: list[str]) -> None:
    planned = plan([*recipe_words, "seed=0,1,2"])
    settings, root = planned[0].settings, planned[0].cell.data_root
    pace, counts = probe.Pace(train=0.01, embed=0.002), probe.Counts(1000, 100, 900)
    assert probe.evaluations(settings) == 6  # epochs 20, 40, … 120
    assert probe.seconds(settings, pace, counts) == pytest.approx(120 * 1000 * 0.01 + 6 * 1000 * 0.002)
    left = [replace(planned[0], finished=True), *planned[1:]]
    assert probe.estimate(left, {"resnet50_ibn_a": pace}, {root: counts}) == pytest.approx(2 * 1212)
    assert probe.estimate(left, {"resnet50_ibn_a": pace}, {}) is None
    assert [probe.duration(s) for s in (40, 720, 12_000, 200_000)] == [
        "40 s", "12 min", "3 h 20 min", "2 days 7 h",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["epochs=1"], "another table"),
        (["--seeds", "0"], "1 or more"),
        (["--minutes", "0"], "MINUTES=0: expected a number above 0"),
        (["--minutes", "-5"], "MINUTES=-5: expected"),
        (["--minutes", "nan"], "MINUTES=nan: expected"),
    ],
)
def test_wrong_arguments_are_refused(
    own_home: None, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["--profile", "smoke", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "code"), [(["--dry-run"], 0), ([], 1)])
def test_what_is_missing_is_the_answer_of_a_dry_run_and_a_failure_of_the_run(
    own_home: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
) -> None:
    """With any other code `make reproduce-table DRY_RUN=1` would end with make's own line about an error."""
    missing = needs.Needs(missing=["data of market, to be put at /nowhere"])
    monkeypatch.setattr(needs, "check", lambda *_: missing)
    monkeypatch.setattr(probe, "measure", lambda *_: probe.Pace(train=0.01, embed=0.002))
    assert main(arguments) == code
    printed = capsys.readouterr().out
    assert "MISSING, 1 to get" in printed
    assert "1. data of market" in printed


# ---- the smoke profile, for real


@pytest.mark.usefixtures("tables")
@pytest.mark.slow
def test_the_smoke_table(run_command: Runner, tmp_path: Path) -> None:
    first = run_command("experiments.reproduce_table", "--profile", "smoke", home=tmp_path, timeout=1800)
    assert first.returncode == 0, first.stderr + first.stdout
    for checkpoint in tmp_path.glob("multirun/*/*/*.pt"):
        checkpoint.unlink()  # 4 GB, and nothing here reads them
    results = tmp_path / "experiments" / "reproduce_table" / "results" / "smoke"
    text = (results / "table.csv").read_text()
    lines = list(csv.DictReader(io.StringIO(text)))
    assert len(lines) == 24
    assert all(0 <= float(line["measured"]) <= 100 for line in lines)
    assert all(float(line["measured"]) > 0 for line in lines if line["score"] == "mAP")
    assert {line["published"] for line in lines} == {""}
    markdown = (results / "table.md").read_text()
    for fact in ("commit", "numbers of reid/'s code", "fingerprint", "device", "versions", "date", "seeds"):
        assert re.search(rf"- .*{fact}", markdown), fact
    assert "Complete: 10 of 10 runs." in markdown
    page = (results / "table.html").read_text()
    store = default_store(tmp_path)
    runs = list_runs(store, "reproduce_table_smoke")
    assert len(runs) == 11
    parent = next(one for one in runs if one.tags.get("reid.kind") == "sweep")
    assert all(str(one.run_id) in page for one in runs if one is not parent)
    attached = {item.path for item in store.client.list_artifacts(str(parent.run_id), "table")}
    assert attached == {f"table/table.{kind}" for kind in ("md", "csv", "html", "png")}
    assert "| ResNet50-IBN-a + re-ranking |" in parent.tags["mlflow.note.content"]

    second = run_command("experiments.reproduce_table", "--profile", "smoke", home=tmp_path, timeout=600)
    assert second.returncode == 0, second.stderr + second.stdout
    assert "10 of them finished already" in second.stdout
    assert (results / "table.csv").read_text() == text
    assert len(list_runs(store, "reproduce_table_smoke")) == 11

    # A cell that failed leaves its place empty.
    (sweep,) = (tmp_path / "multirun").iterdir()
    status = read_status(sweep / "3")
    assert status is not None
    replace(status, status="FAILED", error="OSError: disk full").write(sweep / "3")
    found, failures = finished_runs(sweep, store)
    assert len(found) == 9
    assert "disk full" in failures[0]
