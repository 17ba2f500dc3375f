"""What exports are worth: size, agreement with PyTorch, mAP and speed, by target, backbone and precision.

    python -m experiments.exports model.pt another.pt … [--random]

writes results/trained.csv, or with `--random` results/random.csv of all backbones with random weights, and
prints the tables of the README.
"""

import argparse
import csv
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reid.commands.export import CALIBRATED_ON, LOOKED_AT, export_model, read_some
from reid.config.schema import DataConfig, EvalConfig, ImageConfig, config_folder
from reid.config.settings import as_trained
from reid.data import ReidDataset, load_dataset, silent
from reid.distance import normalise
from reid.engine.checkpoint import Checkpoint
from reid.engine.checkpoint_source import trained_dataset, with_data_now
from reid.engine.compute import Compute
from reid.engine.describe import model_description
from reid.engine.prepare import open_judged_data, with_protocol_of
from reid.export.check import ExportError, check_graph, suite_features
from reid.export.drawn import drawn_crops
from reid.export.graph import Graph, write_graph
from reid.export.judged import judge_graph, judge_model
from reid.export.pixels import suite_images
from reid.export.speed import measure_speed
from reid.export.target import target_named, target_names
from reid.home import home, source_root
from reid.inference import TrainedModel, load_model
from reid.jobs.networks import named_networks
from reid.judging.stored_threshold import FeatureSpace
from reid.models import ReidModel, described_model
from reid.tracking import environment

HERE = Path(__file__).parent
RESULTS = HERE / "results"
#: What is exported of each trained model: for every target in float32, and in fewer bits for one of them.
PRECISIONS = ("float32", "float16", "int8")
JUDGED = "onnxruntime"
#: Height and width of the images that networks with random weights take.
SIZE = (128, 64)
#: Networks of timm that the suite's tests promise, and where their images cannot be of SIZE.
TIMM = (
    "convnext_tiny", "mobilenetv3_large_100", "efficientnet_b0", "vit_small_patch16_224",
    "vit_small_patch14_dinov2", "swin_tiny_patch4_window7_224",
)  # fmt: skip
SIZES = {"vit_small_patch14_dinov2": (126, 56)}

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: all files were made; 1: one failed its check, which the table says."""
    parser = argparse.ArgumentParser(prog="python -m experiments.exports", description=__doc__)
    parser.add_argument(
        "checkpoints", nargs="*", help="trained models, with the data that they are judged on"
    )
    parser.add_argument("--random", action="store_true", help="all backbones with random weights too")
    parser.add_argument("--data-root", default=str(home() / "data"), help="where the datasets lie")
    options = parser.parse_args(arguments)
    if not (options.checkpoints or options.random):
        parser.error("nothing to export: give checkpoints, or --random")
    Compute.set_up("cpu")
    rows: list[Row] = []
    for name in options.checkpoints:
        rows += _write("trained", of_checkpoint(load_model(name, "cpu"), options.data_root))
    if options.random:
        rows += _write("random", of_random_networks())
    tags = environment(source_root()).tags
    print(f"\n{tags['reid.cpu']}, {tags['reid.cpu_count']} cores; torch {tags['reid.version.torch']}")
    return int(any(row["refused"] for row in rows))


def of_checkpoint(model: TrainedModel, data_root: str) -> Iterator[Row]:
    """A row a file that is made of a trained model, with its mAP where its bits differ from another's."""
    checkpoint = with_data_now(Checkpoint({}, model.meta, {}), data_root)
    dataset = load_dataset(**trained_dataset(checkpoint))
    crops = read_some([crop.path for crop in (*dataset.query, *dataset.gallery)], LOOKED_AT)
    calibration = read_some([crop.path for crop in dataset.train], CALIBRATED_ON)
    size = (model.height, model.width)
    about = {
        "backbone": model.meta["model"]["backbone"]["name"],
        "data": dataset.name,
        "size": f"{model.height}x{model.width}",
        "two crops": _between(model.model, crops, model.space, size),
    }
    judged = _Judged(model, dataset, data_root)
    with tempfile.TemporaryDirectory() as folder:
        for name in target_names():
            for precision in PRECISIONS if name == JUDGED else PRECISIONS[:1]:
                target, file = target_named(name), Path(folder) / f"{name}_{precision}.onnx"
                row = {**about, "target": name, "precision": precision}
                try:
                    chosen = calibration if precision == "int8" else ()
                    report = export_model(model, target, file, crops, precision, chosen)
                except ExportError as error:
                    yield {**row, "refused": str(error)}
                    continue
                check = report.check
                row |= {
                    "MiB": report.bytes / 2**20,
                    "largest difference": check.difference,
                    "cosine same pixels": check.same_pixels,
                    "cosine min": check.cosine_min,
                    "cosine mean": check.cosine_mean,
                    "crops": check.crops,
                }
                if name == JUDGED:
                    speed = measure_speed(file, model.model, size, flip=model.space.flip)
                    row |= {
                        "mAP": judged.graph(file, name),
                        "mAP PyTorch": judged.model_mAP,
                        "images/s": speed.graph,
                        "images/s PyTorch": speed.torch,
                    }
                yield row


