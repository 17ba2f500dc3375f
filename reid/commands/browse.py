"""A page on what a model does: its queries judged, or an index opened, and served until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image

from reid.commands.camera_choice import NO_CAMERA_SAID, choose_camera
from reid.commands.compare import expectation
from reid.commands.index import model_of
from reid.config.checks import ConfigError
from reid.config.schema import DataConfig, EvalConfig, ImageConfig, register
from reid.config.settings import as_trained
from reid.data import Crop, ReidDataset
from reid.data.augment import normalise_pixels
from reid.data.batches import to_device
from reid.data.crops import Progress
from reid.data.files import in_threads
from reid.data.image_store import open_store
from reid.data.pictures import upright
from reid.distance import distance_function
from reid.engine.card import model_card
from reid.engine.checkpoint import Checkpoint
from reid.engine.checkpoint_source import trained_dataset, with_data_now
from reid.engine.compute import Compute
from reid.engine.prepare import JudgedData, check_judgeable, open_judged_data, with_protocol_of
from reid.errors import UsageError
from reid.gallery import Index
from reid.gallery.page import HOST, Guard, listen, make_app, server
from reid.gallery.thumbnails import Thumbnails
from reid.gallery.views import UNKNOWN, Background, Crops, Labels, Look, Views
from reid.home import home
from reid.inference import TrainedModel, load_model
from reid.jobs.console import ConsoleProgress
from reid.judging.activation import activation_map
from reid.judging.domains import label_of, read_domain, same_cameras
from reid.judging.embed import embed
from reid.judging.judge import score
from reid.judging.review import Suspect, review_queries, suspects
from reid.judging.stored_threshold import FeatureSpace, StoredThreshold, ThresholdError
from reid.people import DISTRACTOR
from reid.retrieval import Embeddings, EvaluationError, evaluate
from reid.terminal import Terminal

#: A picture -> its feature (C,).
Embedder: TypeAlias = Callable[[Image.Image], np.ndarray]
#: Doubted pairs of each kind that are listed.
DOUBTS = 200
#: Images of an index among which doubted labels are looked for: all are compared with all.
MOST_DOUBTED = 50_000


def run(options: argparse.Namespace, dataset: ReidDataset | None) -> int:
    """What `python -m reid.browse` does with its options and the dataset that they name; the exit code.

    Raises:
        UsageError: the checkpoint, the data or the index cannot be used.
        OSError: the port is taken, or the disk fails.
    """
    listener = listen(options.port)  # a port that is taken is told at once
    terminal = Terminal(stderr=True, soft_wrap=True)
    progress = ConsoleProgress(terminal)
    Compute.set_up(options.device)
    with listener:
        if options.gallery is not None:
            views = views_of_index(options)
        else:
            views = views_of_runs(options, dataset, progress)
        port = listener.getsockname()[1]
        guard = Guard(make_app(views, Thumbnails(views.crops.paths)), port)
        address = f"http://{HOST}:{port}/?token="
        for note in views.notes:
            terminal.print(note, highlight=False)
        listener.listen()  # who opens the address before the server runs waits for it
        print(f"{views.title}: {address}{guard.token}  (on this machine alone; Ctrl-C ends it)", flush=True)
        serving = server(guard)
        if not options.no_open and _has_screen():
            threading.Timer(0.5, webbrowser.open, [address + guard.ticket()]).start()
        # The server ends in order by itself; what it raises again afterwards is no news.
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, lambda *_: None)
        serving.run(sockets=[listener])
    print("the page is closed", flush=True)
    return 0


def _has_screen() -> bool:
    """Whether a browser can open a window: else one in the terminal might take it over."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


# ---- a dataset, as one or two models see it


