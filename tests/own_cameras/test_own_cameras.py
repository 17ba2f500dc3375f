"""The study of own cameras: its plan, its order of steps, and a whole run on the tiny drawn set."""

import csv
from pathlib import Path

import pytest

from experiments.own_cameras import __main__ as study

ONE = study.Measurement("market split", "identify", ())
LINE = "[2026-11-30 22:00:00,123][reid.commands.identify][INFO] - "


def test_the_plan_measures_every_place_by_every_command() -> None:
    plan = list(study.measurements(Path("/m.pt"), Path("/crops"), Path("/d.pt"), more=["device=cpu"]))
    assert [one.command for one in plan] == ["identify", "calibrate", "calibrate", "fuse"] * 3
    assert plan[0].overrides == ("checkpoint=/m.pt", "dataset=folder", "dataset.root=/crops", "device=cpu")
    assert "dataset=synthetic_night" in plan[-1].overrides
    assert not list(study.measurements(None, None, None))


def test_a_test_before_the_fit_is_refused() -> None:
    fixed, tested = f"{LINE}fixed: a threshold\n", f"{LINE}tested: a rate\n"
    found = study.steps(ONE, f"{LINE}embedding\n{fixed}{tested}")
    assert [(row["step"], row["what"]) for row in found] == [("fixed", "a threshold"), ("tested", "a rate")]
    assert found[0]["time"] == "2026-11-30 22:00:00,123"
    for wrong in (tested + fixed, fixed, tested, fixed + tested + tested):
        with pytest.raises(study.StepsError, match=r"expected \['fixed', 'tested'\]"):
            study.steps(ONE, wrong)


@pytest.mark.parametrize(
    "typed", [[], ["--market", "/nowhere.pt"], ["--drawn", "/nowhere.pt"], ["--crops", "/"]]
)
def test_wrong_options_are_refused(typed: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        study.main(typed)
    assert end.value.code == 2


@pytest.mark.slow
def test_it_runs_on_the_tiny_set(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REID_HOME", str(tmp_path))
    typed = [
        "--drawn", str(tiny_checkpoint), "--preset", "tiny", "--share", "0.3", "--target", "fpir_1e-1",
        "--replicates", "20", "--data-root", str(tiny_data), "--results", str(tmp_path / "results"),
    ]  # fmt: skip
    assert study.main(typed) == 0
    with (tmp_path / "results" / "log.csv").open() as handle:
        log = list(csv.DictReader(handle))
    assert [row["step"] for row in log] == ["fixed", "tested"] * 8
    assert [row["time"] for row in log] == sorted(row["time"] for row in log)
    with (tmp_path / "results" / "results.csv").open() as handle:
        values = list(csv.DictReader(handle))
    names = {row["what"] for row in values}
    assert {"FPIR, best", "DIR, quality", "ECE, logistic", "mAP, fused less after"} <= names
    assert {row["measurement"] for row in values} >= {"drawn day", "drawn night, two features"}
