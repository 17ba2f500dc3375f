"""What is kept of a run: the model of its best epoch, `last.pt` or not, and what a kill leaves of both."""

import json
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import Starter

from reid.engine.checkpoint import load_checkpoint
from reid.tracking import Store, read_record
from reid.tracking.records import all_runs

pytestmark = pytest.mark.slow

Run = Callable[..., "subprocess.CompletedProcess[str]"]

HERE = Path(__file__).parent
EPOCHS = 4
#: Its best epoch is neither the first nor the last.
WORDS = (
    "dataset=synthetic", "dataset.preset=tiny", "backbone=timm", "backbone.name=test_efficientnet",
    "backbone.weights=none", "image.height=32", "image.width=16", "image.padding=2", "batch.identities=4",
    "tricks.warmup=0", "schedule.milestones=[]", "eval.split=val", "eval.val_identities=4", "eval.period=1",
    "ema.decay=0.5", "ema.raw=true", "optimizer.lr=3e-3", "device=cpu",
)  # fmt: skip
BEST = ("tracking.checkpoint=best", "keep_last=false", f"epochs={EPOCHS}")
#: Columns that measure time, which no seed fixes.
CLOCK = ["train/seconds", "train/images_per_second", "train/data_wait"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def words(tiny_data: Path) -> list[str]:
    return [*WORDS, f"data.root={tiny_data}"]


@pytest.fixture(scope="module")
def whole(run_command: Run, words: list[str], home: Path) -> Path:
    """An undisturbed run."""
    folder = home / "outputs" / "whole"
    done = run_command("reid.train", *words, *BEST, f"hydra.run.dir={folder}", home=home)
    assert done.returncode == 0, done.stdout + done.stderr
    (home / "whole.printed").write_text(done.stdout)
    return folder


def status(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "status.json").read_text())
    return found


def best_row(folder: Path) -> dict[str, float]:
    history = pd.read_csv(folder / "history.csv")
    found: dict[str, float] = history.loc[history["val/mAP"].idxmax()].to_dict()
    return found


def assert_same_run(folder: Path, other: Path) -> None:
    """Bit for bit the same model, of the same epoch, and the same numbers."""
    mine, theirs = load_checkpoint(folder / "model.pt"), load_checkpoint(other / "model.pt")
    assert mine.model.keys() == theirs.model.keys()
    assert all(torch.equal(mine.model[name], theirs.model[name]) for name in mine.model)
    for key in ("progress", "selected", "scores"):
        assert mine.meta[key] == theirs.meta[key]
    ran, wanted = (pd.read_csv(place / "history.csv").drop(columns=CLOCK) for place in (folder, other))
    pd.testing.assert_frame_equal(ran, wanted, check_exact=True, check_like=True)
    assert status(folder)["scores"] == status(other)["scores"]
    assert status(folder)["epoch"] == status(other)["epoch"]


