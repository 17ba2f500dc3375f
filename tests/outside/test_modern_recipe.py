"""The study of a recipe of today as a process: its time ends within a run, and it goes on with it."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import environment

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "fixtures" / "modern_recipe.yaml"

pytestmark = pytest.mark.outside


def test_a_run_that_is_cut_by_the_end_of_the_time_is_continued(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    screen = "screen: {size: 32x16, epochs: "
    assert f"{screen}2," in TINY.read_text()  # or the run would end before its time does
    text = TINY.read_text().replace(f"{screen}2,", f"{screen}60,")
    plan.write_text(
        text.replace("{32x16: 1}", "{32x16: 0.01}").replace("overhead_seconds: 1", "overhead_seconds: 0")
    )
    words = [
        "screen",
        "--plan",
        str(plan),
        "--results",
        str(tmp_path),
        "--crops",
        str(tmp_path / "data"),
        "--weights",
        "none",
    ]

    def run(*more: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "experiments.modern_recipe", *words, *more],
            env=environment(tmp_path), cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "the time is over" in run("--minutes", "0.5")
    assert not (tmp_path / "cells.csv").exists()
    assert "resumed after epoch" in run()
    rows = list(csv.DictReader((tmp_path / "cells.csv").open()))
    assert [row["name"] for row in rows] == ["published", "published + gem"]
    assert rows[0]["minutes"] == ""  # of a run that was cut nobody knows it
    assert float(rows[0]["train_minutes"]) > 0
    assert float(rows[1]["minutes"]) > 0
