"""Speed and memory: every benchmark runs as a command at small sizes; its JSON, picture and table are there.

No time is judged here: what a shared machine measures says nothing.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from conftest import ROOT, Runner
from PIL import Image

from experiments.benchmark.__main__ import main
from experiments.benchmark.catalogue import load, names
from experiments.benchmark.measurements.start import MISTAKES, Call, Place, find_commands
from experiments.benchmark.outcome import Case, Goal, Outcome, ratio
from experiments.benchmark.show import markdown_table, picture
from experiments.benchmark.timing import Contest, Disagreement, agree

NAMES = list(names())
DASH = "| \N{EN DASH} "
MACHINE = {
    "cpu", "cores", "threads", "memory_gb", "gpu", "os", "python", "torch", "numpy", "git_sha", "git_dirty",
    "date", "gflops", "gigabytes_per_second",
}  # fmt: skip


def goal(value: float, bound: float | None = 2.0) -> Goal:
    return Goal("time / bare", value, bound, "<=")


def outcome(*goals: Goal, quick: bool = False) -> Outcome:
    machine = {
        "cpu": "A CPU", "cores": 2, "threads": 2, "memory_gb": 24.0, "gpu": "none", "torch": "2",
        "gflops": 150, "gigabytes_per_second": 9.5, "git_sha": "0123456789abcdef", "git_dirty": False,
        "date": "2026-01-02 03:04 UTC",
    }  # fmt: skip
    case = Case(
        "8 x 9", list(goals), {"ours": [3.0, 1.0, 2.0]}, 0.5, "the product", {"ours": 80.0}, {"mAP": 0.5}
    )
    return Outcome("some", "How fast?", quick, 3, machine, [case])


# ---- the command


@pytest.fixture(scope="module")
def results(run_command: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `all table --quick` writes."""
    folder = tmp_path_factory.mktemp("results")
    words = ["all", "table", "--quick", "--results", str(folder)]
    done = run_command("tests.benchmark.forking", *words, home=tmp_path_factory.mktemp("home"), timeout=600)
    assert done.returncode == 0, done.stderr
    (folder / "printed").write_text(done.stdout)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_measures_itself_and_its_references(results: Path, name: str) -> None:
    if f"{name} (quick): not measured" in (results / "printed").read_text():
        pytest.skip(f"{name}: not on this machine")
    content = json.loads((results / "quick" / f"{name}.json").read_text())
    assert content["benchmark"] == name
    assert content["quick"] is True
    assert set(content["machine"]) == MACHINE
    assert content["cases"]
    for case in content["cases"]:
        assert case["goals"]
        for judged in case["goals"]:
            assert math.isfinite(judged["value"])
            assert judged["met"] in (True, False, None)
        assert all(seconds > 0 for values in case["seconds"].values() for seconds in values)
        assert set(case["median_seconds"]) == set(case["seconds"])
        assert all(mib > 10 for mib in case["peak_mib"].values())
    with Image.open(results / "quick" / f"{name}.png") as image:
        assert image.width == 1080


@pytest.mark.slow
def test_small_sizes_are_marked_and_kept_from_the_results(results: Path) -> None:
    assert sorted(path.name for path in results.iterdir()) == ["printed", "quick"]
    printed = (results / "printed").read_text()
    assert "QUICK" in printed
    assert "missed" not in printed
    table = (results / "quick" / "table.md").read_text()
    assert all(f"`{name}`" in table for name in NAMES)
    assert "not judged" in table
    assert "missed" not in table


def test_help_lists_every_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for name, line in names().items():
        assert line
        assert f"{name:16}{line}" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "NAME"),
        (["evalute"], "no benchmark evalute; there are all, table, "),
        (["evaluate", "--repeats", "0"], "expected 1 or more"),
    ],
)
def test_wrong_arguments(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_table_of_nothing_has_dashes(tmp_path: Path) -> None:
    assert main(["table", "--results", str(tmp_path)]) == 0
    table = (tmp_path / "table.md").read_text()
    assert all(f"| `{name}` {4 * DASH}| not run |" in table for name in NAMES)


def test_a_damaged_result_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / f"{NAMES[0]}.json").write_text('{"cases": []')
    with pytest.raises(SystemExit) as ended:
        main(["table", "--results", str(tmp_path)])
    assert ended.value.code == 2
    assert f"{NAMES[0]}.json is not a benchmark's outcome" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_says_how_often_it_repeats(name: str) -> None:
    benchmark = load(name)
    assert benchmark.REPEATS >= 1
    assert callable(benchmark.measure)


# ---- outcomes


def test_a_goal_at_its_bound_is_met() -> None:
    assert goal(2.0).met is True
    assert goal(2.01).met is False
    assert Goal("gain", 2.0, 2.0, ">=").met is True
    assert Goal("gain", 1.99, 2.0, ">=").met is False
    assert goal(9.0, bound=None).met is None