def views_of_runs(options: argparse.Namespace, dataset: ReidDataset | None, progress: Progress) -> Views:
    """Query and gallery of a dataset, embedded and judged by the model, and by a second one."""
    model = load_model(options.run, options.device)
    models = [model] + ([load_model(options.against, options.device)] if options.against else [])
    register()
    places = OmegaConf.create({"data": OmegaConf.structured(DataConfig)}).data
    data = DataConfig(places.root, places.store, on_bad_image="skip")
    evaluation = replace(
        as_trained(EvalConfig(), model.meta["eval"], []), rerank=False, query_expansion=0, tracklets=False
    )
    keys: dict[str, Any] | None = None  # unknown, where a dataset is named: whose cameras it has, too
    if dataset is None:
        checkpoint = with_data_now(Checkpoint({}, model.meta, {}), data.root)
        keys = trained_dataset(checkpoint)
        domain = read_domain(keys, checkpoint.meta["dataset"], evaluation, progress)
        dataset, evaluation = domain.dataset, domain.evaluation
    else:
        evaluation = with_protocol_of(dataset, replace(evaluation, split="test"), ())
        check_judgeable(dataset, evaluation)
    if options.camera is not None and not any(one.cameras for one in models):
        choose_camera(model, options.camera, NO_CAMERA_SAID)  # refuses it
    looks: list[Look] = []
    notes: list[str] = []
    for name, one in zip(_names(models), models, strict=True):
        how = replace(
            as_trained(evaluation, one.meta["eval"], []),
            rerank=False, query_expansion=0, split=evaluation.split, protocol=evaluation.protocol,
            tracklets=False, cameras=keys is not None and same_cameras(keys, one.meta["dataset"]),
        )  # fmt: skip
        image = ImageConfig(one.height, one.width)
        judged = open_judged_data(dataset, image, data, progress, how.protocol)
        crops = crops_of(dataset, judged)
        embed_picture, note = picture_search(one, options.camera if one.cameras else None)
        notes += [note] if note and note not in notes else []
        looks.append(look_of(one, name, judged, crops, how, embed_picture, progress))
    if bad := judged.query.bad:
        notes.append(f"{len(bad):,} images cannot be read and are left out, first {bad[0]}.")
    return Views(
        title=f"{looks[0].name} on {dataset.name}, {evaluation.split} split",
        crops=crops,
        looks=looks,
        labels=labels_of(options.corrections, model, looks[0], dataset, crops, data),
        notes=notes,
    )


def _names(models: Sequence[TrainedModel]) -> list[str]:
    """What to call each: the folder of its run, or its file; the MLflow run id that was asked for."""
    found = []
    for model in models:
        path = Path(model.name)
        own = path.resolve().parent.name if path.name in ("model.pt", "last.pt") else path.stem
        found.append(own or model.name)
    return found if len(set(found)) == len(found) else [model.name for model in models]


def crops_of(dataset: ReidDataset, judged: JudgedData) -> Crops:
    """The query, the gallery and the training crops, numbered one after the other."""
    end = len(judged.query) + len(judged.gallery)
    crops = judged.query.crops + judged.gallery.crops + dataset.train
    return Crops(
        paths=[crop.path for crop in crops],
        names=[_name(crop, dataset.root) for crop in crops],
        pids=np.array([crop.pid for crop in crops], np.int64),
        camids=np.array([crop.camid for crop in crops], np.int64),
        tracklets=np.array([UNKNOWN if crop.tracklet is None else crop.tracklet for crop in crops], np.int64),
        queries=len(judged.query),
        gallery=len(judged.query),
        end=end,
        people=dataset.names,
    )


def _name(crop: Crop, root: Path) -> str:
    return crop.path.relative_to(root).as_posix() if crop.path.is_relative_to(root) else str(crop.path)


def look_of(
    model: TrainedModel,
    name: str,
    judged: JudgedData,
    crops: Crops,
    how: EvalConfig,
    embed_picture: Embedder | None,
    progress: Progress,
) -> Look:
    """A model judged on query and gallery. Crops of its training are embedded when they are asked for."""
    compute = Compute(model.device)
    raw, gallery = (
        embed(
            model.model, store, compute, normalise=normalise, flip=how.flip, cameras=how.cameras,
            batch=how.batch, progress=progress, what=what,
        )
        for store, normalise, what in (
            (judged.query, False, "query"), (judged.gallery, model.space.feature_norm, "gallery"),
        )
    )  # fmt: skip
    query = raw.normalised() if model.space.feature_norm else raw
    query, gallery = query.to("cpu"), gallery.to("cpu")
    scores = score(query, gallery, how).scores
    threshold, note = usable_threshold(model.threshold, model.space)
    with in_threads(_size, crops.paths[: crops.queries]) as found:
        sizes = torch.tensor([size or (model.height, model.width) for size in found])
    reviews = review_queries(
        query, gallery, protocol=how.protocol, metric=how.metric, threshold=threshold, sizes=sizes,
        strengths=raw.features.norm(dim=1), top=0,
    )  # fmt: skip
    embedded = torch.cat([query.features, gallery.features])
    distance = distance_function(how.metric)

    def nearest(one: np.ndarray, _: int) -> tuple[np.ndarray, np.ndarray]:
        distances = distance(torch.from_numpy(one)[None], embedded[len(query) :])[0].numpy()
        order = np.argsort(distances, kind="stable")
        return order, distances[order]

    def features(rows: np.ndarray) -> np.ndarray:
        if rows.max(initial=-1) < len(embedded):
            return embedded[torch.from_numpy(rows)].numpy()
        camids = [camid if camid in model.cameras else None for camid in crops.camids[rows].tolist()]
        return model.embed([crops.paths[row] for row in rows], camids=camids if how.cameras else None).numpy()

    return Look(
        name=name,
        space=model.space.describe(),
        threshold=threshold,
        note=note,
        features=features,
        nearest=nearest,
        cross_camera=how.protocol == "cross_camera",
        precision=scores.average_precision.numpy(),
        first=scores.first_match.numpy(),
        kinds=[str(review.kind) for review in reviews],
        by_camera=by_camera(query, gallery, how.protocol, progress),
        scores={"mAP": scores.mAP, "rank-1": scores.rank(1)},
        embed=embed_picture,
        activation=activation_of(model),
        card=model_card(model.meta),
    )


