"""The report of a sweep, on sweeps written by hand."""

from __future__ import annotations

import dataclasses
import logging
import logging.handlers
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reid import report as command
from reid.config.identity import flat
from reid.engine.rundir import RunStatus
from reid.sweeps import summary as report
from reid.sweeps.cells import plan
from reid.sweeps.outcome import SweptRun, runs_of_jobs
from reid.sweeps.summary import Report, build, default_choice, results_folder
from reid.sweeps.sweep_file import job_statuses
from reid.tracking import Store, Tracker, open_parent

PEOPLE, EACH = 40, 3
PIDS = np.arange(PEOPLE).repeat(EACH)
#: What makes people hard is the same for every setting.
HARDNESS = np.linspace(-0.3, 0.3, PEOPLE)[PIDS]

ROOT = Path(__file__).resolve().parents[2]


def queries(place: Path, score: float, seed: int, split: str = "val") -> float:
    """Write scores by query around `score`; return their mean."""
    noise = np.random.default_rng(seed).normal(0, 0.02, len(PIDS))
    precision = score + HARDNESS + noise
    table = {
        "name": split,
        "query": range(len(PIDS)),
        "pid": PIDS,
        "camid": 0,
        "average_precision": precision,
    }
    pd.DataFrame({**table, "first_match": 1}).to_csv(place / "queries.csv", index=False)
    return float(precision.mean())


def run(
    folder: Path, score: float | None, seed: int = 0, by_query: bool = True, split: str = "val", **values: str
) -> SweptRun:
    """A run of a sweep; `score` None: it failed; `by_query`: it has its scores by query."""
    place = folder / f"{len(list(folder.iterdir()))}"
    place.mkdir()
    scores, path = {}, None
    if score is not None:
        measured = queries(place, score, int(1000 * score) + seed, split) if by_query else score
        scores = {f"{split}/mAP": measured, f"{split}/rank-1": 0.8}
        path = place / "queries.csv" if by_query else None
    keys = {key.replace("__", "."): value for key, value in values.items()}
    status, error = ("FINISHED", "") if scores else ("FAILED", "RuntimeError: no luck")
    return SweptRun(keys, str(seed), status, scores, error, queries=path)


def report_of(
    runs: list[SweptRun], keys: list[str] | None = None, split: str = "val", **options: str
) -> Report:
    return build(runs, keys or ["loss.alpha", "seed"], split, "study: sweep", **options)


def test_the_table_has_mean_and_spread_of_each_setting_best_first(tmp_path: Path) -> None:
    scores: dict[str, list[float | None]] = {
        "1.0": [0.50, 0.52, 0.54],
        "1.2": [0.60, 0.61, 0.65],
        "1.4": [None, 0.55, None],
        "2.0": [None],
    }
    runs = [
        run(tmp_path, score, seed, by_query=False, loss__alpha=alpha)
        for alpha, by_seed in scores.items()
        for seed, score in enumerate(by_seed)
    ]
    made = report_of(runs)
    lines = made.markdown().splitlines()
    less = "mAP less that of loss.alpha=1.2, points [95 %]"
    assert lines[2] == f"| loss.alpha | mAP on val (%) | rank-1 (%) | seeds | {less} |"
    # Means 62.0, 55.0 and 52.0; the difference's interval is Welch's: 10 ± 2.8696 sqrt(7 / 3 + 4 / 3)
    assert lines[4] == "| 1.2 | 62.0 ± 2.6 | 80.0 ± 0.0 | 3 | - |"
    assert lines[5] == "| 1.4 | 55.0 | 80.0 | 1 of 3 | -7.0 |"
    assert lines[6] == "| 1.0 | 52.0 ± 2.0 | 80.0 ± 0.0 | 3 | -10.0 [-15.5, -4.5] |"
    assert lines[7] == "| 2.0 | - | - | 0 of 1 | - |"
    text = made.markdown()
    assert "**7 of 10 cells finished: this table is not complete.**" in text
    assert "loss.alpha=1.4, seed=0 (RuntimeError: no luck)" in text
    assert "selects on test" not in text