class _Judged:
    """The test set of a model's run, opened once, and what the model itself scores on it."""

    def __init__(self, model: TrainedModel, dataset: ReidDataset, data_root: str) -> None:
        settings = replace(as_trained(EvalConfig(), model.meta["eval"], []), tracklets=False)
        self.settings = with_protocol_of(dataset, settings, [])
        data = DataConfig(root=data_root, store=str(Path(data_root) / ".store"))
        image = ImageConfig(height=model.height, width=model.width)
        self.data = open_judged_data(dataset, image, data, silent, self.settings.protocol)
        sets = (self.data.query, self.data.gallery)
        self.model_mAP = judge_model(model.model, *sets, self.settings).scores.mAP

    def graph(self, file: Path, target: str) -> float:
        sets = (self.data.query, self.data.gallery)
        return judge_graph(file, target_named(target), *sets, self.settings).scores.mAP


def of_random_networks() -> Iterator[Row]:
    """A row a backbone: does its graph compute what PyTorch does? No mAP, since nothing was learned."""
    own = sorted(file.stem for file in (config_folder() / "backbone").glob("*.yaml"))
    networks = {name: [f"backbone={name}"] for name in own if name != "timm"}
    networks |= {f"timm, {name}": ["backbone=timm", f"backbone.name={name}"] for name in TIMM}
    crops, space, target = drawn_crops(32), FeatureSpace("euclidean", True, "after"), target_named(JUDGED)
    for name, overrides in networks.items():
        height, width = SIZES.get(name.removeprefix("timm, "), SIZE)
        (settings,) = named_networks([*overrides, f"image.height={height}", f"image.width={width}"])
        torch.manual_seed(0)
        model = described_model(model_description(settings, 7))
        with torch.no_grad():
            for _ in range(2):  # norms with the statistics of images, as training leaves them
                model((suite_images(crops, height, width).float() - 120) / 60)
        model.eval()
        row = {
            "backbone": name,
            "data": "drawn crops",
            "size": f"{height}x{width}",
            "target": JUDGED,
            "precision": "float32",
            "two crops": _between(model, crops, space, (height, width)),
        }
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "reid.onnx"
            write_graph(model, space, target, height, width, file)
            try:
                check = check_graph(Graph(file), model, space, target, crops, (height, width))
            except ExportError as error:
                yield {**row, "refused": str(error)}
                continue
            speed = measure_speed(file, model, (height, width), rounds=3)
            yield {
                **row,
                "MiB": file.stat().st_size / 2**20,
                "largest difference": check.difference,
                "cosine same pixels": check.same_pixels,
                "cosine min": check.cosine_min,
                "cosine mean": check.cosine_mean,
                "crops": check.crops,
                "images/s": speed.graph,
                "images/s PyTorch": speed.torch,
            }


def _between(
    model: ReidModel, crops: Sequence[np.ndarray], space: FeatureSpace, size: tuple[int, int]
) -> float:
    """Mean cosine between the features of two different crops: a cosine says little where this is near 1."""
    features = normalise(suite_features(model, suite_images(crops, *size), space))
    pairs = features @ features.T
    return float(pairs[~torch.eye(len(pairs), dtype=torch.bool)].mean())


#: The columns of the tables, and how their numbers are written.
COLUMNS: dict[str, str] = {
    "backbone": "", "data": "", "size": "", "target": "", "precision": "", "MiB": ".1f",
    "largest difference": ".1e", "cosine same pixels": ".5f", "cosine min": ".4f", "cosine mean": ".4f",
    "two crops": ".3f", "mAP": ".4f", "mAP PyTorch": ".4f", "images/s": ".1f", "images/s PyTorch": ".1f",
    "crops": "", "refused": "",
}  # fmt: skip


def _write(name: str, rows: Iterator[Row]) -> list[Row]:
    """Write results/<name>.csv, where rows of other backbones and data stay, and print rows as Markdown."""
    path, found = RESULTS / f"{name}.csv", []
    for row in rows:
        found.append({column: _text(row.get(column, ""), form) for column, form in COLUMNS.items()})
        print(markdown(found[-1]), flush=True)
    key = ("backbone", "data", "size")
    new = {tuple(row[column] for column in key) for row in found}
    before = list(csv.DictReader(path.open())) if path.exists() else []
    kept = [row for row in before if tuple(row[column] for column in key) not in new]
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as handle:
        table = csv.DictWriter(handle, list(COLUMNS))
        table.writeheader()
        table.writerows([*kept, *found])
    return found


def _text(value: Any, form: str) -> str:
    return format(value, form) if form and value != "" else str(value)


def markdown(row: Mapping[str, str]) -> str:
    """A row of the README's table, mAP in percent and speed as a factor too."""
    shown = [row[column] for column in ("backbone", "target", "precision", "MiB")]
    shown += [row[column] for column in ("largest difference", "cosine min", "cosine mean", "two crops")]
    shown += [f"{100 * float(row[name]):.2f}" if row[name] else "" for name in ("mAP", "mAP PyTorch")]
    speeds = [row["images/s"], row["images/s PyTorch"]]
    shown += [*speeds, f"{float(speeds[0]) / float(speeds[1]):.1f}" if all(speeds) else "", row["refused"]]
    return f"| {' | '.join(shown)} |"


if __name__ == "__main__":
    sys.exit(main())
