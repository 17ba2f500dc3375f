"""A home whose name means something else in a URI: runs are tracked, judged, resumed and repeated there."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import Runner
from omegaconf import OmegaConf

from reid.tracking import default_store, fetch_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("homes") / "a%20b?c#d é"
    home.mkdir()
    return home


@pytest.fixture(scope="module")
def trained(run_command: Runner, tiny: list[str], home: Path) -> Path:
    done = run_command("reid.train", *tiny, "epochs=1", home=home)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (home / "outputs").iterdir()
    return folder


def status_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "status.json").read_text()))


def database(home: Path, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(home / "mlflow.db") as connection:
        return connection.execute(query).fetchall()


def test_a_run_is_tracked_listed_and_judged_by_its_id(
    run_command: Runner, trained: Path, home: Path, tmp_path: Path
) -> None:
    status = status_of(trained)
    assert database(home, "select run_uuid, status from runs") == [(status["run_id"], "FINISHED")]
    (stored,) = (home / "mlartifacts").rglob("model.pt")  # once, in the LoggedModel of the run
    assert stored.relative_to(home / "mlartifacts").parts[0] == "models"
    assert stored.read_bytes() == (trained / "model.pt").read_bytes()
    fetched = fetch_checkpoint(default_store(home), status["run_id"])
    assert fetched.read_bytes() == (trained / "model.pt").read_bytes()
    listed = run_command("reid.runs", "list", "--json", home=home)
    assert [run["run_id"] for run in json.loads(listed.stdout)] == [status["run_id"]]
    shown = json.loads(run_command("reid.runs", "show", status["run_id"], "--json", home=home).stdout)
    assert shown["folder"] == str(trained)
    assert "config_resolved.yaml" in shown["artifacts"]
    judged = run_command(
        "reid.evaluate",
        f"checkpoint={status['run_id']}",
        "device=cpu",
        f"hydra.run.dir={tmp_path}",
        home=home,
    )
    assert judged.returncode == 0, judged.stdout + judged.stderr
    assert json.loads((tmp_path / "scores.json").read_text())["scores"] == status["scores"]
    # Nothing was made beside it, under another spelling of its name.
    assert list(home.parent.iterdir()) == [home]
    sent = run_command("reid.sync", home=home)
    assert sent.stdout == "1 runs, all sent\n"


def test_the_resolved_config_of_a_run_repeats_it(run_command: Runner, trained: Path, home: Path) -> None:
    """As Hydra's users do it. Seed 0 is known by its config to be the very run that is there."""
    again = ["--config-path", str(trained), "--config-name", "config_resolved"]
    swept = run_command("reid.train", "-m", *again, "seed=0,1", home=home)
    assert swept.returncode == 0, swept.stdout + swept.stderr
    assert f"seed=0: finished already in {trained}" in swept.stdout
    (sweep,) = (home / "multirun").iterdir()
    assert status_of(sweep / "0")["taken_from"] == str(trained)
    assert status_of(sweep / "1")["config_hash"] != status_of(trained)["config_hash"]
    configs: list[Any] = [OmegaConf.load(place / "config_resolved.yaml") for place in (trained, sweep / "1")]
    was, now = configs
    assert now.pop("seed") == 1
    assert was.pop("seed") == 0
    assert was == now
    assert status_of(sweep / "1")["overrides"] == [*status_of(trained)["overrides"], "seed=1"]

    # It ends with what reid.report prints, which lies where git does not look.
    place = home / "outputs" / "reports" / "reid" / "one_config"
    assert f"written: report.md, cells.csv in {place}" in swept.stdout
    report = run_command("reid.report", f"runs={sweep}", home=home)
    assert report.returncode == 0, report.stderr
    assert report.stdout in swept.stdout
    assert pd.read_csv(place / "cells.csv")["seed"].tolist() == [0, 1]
    assert not (home / "experiments").exists()


def test_a_repeated_run_takes_single_values_and_is_resumed_in_its_folder(
    run_command: Runner, trained: Path, home: Path
) -> None:
    before = {*(home / "outputs").glob("*/status.json")}
    again = ["--config-path", str(trained), "--config-name", "config_resolved"]
    done = run_command("reid.train", *again, "seed=3", "batch.identities=3", home=home)
    assert done.returncode == 0, done.stdout + done.stderr
    (status,) = {*(home / "outputs").glob("*/status.json")} - before
    folder = status.parent
    config = OmegaConf.load(folder / "config_resolved.yaml")
    assert (config.seed, config.batch.size, config.resume) == (3, 12, None)
    ((command,),) = database(
        home,
        f"select value from tags where key = 'reid.command' and run_uuid = '{status_of(folder)['run_id']}'",
    )
    assert command.startswith(f"reid.train --config-path '{trained}' --config-name config_resolved seed=3")

    again[1] = str(folder)
    more = run_command("reid.train", *again, "epochs=2", f"resume='{folder}'", home=home)
    assert more.returncode == 0, more.stdout + more.stderr
    assert "resumed after epoch 1" in more.stdout
    assert status_of(folder)["overrides"][-4:] == [
        "seed=3",
        "batch.identities=3",
        "epochs=2",
        f"resume='{folder}'",
    ]
    # What it was resumed from is no part of what it is.
    assert OmegaConf.load(folder / "config_resolved.yaml").resume == str(folder)
    third = run_command("reid.train", *again, "--cfg", "job", home=home)
    assert "resume: null" in third.stdout, third.stderr