def test_a_lead_that_exceeds_the_noise(tmp_path: Path) -> None:
    runs = [
        run(tmp_path, score + seed / 1000, seed, loss__alpha=alpha)
        for alpha, score in (("1.0", 0.5), ("1.2", 0.6))
        for seed in range(3)
    ]
    sentence = report_of(runs).sentence
    assert sentence.startswith("Best: loss.alpha=1.2 with mAP 6")
    assert "points over loss.alpha=1.0 [" in sentence
    assert sentence.endswith("exceeds the noise (95 % interval, people resampled and seeds compared).")
    assert "does not" not in sentence


def test_a_lead_that_does_not(tmp_path: Path) -> None:
    runs = [
        run(tmp_path, score + seed / 20, seed, loss__alpha=alpha)
        for alpha, score in (("1.0", 0.50), ("1.2", 0.51))
        for seed in range(3)
    ]
    sentence = report_of(runs).sentence
    assert "does not exceed the noise (95 % interval, people resampled and seeds compared)" in sentence


def test_one_seed_says_that_the_seeds_are_unknown(tmp_path: Path) -> None:
    runs = [run(tmp_path, 0.5, loss__alpha="1.0"), run(tmp_path, 0.6, loss__alpha="1.2")]
    made = report_of(runs, ["loss.alpha"])
    assert (
        "exceeds the noise (95 % interval, people resampled; one of the two has a single seed"
        in made.sentence
    )
    assert "holds for these trained models only" in made.sentence
    no_spread = "One seed a setting: no spread of the seeds (±) is known. seed=0,1,2 runs three."
    assert no_spread in made.notes
    figure = made.figure()
    assert figure is not None
    assert "no spread" in figure.get_supxlabel()
    runs.append(run(tmp_path, 0.61, 1, loss__alpha="1.2"))
    mixed = report_of(runs, ["loss.alpha", "seed"])
    assert no_spread.replace("One seed a setting", "One seed in 1 of 2 settings") in mixed.notes
    figure = mixed.figure()
    assert figure is not None
    assert figure.get_supxlabel() == ""
    runs.append(run(tmp_path, 0.52, 1, loss__alpha="1.0"))
    assert not any("spread" in note for note in report_of(runs, ["loss.alpha", "seed"]).notes)


def test_without_scores_by_query_the_seeds_remain_or_nothing(tmp_path: Path) -> None:
    runs = [
        run(tmp_path, 0.5 + 0.1 * n + seed / 500, seed, by_query=False, loss__alpha=str(n))
        for n in range(2)
        for seed in range(2)
    ]
    assert "over the seeds alone" in report_of(runs).sentence
    (tmp_path / "broken").mkdir()
    unreadable = [dataclasses.replace(one, queries=tmp_path / "broken") for one in runs]
    assert "over the seeds alone" in report_of(unreadable).sentence
    single = [one for one in runs if one.seed == "0"]
    assert "cannot be told" in report_of(single).sentence


def test_other_data_are_noted_and_not_paired(tmp_path: Path) -> None:
    runs = [run(tmp_path, 0.5 + n / 10, loss__alpha=str(n)) for n in range(2)]
    runs = [dataclasses.replace(one, data=f"data{n}") for n, one in enumerate(runs)]
    made = report_of(runs)
    assert "cannot be told" in made.sentence
    assert any("do not share their data" in note for note in made.notes)


def test_runs_of_one_row_that_are_not_alike_are_noted(tmp_path: Path) -> None:
    runs = [
        dataclasses.replace(
            run(tmp_path, 0.5, seed, loss__alpha="1.0"),
            params={"epochs": str(3 + seed), "seed": str(seed), "data.root": str(seed)},
        )
        for seed in range(2)
    ]
    assert any(
        "differ in more than their seed" in note and "epochs." in note for note in report_of(runs).notes
    )


