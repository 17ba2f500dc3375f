"""A run in fp16 from the command line: what it counts, and what it leaves for a resume."""

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pandas as pd
import pytest

from reid.engine.checkpoint import load_checkpoint

Run = Callable[..., "CompletedProcess[str]"]

WORDS = (
    "backbone=timm",
    "backbone.name=test_efficientnet",
    "precision=fp16",
    "deterministic=true",
    "epochs=2",
)


@pytest.mark.usefixtures("tables")
def test_it_counts_skipped_steps_and_keeps_its_scale(
    run_command: Run, tiny: list[str], tmp_path: Path
) -> None:
    done = run_command("reid.train", *tiny, *WORDS, f"hydra.run.dir={tmp_path}/run", home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    assert history["train/skipped_steps"].tolist() == [0, 0]
    scaler = load_checkpoint(tmp_path / "run" / "last.pt").training["scaler"]
    assert scaler["_growth_tracker"] == 6  # all steps of both epochs
