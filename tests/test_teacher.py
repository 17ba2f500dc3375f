"""A student through the real command: what it says of its teacher, and that a stop loses nothing of it."""

import signal
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from composing import settings_of
from conftest import Starter
from test_train import wait_for_epoch

from reid.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from reid.engine.describe import build_model, model_description, preprocessing
from reid.inference import load_model
from reid.normalisation import Normalisation

pytestmark = pytest.mark.slow

#: Columns that measure time.
CLOCK = ["train/seconds", "train/images_per_second", "train/data_wait", "train/teacher_share"]


@pytest.mark.usefixtures("tables")
def test_a_student_that_is_stopped_goes_on_to_the_same_bits(
    run_command: Callable[..., "subprocess.CompletedProcess[str]"],
    start_command: Starter,
    tiny: list[str],
    tiny_checkpoint: Path,
    tmp_path: Path,
) -> None:
    student = [
        *(word for word in tiny if not word.startswith(("backbone", "image.height", "image.width"))),
        "backbone=timm", "backbone.name=test_efficientnet", "backbone.weights=none", "image.height=48",
        "image.width=24", "epochs=3", f"teacher.checkpoint={tiny_checkpoint}",
    ]  # fmt: skip
    # Its images are normalised in another way than its teacher's. A resumed run reads that in last.pt alone.
    settings = settings_of(*student)
    model = build_model(settings, 4)
    model.normalisation = Normalisation((0.9, 0.9, 0.9), (0.1, 0.1, 0.1))
    meta = load_checkpoint(tiny_checkpoint).meta | {
        "model": model_description(settings, 4), "preprocessing": preprocessing(settings.image, model),
    }  # fmt: skip
    save_checkpoint(tmp_path / "start.pt", Checkpoint(model.state_dict(), meta, {}))
    student.append(f"init_from={tmp_path}/start.pt")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    done = run_command("reid.train", *student, f"hydra.run.dir={whole}", home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "% of the time" in done.stdout
    process = start_command("reid.train", *student, f"hydra.run.dir={stopped}", home=tmp_path)
    wait_for_epoch(process, stopped, 1)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    again = run_command("reid.train", *student, f"resume={stopped}", home=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "resumed after epoch" in again.stdout

    mine, theirs = (load_checkpoint(folder / "model.pt") for folder in (stopped, whole))
    assert mine.model.keys() == theirs.model.keys()
    assert all(torch.equal(mine.model[name], theirs.model[name]) for name in mine.model)
    ran, wanted = (pd.read_csv(place / "history.csv").drop(columns=CLOCK) for place in (stopped, whole))
    pd.testing.assert_frame_equal(ran, wanted, check_exact=True, check_like=True)
    assert wanted["train/teacher_loss"].iloc[-1] < wanted["train/teacher_loss"].iloc[0]

    assert theirs.meta["teacher"]["backbone"] == "resnet18"
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        digests = store.execute("SELECT value FROM tags WHERE key = 'reid.teacher.sha256'").fetchall()
    assert digests == [(theirs.meta["teacher"]["sha256"],)] * 2
    assert load_model(whole, "cpu").model.embedding_size == theirs.model["classifier.weight"].shape[1]