def test_a_run_of_older_code_is_alike_where_later_keys_are_at_their_defaults(tmp_path: Path) -> None:
    older, now = (run(tmp_path, 0.5, seed, loss__alpha="1.0") for seed in range(2))
    settings = flat(plan("train", ["dataset=synthetic"]).settings[0])
    params = {key: str(value) for key, value in settings.items()}
    later = ("head.", "schedule._target_", "schedule.per", "schedule.floor")
    of_older = {key: value for key, value in params.items() if not key.startswith(later)}
    runs = [dataclasses.replace(older, params=of_older), dataclasses.replace(now, params=params)]
    assert not any("differ in more" in note for note in report_of(runs).notes)
    runs[1] = dataclasses.replace(now, params={**params, "schedule._target_": "reid.engine.schedule.cosine"})
    assert any("differ in more" in note and "schedule._target_." in note for note in report_of(runs).notes)


def test_a_cell_that_was_done_twice_counts_once(tmp_path: Path) -> None:
    failed, done, again = run(tmp_path, None), run(tmp_path, 0.5), run(tmp_path, 0.6)
    cells = [dataclasses.replace(one, values={}, config_hash="h") for one in (failed, done, again)]
    unhashed = dataclasses.replace(failed, values={})
    assert report_of([unhashed, *cells]).runs == [cells[1]]


@pytest.mark.parametrize("split", ["test", "val"])
def test_choosing_by_test_is_noted(split: str, tmp_path: Path) -> None:
    runs = [run(tmp_path, 0.5 + n / 10, split=split, loss__alpha=str(n)) for n in range(2)]
    assert ("selects on test" in report_of(runs, split=split).markdown()) == (split == "test")
    assert "selects on test" not in report_of(runs[:1], split=split).markdown()


@pytest.mark.parametrize(
    ("values", "title"),
    [
        ([{"loss.alpha": "1.0"}, {"loss.alpha": "1.2"}], "study: sweep: mAP on val"),
        ([{"a": "1", "b": "x"}, {"a": "2", "b": "y"}], "study: sweep: mAP on val"),
        ([{"a": "1", "b": "x", "c": "1"}, {"a": "2", "b": "y", "c": "2"}], "study: sweep: mAP on val"),
    ],
)
def test_the_seed_is_no_axis_of_the_figure(values: list[dict[str, str]], title: str, tmp_path: Path) -> None:
    runs = [
        dataclasses.replace(run(tmp_path, 0.5 + n / 10, seed), values=each)
        for n, each in enumerate(values)
        for seed in range(2)
    ]
    figure = report_of(runs, [*values[0], "seed"]).figure()
    assert figure is not None
    assert figure.axes[0].get_title(loc="left") == title
    words = {figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()}
    words |= {label.get_text() for label in figure.axes[0].get_xticklabels()}
    assert set(values[0]) <= words
    assert "seed" not in words


def test_tricks_are_differences_from_the_published_recipe(tmp_path: Path) -> None:
    scores = {"no_warmup": 0.55, "bag_of_tricks": 0.5, "none": 0.3, "no_bnneck": None}
    runs = [
        run(tmp_path, None if score is None else score + seed / 1000, seed, tricks=trick)
        for trick, score in scores.items()
        for seed in range(2)
    ]
    made = report_of(runs, ["tricks", "seed"])
    assert made.reference is not None
    assert made.reference.name == f"tricks={default_choice('tricks')}" == "tricks=bag_of_tricks"
    assert "mAP less that of tricks=bag_of_tricks, points [95 %]" in made.markdown()
    figure = made.figure()
    assert figure is not None
    (axes,) = figure.axes
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert rows == ["bag_of_tricks (reference)", "no_warmup", "none", "no_bnneck"]
    words = [text.get_text() for text in axes.texts]
    assert words[1].startswith("mAP 55.")
    assert words[3] == "unfinished"
    other = report_of(runs, ["tricks", "seed"], reference="none")
    assert other.reference is not None
    assert other.reference.name == "tricks=none"
    with pytest.raises(ValueError, match="no finished setting 'no_bnneck'"):
        report_of(runs, ["tricks", "seed"], reference="no_bnneck")


def test_no_finished_cell_is_a_report_too(tmp_path: Path) -> None:
    made = report_of([run(tmp_path, None, loss__alpha="1.0"), run(tmp_path, None, loss__alpha="1.2")])
    assert made.sentence.startswith("No cell finished")
    assert "0 of 2 cells finished" in made.markdown()
    assert made.figure() is None


