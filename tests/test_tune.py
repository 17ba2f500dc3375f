"""The search: what is refused, one database for two libraries, a kill that loses nothing, one winner."""

import json
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from composing import composed
from hydra import initialize_config_dir
from rich.console import Console

from experiments.tune.study import SCORE, Search, open_storage, pruner_of
from experiments.tune.trials import run_trials
from reid.config.checks import ConfigError
from reid.config.identity import config_hash
from reid.config.schema import config_folder
from reid.config.search_space import training, tune_settings
from reid.config.settings import train_settings
from reid.engine.rundir import read_status
from reid.engine.stop import StopSignals
from reid.figures import search_history, search_map, search_slices
from reid.jobs.job import Job
from reid.tracking import children, default_store, open_parent, read_record

STUDIES = sorted(file.stem for file in (config_folder() / "study").glob("*.yaml"))


def searching(folder: Path, *overrides: str, study: optuna.Study | None = None) -> Search:
    settings = tune_settings(composed("tune", *overrides))
    study = study or optuna.create_study(direction="maximize", pruner=pruner_of(settings))
    return Search(settings, list(overrides), "s", folder, "memory", study)


# ---- the config


@pytest.mark.usefixtures("own_home")
def test_a_range_may_begin_at_a_temperature_of_0() -> None:
    space = "+study.space.T={key:loss.temperature,low:0,high:2}"
    assert tune_settings(composed("tune", "study=alpha_margin", space)).study.space["T"].low == 0


@pytest.mark.usefixtures("own_home")
@pytest.mark.parametrize("study", STUDIES)
def test_every_study_composes_and_its_trials_are_those_of_train(study: str) -> None:
    settings = tune_settings(composed("tune", f"study={study}"))
    by_hand = train_settings(composed("train", "eval.split=val", "eval.period=1"))
    assert config_hash(training(settings)) == config_hash(by_hand)
    assert len(settings.study.space) >= 2


@pytest.mark.slow
@pytest.mark.usefixtures("own_home")
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("eval.split=test", "looks at val alone"),
        ("eval.period=2", "study.prune=none"),
        ("resume=auto", "the same command goes on with it"),
        ("study.trials=0", "study.trials=0 is not allowed"),
        ("study.prune=mediam", "Did you mean 'median'"),
        ("study.space.alpha.key=loss.alhpa", "Did you mean 'loss.alpha'"),
        ("study.space.alpha.key=eval.val_seed", "cannot be searched"),
        ("study.space.alpha.low=3", "low below high"),
        ("study.space.alpha.low=abc", "could not be converted to Float"),
        ("+study.space.alpha.hihg=3", "Did you mean 'study.space.alpha.high'"),
        ("+study.space.more={low:0,high:1}", "study.space.more.key is not given"),
        ("study.space.alpha.step=-1", "above 0"),
        ("+study.space.alpha.log=true", "no step"),
        ("+study.space.alpha.choices=[1,2]", "choices and a range"),
        ("study.space.alpha.key=loss.margin", "names a key twice"),
        ("+study.space.hash={key:tricks.bnneck,low:0,high:1}", "choices, not a range"),
        ("+study.space.lr={key:optimizer.lr,low:-1,high:1}", "optimizer.lr=-1.0 is not allowed"),
    ],
)
def test_a_wrong_study_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tune_settings(composed("tune", override))


# ---- one database


@pytest.mark.slow
def test_optuna_and_mlflow_share_a_database_and_neither_notices(tmp_path: Path) -> None:
    store = default_store(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}")

    def revision() -> list[Any]:
        with sqlite3.connect(tmp_path / "mlflow.db") as database:
            return database.execute("select version_num from alembic_version").fetchall()

    store.prepare("before")
    before = revision()
    study = optuna.create_study(storage=open_storage(store, store.uri, create=True), study_name="s")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    assert revision() == before
    # As another process meets it: MLflow compares its revision at the first use.
    default_store(tmp_path, store.uri).prepare("after")
    again = optuna.load_study(study_name="s", storage=open_storage(store, store.uri, create=False))
    assert [trial.params for trial in again.trials] == [trial.params for trial in study.trials]


# ---- trials


@pytest.mark.slow
@pytest.mark.usefixtures("own_home")
def test_a_study_taken_up_again_draws_what_it_would_have_drawn(tmp_path: Path) -> None:
    def drawn(starts: list[int]) -> list[dict[str, Any]]:
        study = optuna.create_study(direction="maximize")
        values = []
        for trials in starts:
            search = searching(tmp_path, "study.startup=3", study=study)
            for _ in range(trials):
                trial = study.ask()
                values.append(search.suggest(trial))
                study.tell(trial, -abs(values[-1]["loss.alpha"] - 1.3))
        return values

    whole = drawn([8])
    assert drawn([2, 3, 3]) == whole
    assert len({str(point) for point in whole}) > 4
    assert all(0.8 <= point["loss.alpha"] <= 2.4 for point in whole)


