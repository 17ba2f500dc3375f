"""What the table needs before its first epoch: data, weights, disk, memory: listed, never raised."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from experiments.reproduce_table.plan import Planned
from experiments.reproduce_table.probe import IDENTITIES, Counts, without_weights
from reid.config.schema import TrainConfig
from reid.data import DatasetError, load_dataset
from reid.data.crops import Progress
from reid.data.datasets import duke, market
from reid.engine.compute import free_bytes
from reid.engine.describe import build_model
from reid.home import home
from reid.judging.judge import check_memory
from reid.models import BackboneError, HeadError, ReidModel, WeightsError, build_backbone
from reid.retrieval import EvaluationError

GB = 1e9
#: What convolutions allocate for themselves, and what fragments, on top of what is counted.
_SLACK = 1.3

#: Images of the official sets, for an estimate while they are not there.
_OFFICIAL = {"market": Counts(*market.OFFICIAL), "duke": Counts(*duke.OFFICIAL)}


@dataclass
class Needs:
    """`counts` by the dataset's root; `found` says what is there, `missing` what to get, one thing a line."""

    counts: dict[str, Counts] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def check(planned: Iterable[Planned], device: torch.device, progress: Progress) -> Needs:
    """Look for everything that the cells which are not finished will need.

    A drawn set is drawn, and a public weight file that is not here yet is downloaded: both will be needed.
    """
    todo = [one.settings for one in planned if not one.finished]
    needs = Needs()
    if not todo:
        return needs
    for settings in {str(s.dataset["root"]): s for s in todo}.values():
        _data(settings, needs, progress)
    for settings in {str(s.backbone["name"]): s for s in todo}.values():
        _weights(settings, needs)
    _disk(todo, needs)
    for settings in {str(s.backbone["name"]): s for s in todo}.values():
        _memory(settings, device, needs)
    for settings in todo:
        _rerank(settings, device, needs)
    return needs


def _data(settings: TrainConfig, needs: Needs, progress: Progress) -> None:
    name, root = str(settings.dataset["name"]), str(settings.dataset["root"])
    try:
        dataset = load_dataset(**settings.dataset, progress=progress)
    except DatasetError as error:
        needs.missing.append(f"data of {name}, to be put at {root}:\n{error}")
        if name in _OFFICIAL:
            needs.counts[root] = _OFFICIAL[name]
        return
    counts = Counts(len(dataset.train), len(dataset.query), len(dataset.gallery))
    needs.counts[root] = counts
    needs.found.append(
        f"data of {dataset.name} at {root}: {counts.train:,} training images, {counts.query:,} queries, "
        f"{counts.gallery:,} in the gallery"
    )


def _weights(settings: TrainConfig, needs: Needs) -> None:
    name, weights = settings.backbone["name"], settings.backbone["weights"]
    if weights == "none":
        return
    try:
        report = build_backbone(**settings.backbone).weight_report
    except (WeightsError, BackboneError, HeadError) as error:
        needs.missing.append(f"weights of {name}:\n{error}")
        return
    needs.found.append(f"weights of {name}: {report.describe()}")


def _disk(todo: list[TrainConfig], needs: Needs) -> None:
    """Checkpoints of every cell, and every image decoded once."""
    needed_bytes: dict[Path, float] = {}
    runs = sum(_checkpoint_bytes(settings) for settings in todo)
    needed_bytes[home()] = runs
    for settings in {str(s.dataset["root"]): s for s in todo}.values():
        counts = needs.counts.get(str(settings.dataset["root"]))
        if counts is not None:
            store = Path(settings.data.store)
            pixels = 3 * settings.image.height * settings.image.width
            needed_bytes[store] = needed_bytes.get(store, 0.0) + pixels * (counts.train + counts.judged)
    disks: dict[int, list[Path]] = {}
    for path in needed_bytes:
        disks.setdefault(_existing(path).stat().st_dev, []).append(path)
    for paths in disks.values():
        total, free = sum(needed_bytes[path] for path in paths), shutil.disk_usage(_existing(paths[0])).free
        where = " and ".join(str(path) for path in paths)
        message = (
            f"disk at {where}: up to {total / GB:.1f} GB for checkpoints and decoded images, "
            f"{free / GB:.1f} free"
        )
        (needs.found if total < free else needs.missing).append(message)


def _checkpoint_bytes(settings: TrainConfig) -> int:
    """last.pt (model, Adam's two moments, the best so far), model.pt, and the tracker's copy of that."""
    kept = settings.tracking.checkpoint
    return _parameter_bytes(settings) * (4 + (kept == "best") + (kept != "none"))


def _bare_model(settings: TrainConfig) -> ReidModel:
    """The model of a recipe on tensors without memory: its sizes can be read at no cost."""
    with torch.device("meta"):
        return build_model(without_weights(settings), IDENTITIES)


def _parameter_bytes(settings: TrainConfig) -> int:
    return sum(tensor.nbytes for tensor in _bare_model(settings).state_dict().values())


def _memory(settings: TrainConfig, device: torch.device, needs: Needs) -> None:
    needed, free = training_bytes(settings), free_bytes(device)
    name, batch = settings.backbone["name"], settings.batch.size
    message = (
        f"memory of {device} for {name}: about {needed / GB:.1f} GB for a batch of {batch}, "
        f"{free / GB:.1f} free"
    )
    (needs.found if needed < free else needs.missing).append(message)


def training_bytes(settings: TrainConfig) -> float:
    """About what a training step takes: parameters, gradients, Adam's moments, and what is kept to go back.

    Counted, not tried: a CPU's memory that is not there ends a process without a word.
    """
    model, image = _bare_model(settings), settings.image
    images = torch.empty(settings.batch.size, 3, image.height, image.width, device="meta")
    own = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in own:
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.backbone.train()(images)  # what follows it is small
    activations = sum(storage.nbytes() for storage in kept.values())
    return _SLACK * (activations + 4 * _parameter_bytes(settings))


def _rerank(settings: TrainConfig, device: torch.device, needs: Needs) -> None:
    counts = needs.counts.get(str(settings.dataset["root"]))
    if counts is None or not settings.eval.rerank:
        return
    channels = _bare_model(settings).embedding_size
    try:
        check_memory(counts.query, counts.gallery, channels, settings.eval, device)
    except EvaluationError as error:
        needs.missing.append(f"memory: {error}")


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
