"""A checkpoint becomes a file for another program, checked, and with fewer bits judged and timed too."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from reid.commands.camera_choice import choose_camera
from reid.config.checks import ConfigError
from reid.config.dataset import judged_on
from reid.config.schema import DataConfig, EvalConfig, ImageConfig
from reid.config.settings import as_trained
from reid.data import DatasetError, Progress, ReidDataset, load_dataset
from reid.data.division import validation_split
from reid.data.pictures import read_picture
from reid.engine.card import model_card
from reid.engine.checkpoint import Checkpoint, CheckpointError
from reid.engine.checkpoint_source import trained_dataset, with_data_now
from reid.engine.compute import Compute
from reid.engine.model_hash import model_hash
from reid.engine.prepare import open_judged_data, with_protocol_of
from reid.export.check import BATCHES
from reid.export.drawn import drawn_crops
from reid.export.exporter import Origin, Report, export
from reid.export.judged import judge_graph, judge_model
from reid.export.speed import measure_speed
from reid.export.target import Target, target_named
from reid.home import home
from reid.inference import TrainedModel, load_model
from reid.jobs.console import ConsoleProgress
from reid.judging.judge import describe
from reid.retrieval import EvaluationError
from reid.terminal import Terminal
from reid.words import percent

#: Crops that a graph is looked at through, and that an int8 graph is calibrated on.
LOOKED_AT, CALIBRATED_ON = 64, 256


def run(options: argparse.Namespace, calibration: Sequence[Path] | None) -> int:
    """What `python -m reid.export` does with its options; the exit code.

    Raises:
        UsageError: the checkpoint or the data cannot be used.
        ExportError: the graph failed its check.
        OSError: the file cannot be written.
    """
    errors = Terminal(stderr=True, soft_wrap=True)
    progress = ConsoleProgress(errors)
    Compute.set_up("cpu")
    model = load_model(options.checkpoint, "cpu")
    fix_camera(model, options.camera)
    target = target_named(options.target)
    data_root = options.data_root or os.environ.get("REID_DATA") or str(home() / "data")
    dataset, missing = _dataset(model, data_root, progress)
    held_out = [crop.path for crop in (*dataset.query, *dataset.gallery)] if dataset else []
    if len(held_out) >= max(BATCHES):
        crops, whose = read_some(held_out, LOOKED_AT), "of the test set"
    else:
        reason = missing or f"the test set has {len(held_out)}"
        crops, whose = drawn_crops(LOOKED_AT), f"of drawn pedestrians, since {reason}"
    if calibration is None and dataset is not None:
        calibration = [crop.path for crop in dataset.train]
    chosen: list[np.ndarray] = []
    if options.precision == "int8":
        if not calibration:
            raise ConfigError(f"--int8 is calibrated on training crops, and {missing}: add --calibration")
        chosen = read_some(calibration, CALIBRATED_ON)
    report = export_model(model, target, options.output, crops, options.precision, chosen)
    print(describe_report(report, whose))
    wanted = options.judge if options.judge is not None else options.precision != "float32"
    if wanted:
        print(speed_line(model, report))
        print(_judgement(model, report, dataset, missing, data_root, progress))
    return 0


def fix_camera(model: TrainedModel, camera: str | None) -> None:
    """Let a model that has learnt cameras take all images for those of one, or of none (`mean`).

    What a graph knows of cameras is decided when it is written, since it takes images alone.

    Raises:
        ConfigError: as `choose_camera`.
    """
    chosen = choose_camera(model, camera, "a graph takes images alone").camera
    if chosen is not None:
        model.model.default_camera = chosen if isinstance(chosen, int) else None


def export_model(
    model: TrainedModel,
    target: Target,
    path: Path,
    crops: Sequence[np.ndarray],
    precision: str = "float32",
    calibration: Sequence[np.ndarray] = (),
) -> Report:
    """`reid.export.exporter.export` of a model with what its checkpoint says of it."""
    return export(
        model.model,
        model.space,
        (model.height, model.width),
        target,
        path,
        crops,
        origin=origin_of(model),
        precision=precision,  # type: ignore[arg-type]
        calibration=calibration,
    )


def origin_of(model: TrainedModel) -> Origin:
    """What the files beside a graph say of its model."""
    meta = model.meta
    description = {key: meta["model"][key] for key in ("backbone", "head") if key in meta["model"]}
    if model.cameras:
        camera = model.model.default_camera
        description["camera"] = "the mean of those that were learnt" if camera is None else camera
    return Origin(
        model_hash(model.model.state_dict()),
        description,
        meta["config_hash"],
        model.threshold,
        model_card(meta),
    )


def read_some(paths: Sequence[Path], count: int) -> list[np.ndarray]:
    """`count` of these pictures, or all where they are fewer, at equal steps: (h, w, 3) uint8 RGB.

    What is no picture is left out, as in training.

    Raises:
        OSError: the disk failed.
    """
    step = max(1, len(paths) // count)
    pictures = (read_picture(path).picture for path in paths[::step][:count])
    return [np.asarray(picture.image) for picture in pictures if picture is not None]


def describe_report(report: Report, whose: str) -> str:
    """What was written, what is inside, and how well it does: two lines."""
    facts, check = report.facts, report.check
    size = "x".join(str(side) for side in facts["input"]["shape"][1:])
    inside = ", ".join(facts["inside_the_graph"]) or "nothing beside the model"
    names = ", ".join(file.name for file in report.beside)
    return (
        f"{report.path}: for {report.target.program}, {report.precision}, {report.bytes / 2**20:.1f} MiB; "
        f"images batch x {size}, {report.target.pixels} -> output0 batch x {facts['output']['size']}; "
        f"inside: {inside}. Beside it: {names}\n"
        f"checked: at most {check.difference:.1e} from PyTorch on the same pixels (cosine "
        f"{check.same_pixels:.5f}); through the resize of {report.target.program} cosine min "
        f"{check.cosine_min:.4f}, mean {check.cosine_mean:.4f} ({check.crops} crops {whose})"
    )


def speed_line(model: TrainedModel, report: Report) -> str:
    """Images a second of one core."""
    speed = measure_speed(report.path, model.model, (model.height, model.width), flip=model.space.flip)
    return (
        f"speed: {speed.graph:,.0f} images a second of one core, PyTorch in float32 {speed.torch:,.0f} "
        f"({speed.factor:.1f} times)"
    )


def _dataset(model: TrainedModel, data_root: str, progress: Progress) -> tuple[ReidDataset | None, str]:
    """The dataset that the model was trained on, or None and why it is not at hand."""
    checkpoint = with_data_now(Checkpoint({}, model.meta, {}), data_root)
    try:
        return load_dataset(**judged_on(trained_dataset(checkpoint)), progress=progress), ""
    except (DatasetError, CheckpointError, OSError) as error:
        return None, f"the data of its training are not at hand ({str(error).splitlines()[0]})"


def _judgement(
    model: TrainedModel,
    report: Report,
    dataset: ReidDataset | None,
    missing: str,
    data_root: str,
    progress: Progress,
) -> str:
    """mAP of the model and of the graph on the test set of its run, in a line."""
    if dataset is None:
        return f"not judged: {missing}"
    evaluation = as_trained(EvalConfig(), model.meta["eval"], [])
    if evaluation.split == "val":
        dataset = validation_split(dataset, evaluation.val_identities, evaluation.val_seed)
    # A graph knows one camera for all images, or none.
    evaluation = replace(with_protocol_of(dataset, replace(evaluation, tracklets=False), []), cameras=False)
    data = DataConfig(root=data_root, store=str(Path(data_root) / ".store"))
    image = ImageConfig(height=model.height, width=model.width)
    try:
        judged = open_judged_data(dataset, image, data, progress, evaluation.protocol)
        before = judge_model(model.model, judged.query, judged.gallery, evaluation, progress)
        after = judge_graph(report.path, report.target, judged.query, judged.gallery, evaluation, progress)
    except EvaluationError as error:
        return f"not judged: {error}"
    change = 100 * (after.scores.mAP - before.scores.mAP)
    return (
        f"judged: mAP {percent(after.scores.mAP)}, the model itself {percent(before.scores.mAP)} "
        f"({change:+.2f} points); {describe(evaluation, dataset.name)}"
    )