@pytest.mark.slow
@pytest.mark.usefixtures("tables")
def test_a_pruned_trial_says_so_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: list[str]
) -> None:
    monkeypatch.setenv("REID_HOME", str(tmp_path))
    own = ["eval.val_identities=4", "epochs=3", "study.startup=1", "study.trials=2"]
    overrides = [*[word for word in tiny if not word.startswith("eval.")], *own]
    search = searching(tmp_path / "study", *overrides)
    search.folder.mkdir()
    better = {f"loss.{name}": value for name, value in (("alpha", 1.2), ("margin", 0.4))}
    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        "loss.alpha": optuna.distributions.FloatDistribution(0.8, 2.4, step=0.1),
        "loss.margin": optuna.distributions.FloatDistribution(0.2, 2.0, step=0.1),
    }
    search.study.add_trial(
        optuna.trial.create_trial(
            params=better, distributions=distributions, value=1.0, intermediate_values={1: 1.0, 2: 1.0}
        )
    )
    store = default_store(tmp_path)
    parent = open_parent(store, "reid", search.folder, "study")
    config = composed("tune", *overrides)
    with initialize_config_dir(str(config_folder()), version_base="1.3"), StopSignals() as stop:
        run_trials(search, Job(config, tmp_path, overrides, Console(quiet=True), stop))
    parent.finish()

    states = [trial.state.name for trial in search.study.trials]
    assert states == ["COMPLETE", "PRUNED"]
    assert list(search.study.trials[1].intermediate_values) == [1]
    status, record = read_status(search.folder / "1"), read_record(search.folder / "1")
    assert status is not None
    assert status.status == "PRUNED"
    (child,) = children(store, parent.run_id or "")
    for run in (record, child):
        assert run.status == "KILLED"
        assert (run.tags["reid.pruned"], run.tags["reid.pruned_epoch"]) == ("true", "1")
        assert "reid.error" not in run.tags


@pytest.mark.usefixtures("tables")
@pytest.mark.slow
def test_a_killed_study_goes_on_and_its_winner_is_judged_once(
    tmp_path: Path,
    tiny: list[str],
    start_command: Callable[..., "subprocess.Popen[str]"],
    run_command: Callable[..., "subprocess.CompletedProcess[str]"],
) -> None:
    overrides = [
        *(word for word in tiny if not word.startswith("eval.")), "eval.val_identities=4", "epochs=2",
        "study.name=s", "study.trials=4", "study.startup=2",
    ]  # fmt: skip
    study = tmp_path / "multirun" / "s"
    first = start_command("experiments.tune", *overrides, home=tmp_path)
    deadline = time.monotonic() + 200
    while not (study / "1" / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    status = read_status(study / "1")
    assert status is not None
    assert status.status == "RUNNING"

    second = run_command("experiments.tune", *overrides, home=tmp_path)
    assert second.returncode == 0, second.stderr
    assert "1 of 4 trials are done" in second.stdout
    assert "resumed after epoch" in second.stdout
    table = pd.read_csv(study / "trials.csv")
    assert table["trial"].tolist() == [0, 1, 2, 3]
    assert set(table["status"]) <= {"FINISHED", "PRUNED"}
    (winner,) = study.glob("winner-*")
    chosen = table.loc[table[table["status"] == "FINISHED"][SCORE].idxmax()]
    assert winner.name == f"winner-{chosen['trial']}"

    store = default_store(tmp_path)
    parent = json.loads((study / "journal.sent").read_text())["run_id"]
    runs = children(store, parent)
    assert sorted(run.tags["reid.trial"] for run in runs if run.tags["reid.kind"] == "run") == list("0123")
    judged_on_test = [run for run in runs if any(name.startswith("test/") for name in run.metrics)]
    assert [run.tags["reid.kind"] for run in judged_on_test] == ["winner"]
    own = store.client.get_run(parent)
    assert own.info.status == "FINISHED"
    assert own.data.metrics["winner/test/mAP"] == judged_on_test[0].metrics["test/mAP"]
    assert "judged once" in own.data.tags["mlflow.note.content"]

    refused = run_command("experiments.tune", *overrides, "study.seed=1", home=tmp_path)
    assert refused.returncode == 2
    assert "that study has another config" in refused.stderr


# ---- figures


def test_the_figures_show_every_trial() -> None:
    table = pd.DataFrame(
        {
            "trial": range(10),
            "x": [0.1 * n for n in range(10)],
            "y": [1e-5 * 4**n for n in (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)],
            SCORE: [0.1, 0.3, 0.2, 0.5, 0.4, 0.35, 0.15, 0.45, 0.05, float("nan")],
            "status": ["FINISHED"] * 8 + ["PRUNED", "FAILED"],
        }
    )
    history = search_history(table, SCORE).axes[0]
    shown = {line.get_label(): list(np.asarray(line.get_ydata())) for line in history.lines}
    assert shown["best so far"] == pytest.approx([10, 30, 30, 50, 50, 50, 50, 50])
    assert shown["pruned, its last score"] == pytest.approx([5])
    assert len(shown["failed"]) == 1
    assert [axes.get_xlabel() for axes in search_slices(table, ["x", "y"], SCORE).axes[:2]] == ["x", "y"]
    surface = search_map(table, "x", "y", SCORE).axes[0]
    assert surface.get_yscale() == "log"
    assert {tuple(point) for dots in surface.collections[1:] for point in np.asarray(dots.get_offsets())} == {
        (x, y) for x, y in zip(table["x"][:9], table["y"][:9], strict=True)
    }
    with pytest.raises(ValueError, match="no trial has"):
        search_history(table.assign(**{SCORE: float("nan")}), SCORE)
