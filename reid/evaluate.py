"""Judge a trained model on any dataset: `python -m reid.evaluate checkpoint=… [dataset=…]`.

`checkpoint` is a file (last.pt or model.pt of a run), a run's folder, or an MLflow run id.
"""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from reid import run_figures
from reid.command import launch
from reid.config import EvalConfig, EvaluateConfig, ImageConfig
from reid.console import score_table
from reid.data import load_dataset
from reid.data.splits import validation_split
from reid.engine.checkpoint import CheckpointError, load_checkpoint
from reid.engine.describe import rebuild_model
from reid.engine.judge import describe, judge, score_values
from reid.engine.prepare import check_judgeable, fingerprint, open_judged_data
from reid.engine.runtime import choose_device, set_up_backend
from reid.home import home
from reid.job import Job
from reid.settings import evaluate_settings
from reid.tracking import default_store, fetch_checkpoint

RUN_ID = re.compile(r"[0-9a-f]{32}")


def evaluate(job: Job, settings: EvaluateConfig) -> dict[str, float]:
    """Scores (fractions) of a checkpoint on a dataset; draws figures and writes scores.json."""
    device = choose_device(settings.device)
    set_up_backend(device, settings.precision)
    checkpoint = load_checkpoint(find_checkpoint(settings))
    evaluation = as_trained(settings.eval, checkpoint.meta["eval"], job.overrides)
    model = rebuild_model(checkpoint).to(device)
    model.to(memory_format=torch.channels_last)

    dataset = load_dataset(**(settings.dataset or checkpoint.meta["dataset"]), progress=job.progress)
    if evaluation.split == "val":
        dataset = validation_split(dataset, evaluation.val_identities, evaluation.val_seed)
    check_judgeable(dataset, evaluation)
    size = checkpoint.meta["preprocessing"]
    image = ImageConfig(height=size["height"], width=size["width"])
    judged = open_judged_data(dataset, image, settings.data, job.progress)
    judgement = judge(
        model, judged.query, judged.gallery, evaluation, device, settings.precision, job.progress
    )

    trained_on = checkpoint.meta["dataset"]["name"]
    title = f"{trained_on} -> {dataset.name}"
    values = score_values(evaluation.split, judgement.scores)
    told = {
        "checkpoint": settings.checkpoint,
        "config_hash": checkpoint.meta["config_hash"],
        "trained_on": trained_on,
        "dataset": dataset.name,
        "data_fingerprint": fingerprint(judged.fingerprint),
        "eval": asdict(evaluation),
        "scores": values,
    }
    (job.folder / "scores.json").write_text(json.dumps(told, indent=2) + "\n")
    run_figures.draw_judgement(job.folder / "figures", judgement, judged, title, evaluation.protocol)
    job.console.print(score_table({title: judgement.scores}, describe(evaluation, dataset.name)))
    job.console.print(f"scores.json and figures/ are in {job.folder}", highlight=False)
    return values


def as_trained(typed: EvalConfig, trained: dict[str, Any], overrides: list[str]) -> EvalConfig:
    """The evaluation settings of the run that made the checkpoint, where the command names no others."""
    named = {word.lstrip("+").partition("=")[0].removeprefix("eval.") for word in overrides}
    kept = {key: value for key, value in trained.items() if key not in named and hasattr(typed, key)}
    return replace(typed, **kept)


def find_checkpoint(settings: EvaluateConfig) -> Path:
    """The file that `checkpoint` names.

    Raises:
        CheckpointError, TrackingError: there is none.
    """
    name = settings.checkpoint
    if RUN_ID.fullmatch(name) and not Path(name).exists():
        return fetch_checkpoint(default_store(home(), settings.tracking.uri), name)
    path = Path(name).expanduser()
    if not path.is_dir():
        return path
    for candidate in ("model.pt", "last.pt"):
        if (path / candidate).is_file():
            return path / candidate
    raise CheckpointError(f"checkpoint={name}: the folder holds neither model.pt nor last.pt")


def main() -> None:
    """The command `python -m reid.evaluate` and `reid-evaluate`."""
    launch("evaluate", lambda job: evaluate(job, evaluate_settings(job.config)))


if __name__ == "__main__":
    main()
