"""`make gpu-check` without a GPU: its budget, its report and its exit codes, with real commands."""

import json
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from experiments.gpu_check import values
from experiments.gpu_check.__main__ import main, run
from experiments.gpu_check.checks import CUDA_TESTS, Named, precisions
from experiments.gpu_check.context import Context, Failed
from experiments.gpu_check.report import Report, Result
from reid.retrieval import Embeddings

SLEEP = "timeit", "-n", "1", "-r", "1", "import time; time.sleep(30)"


def passes(context: Context) -> Mapping[str, float | str]:
    return {"lines": float(len(context.command("this").splitlines()))}


def ends_with_2(context: Context) -> Mapping[str, float | str]:
    context.command("json.tool", "no-such-file")
    return {}


def refuses(context: Context) -> Mapping[str, float | str]:
    raise Failed("3.1 seen, 3 expected")


def breaks(context: Context) -> Mapping[str, float | str]:
    raise KeyError("mAP")


def sleeps(context: Context) -> Mapping[str, float | str]:
    context.command(*SLEEP)
    return {}


@pytest.mark.slow
def test_each_check_has_its_limit_and_none_stops_the_others(tmp_path: Path) -> None:
    checks = [
        Named("sleeps", 0.5, sleeps), Named("ends", 30, ends_with_2), Named("refuses", 30, refuses),
        Named("breaks", 30, breaks), Named("passes", 30, passes),
    ]  # fmt: skip
    late, ended, refused, broken, passed = run(checks, Context("cpu", tmp_path), time.monotonic() + 100)
    assert late.outcome == ended.outcome == refused.outcome == broken.outcome == "failed"
    assert "stopped at its limit" in late.message
    assert late.seconds < 25
    assert "json.tool no-such-file ended with 1" in ended.message or "ended with 2" in ended.message
    assert "no-such-file" in ended.message
    assert (refused.message, broken.message) == ("3.1 seen, 3 expected", "KeyError: 'mAP'")
    assert (passed.outcome, passed.numbers) == ("passed", {"lines": 21.0})


@pytest.mark.slow
def test_what_the_budget_does_not_reach_is_not_run(tmp_path: Path) -> None:
    checks = [Named("sleeps", 90, sleeps), Named("passes", 90, passes)]
    # What is started within the budget, and cut off by it, is no failure.
    cut, unreached = run(checks, Context("cpu", tmp_path), time.monotonic() + 1, least=0.9)
    assert (cut.outcome, unreached.outcome) == ("not run", "not run")
    assert "the budget ended within it" in cut.message
    assert unreached.message == "the budget was spent before it"


@pytest.mark.slow
def test_a_trial_on_the_cpu_writes_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The real checks: rankings are equal there, and the CUDA tests are skipped, which is a failure."""
    words = ["values", "cuda_tests", "--device", "cpu", "--results", str(tmp_path)]
    assert main(words) == (0 if torch.cuda.is_available() else 1)
    report = json.loads((tmp_path / "gpu_check.json").read_text())
    assert {key: report["device"][key] for key in ("device", "torch")} == {
        "device": "cpu",
        "torch": torch.__version__,
    }
    by_name = {result["name"]: result for result in report["results"]}
    assert by_name["values"]["outcome"] == "passed"
    assert set(by_name["values"]["numbers"].values()) == {0.0}
    assert len(by_name["values"]["numbers"]) == 28
    assert "was skipped for want of a GPU" in by_name["cuda_tests"]["message"] or torch.cuda.is_available()
    text = (tmp_path / "gpu_check.md").read_text()
    assert "| values | **passed** |" in text
    assert "failed: cuda_tests" in capsys.readouterr().out or torch.cuda.is_available()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rerank", "evaluate", "euclidean"])
def test_values_that_are_not_the_cpus_are_found(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every second call, which is the device's, is another's: of features that are rounded to bfloat16."""
    true, calls = getattr(values, name), []

    def rounded(*arguments: object, **options: object) -> object:
        calls.append(name)
        if len(calls) % 2:
            return true(*arguments, **options)
        return true(*map(_round, arguments), **options)

    monkeypatch.setattr(values, name, rounded)
    monkeypatch.setattr(sys, "argv", ["values", "cpu"])
    assert values.main() == 1
    assert "apart from the CPU's" in capsys.readouterr().out


def _round(features: object) -> object:
    if isinstance(features, torch.Tensor):
        return features.bfloat16().to(features.dtype)
    assert isinstance(features, Embeddings)
    return Embeddings(
        features.features.bfloat16().to(features.features.dtype), features.pids, features.camids
    )


def test_without_a_gpu_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert main(["--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["no_such_check"], ["--device", "cpu"], ["--device", "tpu", "values"]])
def test_wrong_options_are_refused(words: list[str]) -> None:
    if torch.cuda.is_available() or "tpu" not in words:
        with pytest.raises(SystemExit, match="2"):
            main(words)


def test_the_report_lists_what_failed_and_what_was_not_run() -> None:
    results = [
        Result("a", "failed", 1.0, 9.0, "3.1 seen"),
        Result("b", "not run", 0.0, 9.0, "the budget was spent"),
    ]
    report = Report({"name": "A card", "driver": "999.1"}, {"commit": "0123"}, 480.0, 1.5, results)
    text = report.markdown()
    assert text.startswith("# GPU check: 0 passed, 1 failed, 1 not run")
    for shown in ("| driver | 999.1 |", "| a | **failed** | 1.0 | 9 |", "3.1 seen", "the budget was spent"):
        assert shown in text


def test_all_tests_that_need_a_gpu_are_among_them() -> None:
    needing = {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "tests").rglob("test_*.py")
        if re.search(r"skipif\(not torch\.cuda\.is_available", file.read_text())
    }
    assert needing == set(CUDA_TESTS)


def test_every_precision_of_the_config_is_trained(tmp_path: Path) -> None:
    assert {"float32", "tf32", "bf16"} <= set(precisions(Context("cuda:0", tmp_path)))
    assert precisions(Context("cpu", tmp_path)) == ["float32", "bf16"]
