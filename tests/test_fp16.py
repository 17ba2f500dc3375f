"""A run in fp16 from the command line: what it counts, and what it leaves for a resume."""

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pandas as pd
import torch

from reid.engine.checkpoint import load_checkpoint

Run = Callable[..., "CompletedProcess[str]"]

WORDS = ("backbone=timm", "backbone.name=test_efficientnet", "precision=fp16", "deterministic=true")


def test_it_counts_skipped_steps_and_goes_on_with_its_scale(
    run_command: Run, tiny: list[str], tmp_path: Path
) -> None:
    words = [*tiny, *WORDS]
    for epochs, more in ((2, ()), (1, ()), (2, ("resume=auto",))):
        folder = tmp_path / ("whole" if epochs == 2 and not more else "halves")
        done = run_command(
            "reid.train", *words, f"epochs={epochs}", f"hydra.run.dir={folder}", *more, home=tmp_path
        )
        assert done.returncode == 0, done.stdout + done.stderr
    whole, halves = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "halves"))
    assert halves.training["scaler"] == whole.training["scaler"]
    assert whole.training["scaler"]["_growth_tracker"] > 1
    assert all(torch.equal(tensor, halves.model[name]) for name, tensor in whole.model.items())
    assert pd.read_csv(tmp_path / "whole" / "history.csv")["train/skipped_steps"].tolist() == [0, 0]
