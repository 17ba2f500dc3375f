"""The study of adaptation: what it runs in which order, what a kill leaves, and its table."""

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest

from experiments.adapt import __main__ as study
from experiments.modern_recipe.run import OutOfTime
from reid.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from reid.engine.rundir import RunStatus


class Commands:
    """In the place of a process of its own: writes what the command would, and keeps what was typed."""

    def __init__(self, checkpoint: Path, stop_at: int = 99) -> None:
        self.model, self.stop_at, self.seen = (
            load_checkpoint(checkpoint),
            stop_at,
            list[tuple[str, list[str]]](),
        )

    def __call__(self, command: str, words: Sequence[str], seconds: float) -> int:
        self.seen.append((command, list(words)))
        folder = Path(next(word for word in words if word.startswith("hydra.run.dir=")).partition("=")[2])
        folder.mkdir(parents=True, exist_ok=True)
        if len(self.seen) == self.stop_at:
            (folder / "last.pt").touch()
            raise OutOfTime
        RunStatus("FINISHED").write(folder)
        source = next((word for word in words if word.startswith("checkpoint=")), "").partition("=")[2]
        target = Path(source) if command == "evaluate" else folder / "model.pt"
        rows = [self.row(own=True, score=0.5), self.row(own=False, score=0.25)][
            : 2 if command == "evaluate" else 1
        ]
        save_checkpoint(target, Checkpoint(self.model.model, {**self.model.meta, "scores": rows}, {}))
        return 0

    def row(self, own: bool, score: float) -> dict[str, object]:
        return {
            "dataset": "synthetic", "split": "test", "protocol": "cross_camera", "data_fingerprint": "f",
            "own": own, "reranked": False, "queries": 3, "people": 2, "gallery": 9,
            "values": {"mAP": score, "rank-1": score}, "intervals": {"mAP": [score - 0.1, score + 0.1]},
        }  # fmt: skip


def test_a_killed_study_goes_on_and_measures_each_cell_once(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--seeds", "1", "--results", str(tmp_path / "results"), "--runs", str(tmp_path / "runs")]
    first = Commands(tiny_checkpoint, stop_at=5)
    assert study.main(words, first) == 0
    assert "the same command goes on" in capsys.readouterr().out
    assert [command for command, _ in first.seen] == ["train", "evaluate", "adapt", "adapt", "train"]
    second = Commands(tiny_checkpoint)
    assert study.main(words, second) == 0
    ((command, typed),) = second.seen
    assert command == "train"
    assert f"resume={tmp_path / 'runs' / 'labelled_0'}" in typed
    assert not any(word.startswith("init_from=") for word in typed)  # it lies behind a run that goes on
    with (tmp_path / "results" / "cells.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == list(study.KINDS)
    assert [float(row["mAP"]) for row in rows] == [
        0.25,
        0.5,
        0.5,
        0.5,
    ]  # of the day's model that of the night
    assert study.main([*words, "report"]) == 0
    assert "| adapted without labels | 50.0 | 50.0 | +25.0 | 1 |" in capsys.readouterr().out


def test_all_cells_of_the_night_read_the_same_people(tmp_path: Path) -> None:
    found = study.cells(2, tmp_path)
    assert len({cell.name for cell in found}) == 10
    night = [cell for cell in found if cell.kind != "source"]
    assert all({"dataset=synthetic_night", study.PEOPLE} <= {*cell.words} for cell in night)
    assert all(f"{tmp_path}/source_{cell.seed}/model.pt" in " ".join(cell.words) for cell in night)