def test_a_ratio_is_taken_repeat_by_repeat() -> None:
    # Twice as slow a machine in the last repeat: the ratio of that repeat is what it was.
    found = ratio("time / bare", [2.0, 3.0, 8.0], [1.0, 2.0, 4.0], at_most=1.5)
    assert (found.value, found.lowest, found.highest) == (2.0, 1.5, 2.0)
    assert (found.bound, found.sense) == (1.5, "<=")
    assert ratio("gain", [1.0], [1.0], at_least=3).sense == ">="


def test_json_and_back(tmp_path: Path) -> None:
    written = outcome(goal(1.5), goal(2.5, bound=None))
    written.write(tmp_path / "some.json")
    assert Outcome.read(tmp_path / "some.json") == written
    content = json.loads((tmp_path / "some.json").read_text())
    assert content["cases"][0]["median_seconds"] == {"ours": 2.0}
    assert [one["met"] for one in content["cases"][0]["goals"]] == [True, None]


def test_what_was_missed() -> None:
    assert outcome(goal(1.5), goal(9.0, bound=None)).missed == []
    assert outcome(goal(2.5)).missed == ["8 x 9: time / bare 2.5 x, goal <= 2 x"]


def test_the_markdown_table_names_the_machine() -> None:
    table = markdown_table({"some": outcome(goal(1.5), goal(2.5)), "other": None})
    assert table.splitlines()[2:5] == [
        "| `some` | 8 x 9 | time / bare | **1.5 x** | <= 2 x | met |",
        "| `some` | 8 x 9 | time / bare | 2.5 x | <= 2 x | missed |",
        f"| `other` {4 * DASH}| not run |",
    ]
    assert "`some`: A CPU, 2 cores, 2 threads, 24 GB" in table


def test_a_picture_has_a_panel_a_kind_of_goal() -> None:
    figure = picture(outcome(goal(1.5), goal(2.5), Goal("memory", 10.0, None, "<=", "MiB"), quick=True))
    figure.draw_without_rendering()
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["time / bare   (goal <= 2 x, dashed)", "memory"]


def test_nothing_at_all_has_an_axis_too() -> None:
    (axes,) = picture(outcome(Goal("growth of threads", 0.0, 0.0, "<=", ""))).axes
    assert axes.get_xlim() == (0, 1)


# ---- timing


def test_contestants_run_in_turn() -> None:
    calls: list[str] = []
    contest = Contest({"a": lambda: calls.append("a") or "A", "b": lambda: calls.append("b")})  # type: ignore[func-returns-value]
    assert contest.results == {"a": "A", "b": None}
    contest._once = {"a": 1.0, "b": 1.0}  # so long that one call is a sample
    seconds = contest.run(repeats=2)
    assert calls == ["a", "b", "a", "b", "a", "b"]
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_what_disagrees_is_not_timed() -> None:
    agree("mAP", 0.5, 0.5 + 1e-9, tolerance=1e-6)
    with pytest.raises(Disagreement, match=r"mAP: 0\.5 here, 0\.6 by the reference"):
        agree("mAP", 0.5, 0.6, tolerance=1e-6)
    with pytest.raises(Disagreement):
        agree("mAP", math.nan, 0.5, tolerance=1e-6)


# ---- start


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(ROOT, tmp_path_factory.mktemp("home"))


def test_every_command_has_its_mistakes() -> None:
    assert find_commands(ROOT).keys() == MISTAKES.keys()


@pytest.mark.slow
def test_seconds_of_the_cpu_are_those_of_one_start_of_python(place: Place) -> None:
    busy = "import os\nwhile os.times().user < 0.3: sum(range(10_000))"
    assert place.cpu_seconds(Call(["-c", "pass"])) < 0.2
    assert place.cpu_seconds(Call(["-c", busy])) > 0.2


def test_a_call_that_ends_with_another_exit_code_is_no_measurement(place: Place) -> None:
    with pytest.raises(RuntimeError, match="ended with 3, expected 2: no such key"):
        place.cpu_seconds(Call(["-c", "print('no such key'); raise SystemExit(3)"], code=2))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search", "--crops", "."], "takes both, a folder of images and a model"),
        (["rerank", "--crops", ".", "--checkpoint", "model.pt"], "search takes both"),
        (["search", "--crops", "nowhere", "--checkpoint", "model.pt"], "nowhere: there is no such folder"),
    ],
)
def test_real_crops_go_with_a_model_to_the_search(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(words)
    assert message in capsys.readouterr().err


def test_only_start_measures_another_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["rerank", "--version", "HEAD"])
    assert "only start measures another version's code" in capsys.readouterr().err
