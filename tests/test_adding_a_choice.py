"""What reid/README.md says of adding a choice, done: files written, and a run trained with all of them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from choices import files, own_crops
from conftest import TINY, environment

ROOT = Path(__file__).resolve().parents[1]
#: Of the tiny run, what the three choices are typed for.
SMALL = [word for word in TINY if word.startswith(("image.", "batch.", "tricks.", "eval.", "device="))]


def write(folder: Path) -> None:
    for path, (text, added) in files().items():
        file = folder / path
        assert file.exists() == added, path
        with file.open("a") as handle:
            handle.write(f"\n\n{text}" if added else text)


def test_the_section_shows_a_loss_a_backbone_a_head_and_a_dataset() -> None:
    assert sorted(files()) == [
        "conf/backbone/mine.yaml", "conf/dataset/mine.yaml", "conf/head/mine.yaml", "conf/loss/mine.yaml",
        "reid/data/datasets/mine.py", "reid/losses/mine.py", "reid/models/backbones.py",
        "reid/models/mine.py",
    ]  # fmt: skip


@pytest.mark.slow
def test_what_the_section_shows_is_trained_and_judged(tiny_data: Path, tmp_path: Path) -> None:
    tree, home = tmp_path / "tree", tmp_path / "home"
    for name in ("reid", "conf"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    write(tree)
    root = own_crops(tiny_data, home / "data" / "mine")
    suffix = next((root / "train").iterdir()).suffix
    code = "import sys; sys.argv = sys.argv[1:]; from reid.train import main; main()"
    words = [
        "reid-train",
        "dataset=mine",
        "backbone=mine",
        "head=mine",
        "loss=mine",
        *SMALL,
        "loss.margin=0.2",
        "epochs=1",
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, *words, f"dataset.suffix={suffix}", f"hydra.run.dir={home}/run"],
        env={**environment(home), "PYTHONPATH": str(tree)},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    status = json.loads((home / "run" / "status.json").read_text())
    assert status["status"] == "FINISHED"
    assert status["scores"]["test/valid_queries"] > 0
    assert "mine: 69 training images of 12 identities" in done.stdout
    assert os.listdir(home / "run" / "figures")