def test_the_best_epoch_is_kept_and_all_scores_are_its(
    whole: Path, run_command: Run, words: list[str], home: Path
) -> None:
    row, told = best_row(whole), status(whole)
    epoch = int(row["epoch"])
    assert 1 < epoch < EPOCHS
    model = load_checkpoint(whole / "model.pt")
    assert told["epoch"] == model.meta["progress"]["epoch"] == model.meta["selected"]["epoch"] == epoch
    of_epoch = {name: value for name, value in row.items() if name.startswith("val/")}
    assert told["scores"] == of_epoch
    assert "val/raw/mAP" in of_epoch
    assert model.meta["scores"][0]["values"]["mAP"] == row["val/mAP"]
    assert f"epoch {epoch} of {EPOCHS}" in (whole / "model_card.md").read_text()
    assert f"│ epoch {epoch}, the best on val" in (home / "whole.printed").read_text()

    # The tracker has the last epoch's under their own name; what reads runs back takes the kept ones.
    run_id = told["run_id"]
    with sqlite3.connect(home / "mlflow.db") as database:
        latest = dict(database.execute("SELECT key, value FROM latest_metrics WHERE run_uuid = ?", (run_id,)))
    last = pd.read_csv(whole / "history.csv").iloc[-1]
    assert latest["val/mAP"] == last["val/mAP"] != row["val/mAP"]
    assert latest["kept/val/mAP"] == row["val/mAP"]
    (tracked,) = (run for run in all_runs(Store(f"sqlite:///{home / 'mlflow.db'}")) if run.run_id == run_id)
    for record in (tracked, read_record(whole)):
        assert {name: value for name, value in record.metrics.items() if name.startswith("val/")} == of_epoch
        assert not [name for name in record.metrics if name.startswith("kept/")]
        assert record.metrics["train/loss"] == last["train/loss"]

    # And the model is that epoch's: judged again it has its scores.
    folder = home / "judged"
    done = run_command(
        "reid.evaluate", f"checkpoint={run_id}", "device=cpu", f"hydra.run.dir={folder}", home=home
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert status(folder)["scores"]["val/mAP"] == row["val/mAP"]
    assert f"the model of epoch {epoch} of {EPOCHS}" in " ".join(done.stdout.split())


def test_last_pt_is_gone_and_a_longer_run_is_refused_in_words(
    whole: Path, run_command: Run, words: list[str], home: Path
) -> None:
    assert not (whole / "last.pt").exists()
    for name in (whole, whole / "last.pt"):
        done = run_command("reid.train", *words, *BEST, "epochs=6", f"resume={name}", home=home)
        assert done.returncode == 2
        assert "this run is finished and its last.pt is gone (keep_last=false" in done.stderr
        assert "init_from=" in done.stderr
    assert status(whole)["status"] == "FINISHED"


#: The last two: the run is finished, but not yet said to be; it is, and last.pt still has to go.
MOMENTS = (
    "rename last.pt 5",
    "rename last.pt 10",
    "rename model.pt 1",
    "rename status.json 4",
    "remove last.pt 1",
)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_at_any_moment_leaves_something_to_go_on_from(
    moment: str, whole: Path, run_command: Run, start_command: Starter, words: list[str], home: Path
) -> None:
    folder = home / "outputs" / moment.replace(" ", "_")
    command = [*words, *BEST, f"tracking.run_name={folder.name}"]
    process = start_command(
        "killing", "reid.train", *command, f"hydra.run.dir={folder}", home=home,
        variables={"KILL_BEFORE": moment, "PYTHONPATH": f"{HERE}:{HERE.parent}"},
    )  # fmt: skip
    printed = process.communicate(240)
    assert process.returncode == -signal.SIGKILL, printed
    assert load_checkpoint(folder / "last.pt").training
    if moment.startswith("remove"):
        assert status(folder)["status"] == "FINISHED"
        assert_same_run(folder, whole)
        return
    assert status(folder)["status"] == "RUNNING"
    done = run_command("reid.train", *command, "resume=auto", f"hydra.run.dir={home}/again", home=home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resumed after epoch" in done.stdout
    assert_same_run(folder, whole)
    assert not (folder / "last.pt").exists()


def test_a_sweep_finds_finished_cells_without_last_pt(run_command: Run, words: list[str], home: Path) -> None:
    command = ["-m", *words, "epochs=1", "keep_last=false", "seed=0,1"]
    for finished in (0, 2):
        done = run_command("reid.train", *command, home=home)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("finished already") == finished
    assert len([*(home / "multirun").glob("*/*/model.pt")]) == 2
    assert not [*(home / "multirun").glob("*/*/last.pt")]


def test_a_run_that_keeps_the_last_epoch_is_not_gone_on_with_as_one_of_the_best(
    run_command: Run, words: list[str], home: Path
) -> None:
    folder = home / "outputs" / "last"
    done = run_command("reid.train", *words, "epochs=1", f"hydra.run.dir={folder}", home=home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "last.pt").exists()
    assert status(folder)["epoch"] == 1
    more = ["tracking.checkpoint=best", "epochs=2", f"resume={folder}"]
    done = run_command("reid.train", *words, *more, home=home)
    assert done.returncode == 2
    assert "(tracking.checkpoint was last, is best)" in done.stderr