@dataclasses.dataclass
class Ended:
    """A sweep of three jobs, the last of them killed, with its report as it was written when it ended."""

    home: Path
    folder: Path
    parent: str
    files: dict[str, bytes]
    warned: str


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    home = tmp_path_factory.mktemp("home")
    folder = home / "multirun" / "one"
    folder.mkdir(parents=True)
    # MLflow takes its time to make a database, so there is one.
    store = Store(f"sqlite:///{home}/mlflow.db", home / "mlartifacts")
    tags = {"reid.swept": "loss.alpha, seed", "reid.score_split": "val"}
    parent = open_parent(store, "study", folder, "sweep", tags)
    for number in range(3):
        place = folder / str(number)
        place.mkdir()
        finished = number < 2
        overrides = [f"loss.alpha={1 + number}", "+seed=3"]
        scores = {"val/mAP": queries(place, 0.5 + number / 10, number), "val/rank-1": 0.7}
        tags = {"reid.overrides": " ".join(overrides), "reid.config_hash": f"hash{number}"}
        child = Tracker.start(store, "study", place, f"job {number}", tags, {"seed": 3}, parent=folder)
        child.metrics(scores, 1)
        child.artifact(place / "queries.csv")
        child.finish("FINISHED" if finished else "FAILED")
        RunStatus(
            "FINISHED" if finished else "RUNNING", overrides=overrides, run_id=child.run_id,
            run_dir=str(place), scores=scores if finished else {},
        ).write(place)  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REID_HOME", str(home))
        jobs, keys = job_statuses(folder), ["loss.alpha", "seed"]
        (folder / "report.md").mkdir()  # nothing can be written in its place
        heard = logging.handlers.BufferingHandler(100)
        logging.getLogger("reid.sweeps.summary").addHandler(heard)
        report.write(parent, folder, jobs, keys, "val", "alpha")
        logging.getLogger("reid.sweeps.summary").removeHandler(heard)
        (folder / "report.md").rmdir()
        report.write(parent, folder, jobs, keys, "val", "alpha")
        parent.finish("FAILED")
        place = results_folder("study", "alpha")
        assert place == home / "outputs" / "reports" / "study" / "alpha"
        files = {name: (place / name).read_bytes() for name in ("report.md", "cells.csv", "figure.png")}
        assert parent.run_id is not None
        yield Ended(
            home, folder, parent.run_id, files, " ".join(record.getMessage() for record in heard.buffer)
        )