def picture_search(model: TrainedModel, camera: str | None) -> tuple[Embedder | None, str]:
    """What embeds a picture that is searched for; or None and why none can be.

    Raises:
        ConfigError: the camera that was named is none of the model's.
    """
    try:
        choice = choose_camera(model, camera, NO_CAMERA_SAID)
    except ConfigError as refusal:
        if camera is not None:
            raise
        return None, f"Pictures cannot be searched for: {refusal}."
    camids = choice.camids([None])
    return lambda image: model.embed([image], camids=camids).numpy()[0], ""


def usable_threshold(stored: StoredThreshold | None, space: FeatureSpace) -> tuple[float | None, str]:
    """A threshold and its expected error rates; or None, and why."""
    if stored is None:
        return None, "No threshold is stored: python -m reid.threshold measures one."
    try:
        stored.check(space)
    except ThresholdError as refusal:
        return None, str(refusal)
    return stored.value, expectation(stored)


def by_camera(
    query: Embeddings, gallery: Embeddings, protocol: str, progress: Progress
) -> dict[int, np.ndarray]:
    """Camera of the gallery -> the queries' average precision (Q,) among its images alone."""
    cameras = torch.unique(gallery.camids).tolist()
    if len(cameras) == 1:
        return {}
    found = {}
    for camera in progress(cameras, len(cameras), "ranking camera by camera"):
        try:
            scores = evaluate(
                query, gallery.select(gallery.camids == camera), protocol=protocol, distractor=DISTRACTOR
            )
        except EvaluationError:  # nobody is looked for there
            continue
        found[int(camera)] = scores.average_precision.numpy()
    return found


