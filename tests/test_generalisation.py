"""The study of generalisation: what it would type, and what it does with sweeps that are not there."""

import subprocess
from pathlib import Path

import pytest
import yaml

from experiments.generalisation.__main__ import PLAN, main, report, run, shown, sweeps
from reid.sweeps.cells import expand


@pytest.mark.slow
def test_every_sweep_is_one_that_the_suite_runs(own_home: None, tmp_path: Path) -> None:
    plan = yaml.safe_load(PLAN.read_text())
    weights = tmp_path / "it's here.pt"
    planned = list(sweeps(plan, str(tmp_path / "my crops, mine"), str(weights)))
    assert [sweep.setting for sweep in planned] == ["plain", "colour", "grey", "policy", "batch", "instance"]
    hashes = set()
    for sweep in planned:
        cells = expand("train", [*sweep.command()[4:]])
        assert len(cells) == 3 * len(plan["seeds"])
        hashes |= {cell.config_hash for cell in cells}
    assert len(hashes) == 9 * len(planned)
    assert f"backbone.weights='{weights!s}'".replace("'s", "\\'s") in planned[0].words
    assert "backbone.weights=none" in planned[-1].words
    assert sum(word.startswith("backbone=") for word in planned[-1].words) == 1
    assert shown(planned[0]).startswith("python -m reid.train -m sweep=leave_one_out dataset=joint ")


def test_a_sweep_that_fails_does_not_stop_the_others(
    own_home: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed: list[list[str]] = []

    def process(words: list[str], **_: object) -> "subprocess.CompletedProcess[bytes]":
        typed.append(words)
        return subprocess.CompletedProcess(words, int("augment.grey=0.2" in words))

    monkeypatch.setattr(subprocess, "run", process)
    planned = list(sweeps(yaml.safe_load(PLAN.read_text()), "/crops", "/weights.pt"))
    assert run(planned) == 1
    assert len(typed) == 6
    assert "not finished: augmentations-grey. The same command goes on" in capsys.readouterr().err
    assert report(planned) == 1
    assert "no sweep was begun" in capsys.readouterr().err
    typed.clear()
    for sweep in planned[:4]:
        sweep.folder.mkdir(parents=True)
    assert report(planned[:4]) == 0
    assert typed[0][3] == "runs=" + ",".join(str(sweep.folder) for sweep in planned[:4])
    assert report(planned[:5]) == 1


def test_wrong_words_are_refused(own_home: None, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["run"], "--crops : expected a path that is there"),
        (["run", "--crops", ".", "--weights", "nowhere.pt"], "--weights nowhere.pt"),
        (["plan", "--only", "colours"], "expected one of plain, colour"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
    assert main(["plan", "--only", "colour"]) == 0
    assert capsys.readouterr().out.count("reid.train") == 1