def test_only_the_studies_of_the_project_hold_their_reports(
    own_home: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All else lies where git does not look; what an older version put beside the studies is gone on with."""
    assert results_folder("reid", "loss.alpha") == tmp_path / "outputs" / "reports" / "reid" / "loss.alpha"
    older = tmp_path / "experiments" / "reid" / "results" / "loss.alpha"
    older.mkdir(parents=True)
    assert results_folder("reid", "loss.alpha") == older
    assert results_folder("reid", "seed") == tmp_path / "outputs" / "reports" / "reid" / "seed"
    monkeypatch.setenv("REID_HOME", str(ROOT))
    assert (
        results_folder("ablate_tricks", "new") == ROOT / "experiments" / "ablate_tricks" / "results" / "new"
    )
    assert results_folder("../tuning", "new") == ROOT / "outputs" / "reports" / "tuning" / "new"


@pytest.mark.slow
def test_the_results_hold_every_run(ended: Ended) -> None:
    cells = pd.read_csv(results_folder("study", "alpha") / "cells.csv")
    assert cells["loss.alpha"].tolist() == [1, 2, 3]
    assert cells["seed"].tolist() == [3, 3, 3]
    assert cells["val/mAP"].isna().tolist() == [False, False, True]
    assert cells["status"].tolist() == ["FINISHED", "FINISHED", "FAILED"]
    assert cells["config_hash"].tolist() == ["hash0", "hash1", "hash2"]
    assert cells["run_id"].nunique() == 3
    assert b"2 of 3 cells finished" in ended.files["report.md"]
    assert b"people resampled" in ended.files["report.md"]


@pytest.mark.slow
def test_a_report_that_cannot_be_written_fails_nothing(ended: Ended) -> None:
    assert f"python -m reid.report runs={ended.folder}" in ended.warned


def test_made_again_from_the_folder_it_is_the_same(ended: Ended) -> None:
    place = results_folder("study", "alpha")
    for name in ended.files:
        (place / name).unlink()
    assert command.main([f"runs={ended.folder}"]) == 1  # a cell is missing
    assert {name: (place / name).read_bytes() for name in ended.files} == ended.files


def test_made_again_from_the_store_alone(ended: Ended, capsys: pytest.CaptureFixture[str]) -> None:
    gone = ended.folder.rename(ended.home / "gone")
    try:
        assert command.main([f"runs={ended.parent}", "--name", "again"]) == 1
    finally:
        gone.rename(ended.folder)
    out = capsys.readouterr().out
    assert "2 of 3 cells finished" in out
    assert "people resampled" in out
    assert (results_folder("study", "again") / "figure.png").is_file()
    with sqlite3.connect(ended.home / "mlflow.db") as database:
        where = f"where run_uuid = '{ended.parent}' and key = 'mlflow.note.content'"
        ((note,),) = database.execute(f"select value from tags {where}").fetchall()
    # The UI folds a long description: the sentence and the figure stand before the table.
    sentence, picture, rest = note.split("\n\n", 2)
    assert picture == f"![study: again](get-artifact?path=figure.png&run_uuid={ended.parent})"
    assert f"{sentence}\n\n{rest}".strip() in out


def test_several_sweeps_are_one_table(ended: Ended) -> None:
    other = ended.home / "other"
    shutil.copytree(ended.folder, other)
    assert command.main([f"runs={ended.folder},{other}", "--name=both"]) == 1
    cells = pd.read_csv(results_folder("study", "both") / "cells.csv")
    # The second is the same sweep again: a cell counts once.
    assert cells["loss.alpha"].tolist() == [1, 2, 3]


def test_sweeps_that_were_typed_differently_are_told_apart(ended: Ended) -> None:
    sweeps = []
    for margin in ("0.4", "1.3"):
        sweep = ended.home / f"margin-{margin}"
        shutil.copytree(ended.folder, sweep)
        for place in (sweep / "0", sweep / "1", sweep / "2"):
            for name, old, new in (
                ("journal.jsonl", '{"seed": "3"}', f'{{"seed": "3", "loss.margin": "{margin}"}}'),
                ("status.json", str(ended.folder), str(sweep)),
            ):
                text = (place / name).read_text()
                assert old in text
                (place / name).write_text(text.replace(old, new))
        sweeps.append(str(sweep))
    assert command.main([f"runs={','.join(sweeps)}", "--name=margins"]) == 1
    cells = pd.read_csv(results_folder("study", "margins") / "cells.csv")
    assert cells["loss.margin"].tolist() == [0.4, 0.4, 0.4, 1.3, 1.3, 1.3]
    assert cells["loss.alpha"].tolist() == [1, 2, 3, 1, 2, 3]


def test_wrong_parents_are_refused_in_words(ended: Ended, capsys: pytest.CaptureFixture[str]) -> None:
    for name, words in (
        (ended.home / "nowhere", "is no sweep"),
        (ended.folder / "0", "is a single run"),
        ("0" * 32, "could not be read"),
        ("", "names no run"),
    ):
        assert command.main([f"runs={name}"]) == 2
        assert words in capsys.readouterr().err


def test_a_taken_cell_is_read_where_it_lies(tmp_path: Path) -> None:
    there, folder = tmp_path / "elsewhere", tmp_path / "sweep"
    for place in (there, folder / "0", folder / "1"):
        place.mkdir(parents=True)
    score = queries(there, 0.5, 0)
    jobs = [
        RunStatus("FINISHED", overrides=["a=1"], run_dir=str(where), scores={"val/mAP": score})
        for where in (there, tmp_path / "lost")
    ]
    first, second = runs_of_jobs(folder, jobs, ["a"])
    assert first.queries == there / "queries.csv"
    assert second.queries is None