def _size(path: Path) -> tuple[int, int] | None:
    """Height and width of a picture, from its head."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception:  # gone or damaged by now, which its thumbnail will say
        return None


def activation_of(model: TrainedModel) -> Callable[[Image.Image], np.ndarray]:
    """A picture -> where the feature that a model gives it comes from, (H, W) in 0 to 1."""
    lock = threading.Lock()

    def activation(image: Image.Image) -> np.ndarray:
        resized = upright(image).resized(model.height, model.width)
        pixels = torch.from_numpy(resized.copy()).permute(2, 0, 1)[None]
        with lock:
            normalised = normalise_pixels(to_device(pixels, model.device), model.model.normalisation)
            return activation_map(model.model, normalised).numpy()

    return activation


# ---- an index


def views_of_index(options: argparse.Namespace) -> Views:
    """The images of an index; each is looked for among the others."""
    index = Index.open(options.gallery)
    number = len(index)
    pids, people = _people(index)
    camids = np.array([UNKNOWN if one is None else one for one in index.column("camid")], np.int64)
    paths = [index.place(row) for row in range(number)]
    crops = Crops(paths, _shortened(paths), pids, camids, number, 0, number, people)
    model, note = _model_of(index, options)
    embed_picture: Embedder | None = None
    if model is not None:
        embed_picture, note = picture_search(model, options.camera)
    facts = index.facts
    threshold, expected = usable_threshold(facts.threshold, facts.space)

    def nearest(one: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        hits = index.search(one[None], min(count, number))
        there = hits.rows[0] >= 0
        return hits.rows[0][there], hits.distances[0][there]

    look = Look(
        name=index.folder.name,
        space=facts.space.describe(),
        threshold=threshold,
        note=expected,
        features=index.features,
        nearest=nearest,
        cross_camera=False,
        embed=embed_picture,
        activation=None if model is None else activation_of(model),
        card="" if model is None else model_card(model.meta),
    )

    def doubts(_: Progress) -> Sequence[Suspect]:
        known = np.flatnonzero(pids != UNKNOWN)
        arrays = index.features(known), pids[known], camids[known]
        images = Embeddings(*map(torch.from_numpy, arrays))
        found = suspects(images, metric=facts.space.metric, threshold=threshold, count=DOUBTS)
        return [replace(one, first=int(known[one.first]), second=int(known[one.second])) for one in found]

    labelled = 0 < int((pids != UNKNOWN).sum()) <= MOST_DOUBTED
    return Views(
        title=f"index {index.folder.name}",
        crops=crops,
        looks=[look],
        labels=Labels(
            {"the index": Background(doubts)} if labelled else {},
            options.corrections or _corrections(index.folder.name),
            None,
        ),
        notes=[note] if note else [],
    )


def _people(index: Index) -> tuple[np.ndarray, dict[int, str]]:
    """The pid of each row, UNKNOWN where nothing is said of it, and the names of those that have one.

    A person who has but a name gets a number behind all pids.
    """
    rows = list(zip(index.column("pid"), index.column("name"), strict=True))
    free = 1 + max((pid for pid, _ in rows if pid is not None), default=0)
    named = sorted({name for pid, name in rows if pid is None and name is not None})
    number = {name: free + place for place, name in enumerate(named)}
    pids = [number.get(name, UNKNOWN) if pid is None else pid for pid, name in rows]
    people = {pid: name for pid, (_, name) in zip(pids, rows, strict=True) if name is not None}
    return np.array(pids, np.int64), people


def _model_of(index: Index, options: argparse.Namespace) -> tuple[TrainedModel | None, str]:
    """The model that the index was made with, or None and why pictures cannot be searched for.

    Raises:
        IndexFault: the user has named another one.
    """
    name = options.run or index.checkpoint
    if name is None:
        return None, "The index does not say which checkpoint it was made with: name it too."
    try:
        return model_of(index, name, options.device), ""
    except UsageError as error:
        if options.run:
            raise
        return None, f"Pictures cannot be searched for, since the model of the index is not there: {error}"


def _shortened(paths: Sequence[Path]) -> list[str]:
    """The paths from the last folder on that all of them are in."""
    shared = os.path.commonpath([path.parent for path in paths]) if paths else ""
    return [os.path.relpath(path, shared) for path in paths]


# ---- labels


def labels_of(
    file: Path | None, model: TrainedModel, look: Look, dataset: ReidDataset, crops: Crops, data: DataConfig
) -> Labels:
    """Where the model doubts labels: among those that it was judged on, and those that it was trained on."""
    metric = model.space.metric

    def of_judged(_: Progress) -> Sequence[Suspect]:
        rows = np.arange(crops.end)
        images = Embeddings(
            *map(torch.from_numpy, (look.features(rows), crops.pids[rows], crops.camids[rows]))
        )
        return suspects(images, metric=metric, threshold=look.threshold, count=DOUBTS)

    def of_trained(progress: Progress) -> Sequence[Suspect]:
        store = open_store(
            dataset.train, model.height, model.width, Path(data.store), "skip", progress, "training images"
        )
        images = embed(
            model.model, store, Compute(model.device), normalise=model.space.feature_norm,
            flip=model.space.flip, cameras=False, progress=progress, what="training images",
        )  # fmt: skip
        images = Embeddings(images.features.cpu(), images.pids.cpu(), images.camids.cpu())
        number = {path: crops.end + row for row, path in enumerate(crops.paths[crops.end :])}
        found = suspects(images, metric=metric, threshold=look.threshold, count=DOUBTS)
        paths = [crop.path for crop in store.crops]
        return [
            replace(one, first=number[paths[one.first]], second=number[paths[one.second]]) for one in found
        ]

    sources: dict[str, Background[Sequence[Suspect]]] = {"query and gallery": Background(of_judged)}
    if dataset.train:
        sources["training crops"] = Background(of_trained)
    return Labels(sources, file or _corrections(f"{dataset.name}_{dataset.root.name}"), dataset.root)


def _corrections(name: str) -> Path:
    return home() / "outputs" / "corrections" / f"{label_of(name)}.csv"
