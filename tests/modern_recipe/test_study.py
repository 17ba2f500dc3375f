"""The study on drawn people, from its first cell to its report; and what its rows decide."""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

from experiments.mean import Mean
from experiments.modern_recipe import publish, report
from experiments.modern_recipe.__main__ import main
from experiments.modern_recipe.estimate import left
from experiments.modern_recipe.plan import HERE, Cell, Plan
from experiments.modern_recipe.run import OutOfTime, Runner
from experiments.modern_recipe.search import walk
from experiments.modern_recipe.stages import Study
from experiments.modern_recipe.table import Row, Table, median_minutes
from reid import api
from reid.config.checks import ConfigError

TINY = Path(__file__).parents[1] / "fixtures" / "modern_recipe.yaml"


def in_this_process(command: str, words: Sequence[str], seconds: float) -> int:
    """A command as the program starts it, without a process for it."""
    assert seconds > 0
    getattr(api, command)(words)
    return 0


@pytest.fixture
def home(tmp_path: Path, tables: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("REID_HOME", str(tmp_path / "home"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_the_study_from_its_first_cell_to_its_report(
    home: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, readme = home / "results", home / "README.md"
    readme.write_text(f"# A study\n\n{report.BEGIN}\n{report.END}\n\nits end\n")
    places = ["--plan", str(TINY), "--results", str(results)]
    data = [*places, "--crops", str(tiny_data), "--weights", "none"]

    def lines() -> list[dict[str, str]]:
        return list(csv.DictReader((results / "cells.csv").open()))

    assert main(["screen", *data, "--minutes", "0"], in_this_process) == 0
    assert "are left" in capsys.readouterr().out
    assert not (results / "cells.csv").exists()
    assert main(["screen", *data], in_this_process) == 0
    screened = lines()
    assert [line["name"] for line in screened] == ["published", "published + gem"]
    assert [line["split"] for line in screened] == ["test", "test"]
    assert 0 < float(screened[0]["train_minutes"]) < float(screened[0]["minutes"]) < 1
    assert screened[0]["command"].startswith("python -m reid.train dataset=synthetic dataset.preset=tiny")
    assert "data.root=CROPS" in screened[0]["command"]

    # The finished run is found again where its row was not written any more.
    (results / "cells.csv").unlink()
    started: list[str] = []

    def counted(command: str, words: Sequence[str], seconds: float) -> int:
        started.append(command)
        return in_this_process(command, words, seconds)

    assert main(["screen", *data], counted) == 0
    assert started == []
    assert [line["mAP"] for line in lines()] == [line["mAP"] for line in screened]
    assert lines()[0]["minutes"] == ""

    # In so small a plan the speeds, the curve and all else are the same two runs, which are judged away too.
    assert main(["winner", *data], counted) == 0
    assert main(["winner", *data], counted) == 0
    assert started == []
    assert main(["away", *data], counted) == 0
    assert started == ["evaluate"] * 2
    # A row whose config is another one now is not taken for a run of it.
    rows = (results / "cells.csv").read_text()
    (results / "cells.csv").write_text(rows.replace(lines()[0]["config_hash"], "0" * 16))
    assert main(["screen", *data], counted) == 2
    assert "a file of conf/ has changed" in " ".join(capsys.readouterr().err.split())
    (results / "cells.csv").write_text(rows)
    found = [(line["stage"], line["name"], line["judged_on"]) for line in lines()[2:]]
    assert found == [
        ("away", "published", "synthetic"), ("away", "winner", "synthetic"),
    ]  # fmt: skip
    assert [line["mAP"] for line in lines()[2:]] == [line["mAP"] for line in lines()[:2]]  # away is home here

    # A later line of a series begins with the model of an earlier one.
    assert main(["distil", *data], counted) == 0
    assert started[2:] == ["train"]
    assert lines()[-1]["name"] == "student"
    assert "init_from=MODEL" in lines()[-1]["command"]

    assert main(["cost", *places, "--seconds", "0.01"]) == 0
    assert main(["report", *places, "--readme", str(readme)]) == 0
    text = readme.read_text()
    assert text.startswith("# A study")
    assert text.endswith("its end\n")
    for title in ("The curve", "The screen", "Why the lead melts", "The ladder", "Away from home"):
        assert f"### {title}" in text
    assert (results / "curve.png").stat().st_size > 1000
    assert "ahead" in text.lower()


def row(name: str, changes: Sequence[str], seed: int, mAP: float, cpu: str = "ours", **more: object) -> Row:
    cell = Row(
        "screen", name, " ".join(changes), seed, "val", "", "", 12, 2.0, 2.5, mAP, 80.0, 90.0, 50.0, 70.0,
        1.0, 800.0, cpu, 2, "0123", "numbers-2", "ab", "cd", "2.14", "python -m reid.train",
    )  # fmt: skip
    return replace(cell, **more)  # type: ignore[arg-type]


def screened(table: Table, scores: dict[tuple[str, ...], Sequence[float]], cpu: str = "ours") -> None:
    """Rows of recipes by their keys, one a seed."""
    plan = Plan()
    search = Study(plan, table, cpu).search("screen")
    for keys, values in scores.items():
        for seed, value in enumerate(values):
            cell = search.cell(plan, keys, seed)
            table.rows.append(row(cell.name, cell.changes, seed, value, cpu))


def test_a_screen_keeps_what_leads_and_asks_for_seeds_where_a_lead_is_small(tmp_path: Path) -> None:
    plan, table = Plan(), Table(tmp_path / "cells.csv")
    keys = ("gem", "cosine", "lr", "l2")
    search = replace(Study(plan, table, "ours").search("screen"), keys=keys)

    def names(cells: Sequence[Cell]) -> list[tuple[str, int]]:
        return [(cell.name.removeprefix("published"), cell.seed) for cell in cells]

    found = walk(search, plan, table, "ours")
    assert names(found.missing) == [("", 0), *((f" + {key}", 0) for key in keys)]
    # gem leads clearly, cosine a little, lr harms clearly, l2 a little.
    screened(table, {(): [60], ("gem",): [63], ("cosine",): [61], ("lr",): [53], ("l2",): [59.5]})
    found = walk(search, plan, table, "ours")
    assert [(one.key, one.kept) for one in found.decisions] == [("gem", True)]
    assert names(found.missing) == [(" + gem + cosine", 0)]
    screened(table, {("gem", "cosine"): [63.5]})
    assert names(walk(search, plan, table, "ours").missing) == [(" + gem", 1), (" + gem + cosine", 1)]
    screened(table, {("gem",): [63, 62, 62], ("gem", "cosine"): [63.5, 61, 62.4]})
    screened(table, {("gem", "l2"): [62]})
    found = walk(search, plan, table, "ours")
    assert found.missing == []
    # The mean of 0.5, -1 and 0.4 is no lead; l2 was tried on gem alone, and lr not at all.
    assert [(one.key, one.kept, len(one.leads)) for one in found.decisions] == [
        ("gem", True, 1), ("cosine", False, 3), ("l2", False, 1)
    ]  # fmt: skip
    assert found.keys == ("gem",)


def test_a_complete_screen_has_no_cell_left() -> None:
    table = Table(HERE / "results" / "cells.csv")
    study = Study(Plan(), table, table.rows[0].cpu, guess=True)
    assert study.needed("screen") == []
    assert left(study, "screen") == []
    assert left(Study(Plan(), table, "another CPU", guess=True), "winner") != []


def test_only_rows_of_one_cpu_are_compared(tmp_path: Path) -> None:
    plan, table = Plan(), Table(tmp_path / "cells.csv")
    search = replace(Study(plan, table, "ours").search("screen"), keys=("gem",))
    screened(table, {(): [60]}, "theirs")
    screened(table, {("gem",): [63]}, "ours")
    (needed,) = walk(search, plan, table, "ours").missing
    assert needed.name == "published"
    (needed,) = walk(search, plan, table, "theirs").missing
    assert needed.name == "published + gem"
    screened(table, {(): [59]}, "ours")
    for cpu in ("ours", "theirs", "a third"):  # what one machine has measured need not be done again
        found = walk(search, plan, table, cpu)
        assert found.missing == []
        assert found.alone == {"gem": 4.0}


def test_a_table_grows_by_whole_rows_and_is_read_back(tmp_path: Path) -> None:
    table = Table(tmp_path / "results" / "cells.csv")
    rows = [row("published", ["epochs=12"], 0, 60.1234), row("killed", ["a=[1,2]"], 1, 50.0, minutes=None)]
    for one in rows:
        table.add(one)
    assert Table(table.path).rows == rows
    assert [path.name for path in table.path.parent.iterdir()] == ["cells.csv"]


def test_a_table_begun_by_other_code_or_on_a_changed_machine_is_not_added_to(tmp_path: Path) -> None:
    table = Table(tmp_path / "cells.csv")
    table.refuse_other_code("ef", "2.15", 4, "ours")
    table.add(row("published", ["epochs=12"], 0, 60.0))
    table.refuse_other_code("ab", "2.14", 2, "ours")
    with pytest.raises(ConfigError, match=r"trees ab; commits cd.*is ef. Check out one of those commits"):
        table.refuse_other_code("ef", "2.14", 2, "ours")
    with pytest.raises(ConfigError, match=r"rows of this CPU with torch 2\.14, and here it is 2\.15"):
        table.refuse_other_code("ab", "2.15", 2, "ours")
    with pytest.raises(ConfigError, match="rows of this CPU with threads 2, and here it is 1"):
        table.refuse_other_code("ab", "2.14", 1, "ours")
    table.refuse_other_code("ab", "2.15", 1, "theirs")  # whose pairs are its own


def test_rows_of_weights_that_lie_nowhere_here_are_not_composed(tmp_path: Path) -> None:
    runner = Runner(Plan(), {"crops": "/crops", "weights": "none"})
    table = Table(tmp_path / "cells.csv")
    table.rows.append(row("published", ["backbone.weights={lite0}", "epochs=2"], 0, 40.0, runner.cpu))
    runner.refuse_stale(table)
    with pytest.raises(ConfigError, match=r"say where it lies, by --place lite0=PATH"):
        runner.job(table.rows[0].cell, {})


def test_a_seed_that_the_machine_disturbed_moves_no_minutes() -> None:
    minutes = (24.0, 31.0, 24.4)
    rows = [row("published", [], seed, 80.0, train_minutes=one) for seed, one in enumerate(minutes)]
    assert median_minutes(rows) == 24.4
    assert median_minutes(rows[:2]) == 27.5


def test_a_figure_names_the_machines_of_its_own_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of the newest row, which another machine may have written."""
    table = Table(HERE / "results" / "cells.csv")
    table.rows.append(replace(table.rows[-1], cpu="another CPU", seed=99))
    figures: dict[str, Figure] = {}
    monkeypatch.setattr(publish, "save", lambda figure, path: figures.update({path.name: figure}))
    readme = tmp_path / "README.md"
    readme.write_text(f"{report.BEGIN}{report.END}")
    publish.publish(Plan(), table, tmp_path, readme)
    for name in ("curve.png", "ladder.png"):
        texts = " ".join(one.get_text() for one in figures[name].findobj(Text))
        assert "AMD EPYC, 2 threads" in texts
        assert "another CPU" not in texts
    row = table.rows[0]
    both = publish.machines([row, row, replace(row, cpu="another CPU")])
    assert both == "AMD EPYC, 2 threads; another CPU, 2 threads"


def timed(table: Table, keys: tuple[str, ...], seconds: float) -> None:
    """The row of a recipe's speed, in seconds of an epoch."""
    cell = Study(Plan(), table, "ours").speed(keys, "128x64")
    table.rows.append(row(cell.name, cell.changes, 0, 50.0, train_minutes=2 * seconds / 60))


def test_whole_epochs_fill_a_budget_by_each_recipes_own_speed(tmp_path: Path) -> None:
    study = Study(Plan(), Table(tmp_path / "cells.csv"), "ours")
    timed(study.table, (), 34.0)
    for keys, seconds in ((("gem",), 34.5), (("lr",), 20.0), (("freeze",), 40.0)):
        timed(study.table, keys, seconds)
    assert study.epochs_for(2, (), "128x64") == 3  # 1.7 minutes; four would be 2.3
    assert study.epochs_for(1.7, ("gem",), "128x64") == 3  # as slow, but for what two timings differ by
    assert study.epochs_for(1.7, ("lr",), "128x64") == 5
    assert study.epochs_for(1.7, ("freeze",), "128x64") == 2
    assert "freeze_epochs=0" in study.speed(("freeze",), "128x64").changes  # or half of it would be frozen
    cell = Cell("curve", "winner", study.plan.changes((), "128x64", 10, "test"), 0)
    overhead = study.plan.section("overhead_seconds")
    assert study.seconds(cell) == pytest.approx(overhead + 340)  # by this machine's speed


def test_a_key_that_changes_an_epochs_time_has_the_epochs_of_the_same_minutes(tmp_path: Path) -> None:
    class Screened(Study):
        def screened(self) -> tuple[str, ...]:
            return ("gem",)

    study = Screened(Plan(), Table(tmp_path / "cells.csv"), "ours")
    assert [cell.name for cell in study.needed("winner")] == ["published at 128x64"]  # its speed
    timed(study.table, (), 36.0)
    assert [cell.name for cell in study.needed("winner")] == ["published + progressive at 128x64"]
    timed(study.table, ("progressive",), 24.0)
    epochs = {cell.name: cell.values["epochs"] for cell in study.needed("winner")}
    assert epochs["published + gem"] == epochs["published + gem + more_l2"] == "20"
    assert epochs["published + gem + progressive"] == "30"


def test_a_key_for_one_size_is_left_out_at_another() -> None:
    plan = Plan()
    small = plan.changes(("gem", "progressive"), "64x32", 12, "val")
    assert small == plan.changes(("gem",), "64x32", 12, "val")
    assert "image.sizes=[64x32@0.5,128x64]" in plan.changes(("progressive",), "128x64", 12, "val")


def test_the_ladder_goes_on_to_the_winner() -> None:
    class Known(Study):
        def winner(self) -> tuple[str, ...]:
            return ("gem", "cosine", "lr", "l2", "mix", "ema", "progressive")  # the last is for 128x64

    names = [variant.name for variant in Known(Plan(), Table(Path("nowhere")), "ours").series("ladder")]
    assert names[-3:] == ["+ soft-margin triplet for ranked", "+ mix", "+ ema"]


def test_a_student_waits_for_its_teacher(tmp_path: Path) -> None:
    study = Study(Plan(), Table(tmp_path / "cells.csv"), "ours", guess=True)
    assert {cell.name for cell in study.needed("distil")} == {"teacher", "plain"}


def test_another_machine_trains_what_it_needs_the_models_of() -> None:
    """Rows go with the table, models do not: the first machine trained both, another has none of them."""
    table = Table(HERE / "results" / "cells.csv")
    another = Study(Plan(), table, "another CPU")
    teacher = next(one.cells[0] for one in another.series("distil") if one.name == "teacher")
    assert table.row(teacher, table.rows[0].cpu) is not None
    assert teacher in another.needed("distil")
    first = another.needed("away")
    assert {cell.name for cell in first} == {"published", "winner"}
    assert not any(cell.judged_on for cell in first)


def test_a_mean_has_the_interval_of_student() -> None:
    mean = Mean.of([1.0, 2.0, 3.0])
    assert mean.value == 2.0
    assert mean.half == pytest.approx(4.302653 * 1.0 / 3**0.5, rel=1e-6)  # t of two degrees of freedom
    assert not mean.exceeds_noise
    assert Mean.of([2.0, 2.1, 1.9]).exceeds_noise
    assert str(Mean.of([4.0])) == "4.0"
    assert not Mean.of([4.0]).exceeds_noise
    with pytest.raises(ValueError, match="no value"):
        Mean.of([])


def test_goals_are_said_to_be_reached_missed_or_open() -> None:
    lead = {2.0: Mean(7.0, 1.0, 3), 24.0: Mean(1.0, 2.0, 3)}
    assert report.goals(lead, [2.0, 24.0], 3) == [
        "- Ahead at every budget by more than the interval: **missed** (not at 24 minutes).",
        "- At least 6 points at the shortest budget: reached (+7.0 ± 1.0).",
        "- At least 3 points at the longest budget: **missed** (+1.0 ± 2.0).",
    ]
    assert all("not measured yet" in line for line in report.goals({}, [2.0, 24.0], 3))
    one_seed = {2.0: Mean.of([7.0]), 24.0: Mean.of([4.0])}
    assert all("not measured yet" in line for line in report.goals(one_seed, [2.0, 24.0], 3))


def test_leads_are_compared_at_equal_time() -> None:
    """The published recipe gains 10 points with each doubling; the winner has 3 more, and takes longer."""

    def pair(minutes: float, seed: int) -> tuple[Row, Row]:
        def at(name: str, taken: float, more: float) -> Row:
            return row(name, [], seed, 50 + seed + 10 * math.log2(taken) + more, train_minutes=taken)

        return at("published", minutes, 0), at("winner", 1.25 * minutes, 3)

    found = {minutes: [pair(minutes, seed) for seed in (0, 1)] for minutes in (2.0, 4.0, 8.0)}
    assert [winner.mAP - one.mAP for one, winner in found[2.0]] == pytest.approx([6.219, 6.219], abs=1e-3)
    for minutes in found:  # within the curve, and a little beyond its end
        assert report.equal_time_leads(found, minutes) == pytest.approx([3, 3])
    found[8.0] = found[8.0][:1]
    assert len(report.equal_time_leads(found, 4.0)) == 1  # of the other seed the next run is not there yet
    assert report.equal_time_leads({2.0: found[2.0]}, 2.0) == []


def test_the_mean_of_fewer_seeds_than_planned_says_so() -> None:
    assert report._of_seeds("1.0", 1, 3) == "1.0 (1 of 3 seeds)"
    assert report._of_seeds("1.0", 3, 3) == "1.0"


def test_what_is_wrong_is_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def never(command: str, words: Sequence[str], seconds: float) -> int:
        raise OutOfTime

    places = ["--plan", str(TINY), "--results", str(tmp_path)]
    with pytest.raises(SystemExit) as status:
        main(["screen", *places], never)
    assert status.value.code == 2
    assert "--crops DIR" in capsys.readouterr().err
    broken = tmp_path / "plan.yaml"
    broken.write_text(TINY.read_text().replace("head: gem", "head: gme"))
    data = ["--crops", "x", "--weights", "none"]
    assert (
        main(["screen", "--plan", str(broken), "--results", str(tmp_path), *data], never) == 0
    )  # base first
    assert main(["second", *places, *data], never) == 2
    assert "no section second" in capsys.readouterr().err


def test_the_readme_says_what_the_rows_say() -> None:
    """Its tables are those that `report` writes from the rows that are committed, figures included."""
    results = HERE / "results"
    drawn = [name for name in report.FIGURES if (results / name).exists()]
    expected = report.markdown(Plan(), Table(results / "cells.csv"), drawn)
    _, _, rest = (HERE / "README.md").read_text().partition(report.BEGIN)
    assert rest.partition(report.END)[0].strip() == expected.strip()
