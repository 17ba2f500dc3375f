"""The checks, the most telling first: what does not fit into the budget is at the end."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from experiments.benchmark.outcome import Outcome
from experiments.gpu_check.context import ROOT, Check, Context, Failed, read_status
from reid.config.schema import TrainConfig

#: The tests that are skipped where no GPU is.
CUDA_TESTS = ("tests/engine/test_cuda.py", "tests/retrieval/test_evaluate.py")
#: Precisions that a CPU takes.
ON_A_CPU = ("float32", "bf16")
#: The loss of the first epoch in another precision, over that in float32: the warm-up's steps are so small
#: that both are still the same network, and bfloat16 keeps two or three digits.
LOSS = 0.05
#: Scores of one model by a GPU and by a CPU: rounding may swap neighbours.
SCORES = 0.02


@dataclass(frozen=True)
class Named:
    """A check, and the seconds that it may take."""

    name: str
    limit: float
    check: Check


def has(key: str) -> bool:
    """Whether this version has a config key."""
    return key in {one.name for one in fields(TrainConfig)}


def precisions(context: Context) -> list[str]:
    """Those that the config offers and the device takes."""
    offered = next(one for one in fields(TrainConfig) if one.name == "precision").metadata["choices"]
    return [name for name in offered if context.on_gpu or name in ON_A_CPU]


def cuda_tests(context: Context) -> Mapping[str, float | str]:
    """The tests that need a GPU: all pass, and none is skipped for want of one."""
    report = context.folder / "tests.xml"
    context.command(
        "pytest", *(str(ROOT / file) for file in CUDA_TESTS), "-q", "-rs", "--tb=short",
        "-p", "no:cacheprovider", f"--junitxml={report}",
    )  # fmt: skip
    text = report.read_text(encoding="utf-8")
    if "needs a GPU" in text:
        raise Failed("a test was skipped for want of a GPU, though one is there")
    return {"tests": float(text.count("<testcase "))}


def values(context: Context) -> Mapping[str, float | str]:
    """Evaluation, re-ranking and pair counts of drawn features, against the CPU's."""
    printed = context.command("experiments.gpu_check.values", context.device)
    numbers: dict[str, float | str] = json.loads(printed.strip().splitlines()[-1])
    return numbers


def trainings(context: Context, compiled: bool) -> Mapping[str, float | str]:
    """Raises Failed where one did not end, diverged, or began with another loss than in float32."""
    names = precisions(context)
    sweep = context.train(
        "sweep", "-m", f"precision={','.join(names)}", "data.resident=true,false",
        f"compile={str(compiled).lower()}", "sweep.take=none",
    )  # fmt: skip
    numbers: dict[str, float | str] = {}
    losses: dict[str, float] = {}
    for folder in sorted(path.parent for path in sweep.glob("*/status.json")):
        status = read_status(folder)
        words = dict(word.partition("=")[::2] for word in status["overrides"])
        cell = f"{words['precision']}, resident {words['data.resident'].lower()}"
        history = pd.read_csv(folder / "history.csv")
        if status["status"] != "FINISHED" or not math.isfinite(history["train/loss"].iloc[-1]):
            raise Failed(f"{cell}: {status['status']}, {status.get('error')}; {folder}")
        losses[cell] = float(history["train/loss"].iloc[0])
        numbers[f"{cell}: loss of epoch 1"] = losses[cell]
        numbers[f"{cell}: images/s"] = float(history["train/images_per_second"].iloc[-1])
        numbers[f"{cell}: mAP %"] = 100 * float(history["test/mAP"].iloc[-1])
    if len(losses) != 2 * len(names):
        raise Failed(f"{len(losses)} of {2 * len(names)} runs are there: {', '.join(losses)}")
    plain = losses["float32, resident true"]
    for cell, loss in losses.items():
        if abs(loss / plain - 1) > LOSS:
            raise Failed(
                f"{cell}: loss {loss:.4f} in epoch 1, {plain:.4f} in float32; allowed are {LOSS:.0%}"
            )
    return numbers


def trainings_compiled(context: Context) -> Mapping[str, float | str]:
    """The same by torch.compile."""
    return trainings(context, compiled=True)


def trainings_eager(context: Context) -> Mapping[str, float | str]:
    """A short training of each precision, pixels resident and not: finite, and alike at their start."""
    return trainings(context, compiled=False)


def judged_like_a_cpu(context: Context) -> Mapping[str, float | str]:
    """A model trained here scores the same by `reid.evaluate` on the device and on the CPU, re-ranked too."""
    run = context.train("run")
    scores: list[dict[str, float]] = []
    for device in (context.device, "cpu"):
        folder = context.folder / f"judged_{len(scores)}"
        context.command(
            "reid.evaluate", f"checkpoint={run / 'model.pt'}", f"data.root={context.home / 'data'}",
            f"device={device}", "eval.rerank=true", f"hydra.run.dir={folder}",
        )  # fmt: skip
        scores.append(read_status(folder)["scores"])
    numbers: dict[str, float | str] = {}
    for name, here in scores[0].items():
        there = scores[1][name]
        numbers[name], numbers[f"{name} by the CPU"] = here, there
        # One query of a few may find its match one place later.
        allowed = 1.5 / scores[1]["test/valid_queries"] if "rank-" in name else SCORES
        if abs(here - there) > allowed:
            raise Failed(
                f"{name} is {here:.4f} on {context.device} and {there:.4f} on the CPU: {SCORES} allowed"
            )
    return numbers


def repeated(context: Context) -> Mapping[str, float | str]:
    """Two trainings with deterministic=true give the same model, bit for bit."""
    words = ["deterministic=true"] if has("deterministic") else []
    if not words and context.on_gpu:
        raise Failed("this version has no key deterministic, and a GPU does not repeat itself without it")
    models = []
    for name in ("first", "second"):
        run = context.train(name, *words, "seed=3")
        models.append(torch.load(run / "model.pt", map_location="cpu", weights_only=True)["model"])
    apart = [name for name, tensor in models[0].items() if not torch.equal(tensor, models[1][name])]
    if apart:
        raise Failed(
            f"{len(apart)} of {len(models[0])} tensors differ between two runs: {', '.join(apart[:5])}"
        )
    return {"tensors": float(len(models[0]))}


def benchmark(context: Context) -> Mapping[str, float | str]:
    """The `gpu` benchmark in its short form; on a CPU it has nothing to measure."""
    context.command("experiments.benchmark", "gpu", "--quick", "--results", str(context.folder))
    file = context.folder / "quick" / "gpu.json"
    if not file.exists():
        if context.on_gpu:
            raise Failed("python -m experiments.benchmark gpu --quick ended well and measured nothing")
        return {"measured": "nothing: no GPU"}
    return _measured(file)


def _measured(file: Path) -> dict[str, float | str]:
    numbers: dict[str, float | str] = {}
    for case in Outcome.read(file).cases:
        facts: Mapping[str, Any] = case.facts
        numbers |= {f"{case.name}: {goal.what} [{goal.unit}]": goal.value for goal in case.goals}
        numbers |= {f"{case.name}: {name}": value for name, value in facts.items()}
        numbers |= {f"{case.name}: {name} [MiB]": value for name, value in case.peak_mib.items()}
    return numbers


CHECKS = (
    Named("cuda_tests", 120, cuda_tests),
    Named("values", 60, values),
    Named("trainings", 120, trainings_eager),
    Named("repeated", 90, repeated),
    Named("judged_like_a_cpu", 90, judged_like_a_cpu),
    Named("benchmark", 90, benchmark),
    Named("trainings_compiled", 240, trainings_compiled),
)
