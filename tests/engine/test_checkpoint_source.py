"""Finding checkpoints by file, folder and run id; a run started from another one by the real command."""

import json
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from reid.engine.checkpoint import Checkpoint, CheckpointError
from reid.engine.checkpoint_source import find_checkpoint, trained_dataset

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_a_file_and_a_folder_are_found_and_the_trained_model_comes_first(tmp_path: Path) -> None:
    (tmp_path / "last.pt").touch()
    assert find_checkpoint(str(tmp_path)) == tmp_path / "last.pt"
    (tmp_path / "model.pt").touch()
    assert find_checkpoint(str(tmp_path)) == tmp_path / "model.pt"
    assert find_checkpoint(str(tmp_path / "last.pt")) == tmp_path / "last.pt"


def test_what_is_not_there_is_named_with_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=rf"init_from=a\.pt: no such file .*{tmp_path}/a\.pt.*run id"):
        find_checkpoint("a.pt", key="init_from")
    with pytest.raises(CheckpointError, match="holds neither model"):
        find_checkpoint(str(tmp_path))


def test_a_converted_file_does_not_know_its_data() -> None:
    assert trained_dataset(Checkpoint({}, {"dataset": {"name": "market", "root": "/d"}}, {}))["root"] == "/d"
    with pytest.raises(CheckpointError, match=r"was converted .*dataset=market"):
        trained_dataset(Checkpoint({}, {"dataset": {"name": "unknown"}}, {}))


@pytest.mark.usefixtures("tables")
@pytest.mark.slow
def test_a_run_that_starts_from_another_begins_with_its_features(
    run_command: Run, tiny: list[str], tmp_path: Path
) -> None:
    def command(module: str, *words: str) -> str:
        done = run_command(f"reid.{module}", *words, home=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    command("train", *tiny, "epochs=1", f"hydra.run.dir={tmp_path}/day")
    first = json.loads((tmp_path / "day" / "status.json").read_text())
    night = [word for word in tiny if word != "dataset=synthetic"] + ["dataset=synthetic_night"]
    # imagenet would need the network: it is not asked for.
    overrides = [
        "epochs=1",
        f"init_from={first['run_id']}",
        "backbone.weights=imagenet",
        "eval.at_start=true",
    ]
    printed = command("train", *night, *overrides, f"hydra.run.dir={tmp_path}/night")
    assert "264 of 264 model tensors loaded (100.0%); 1 dropped: classifier.weight" in printed

    data = next(word for word in tiny if word.startswith("data.root="))
    command(
        "evaluate", f"checkpoint={tmp_path}/day", "dataset=synthetic_night", "dataset.preset=tiny", data,
        "device=cpu", f"hydra.run.dir={tmp_path}/judged",
    )  # fmt: skip
    scores = json.loads((tmp_path / "judged" / "scores.json").read_text())["scores"]
    history = pd.read_csv(tmp_path / "night" / "history.csv")
    assert history["epoch"].tolist() == [0, 1]
    for name, value in scores.items():
        assert history[name][0] == value, name
    assert history["test/mAP"][1] != scores["test/mAP"]

    run_id = json.loads((tmp_path / "night" / "status.json").read_text())["run_id"]
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        tags = dict(database.execute(f"select key, value from tags where run_uuid = '{run_id}'"))
        params = dict(database.execute(f"select key, value from params where run_uuid = '{run_id}'"))
    assert tags["reid.init_from.run_id"] == first["run_id"]
    assert tags["reid.init_from.matched_percent"] == "100.0"
    assert len(tags["reid.init_from.sha256"]) == 64
    assert params["init_from"] == first["run_id"]
    assert params["backbone.weights"] == "none"
