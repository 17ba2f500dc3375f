"""The data of a run: read, checked, decoded."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from reid.config.checks import ConfigError
from reid.config.schema import DataConfig, EvalConfig, ImageConfig, TrainConfig
from reid.config.settings import check_identities
from reid.data import Crop, ReidDataset, load_dataset
from reid.data.crops import DatasetError, Progress
from reid.data.division import validation_split
from reid.data.doubles import find_doubles
from reid.data.image_store import ImageStore, open_store
from reid.data.sizes import largest_size
from reid.people import NO_TRACKLET
from reid.retrieval import MatchCounts, count_matches, middle_frames, require_matches

log = logging.getLogger(__name__)

#: What the features of a tracklet's frames become.
_POOLED = {"mean": "mean", "max": "maximum", "quality": "mean, weighted by length,"}
#: What the tracker shows of data that name no cameras.
CAMERAS_UNKNOWN = "unknown; judged by ignore_camera"


@dataclass(frozen=True)
class JudgedData:
    """Query and gallery, and a hash of their content."""

    query: ImageStore
    gallery: ImageStore
    fingerprint: str

    def rows_of(self, settings: EvalConfig) -> "JudgedData":
        """The images that stand for the rows of a judgement: of each tracklet the middle frame, where
        tracklets are judged."""
        if not settings.tracklets:
            return self
        query, gallery = (_middle_frames(store) for store in (self.query, self.gallery))
        return replace(self, query=query, gallery=gallery)


@dataclass(frozen=True)
class TrainingData:
    """`labels` (N,) count the identities of `pids` from 0, in the order of the pids."""

    store: ImageStore
    labels: torch.Tensor
    pids: tuple[int, ...]
    fingerprint: str


def read_dataset(
    settings: TrainConfig, progress: Progress, overrides: Sequence[str] = ()
) -> tuple[ReidDataset, tuple[Crop, ...], EvalConfig]:
    """The dataset of a run, split as `eval.split` asks; its training crops before that and before any
    corrections; how it is judged.

    It is refused if it cannot be trained or judged on.  It is judged as the settings ask, by the protocol
    that the data allow, see `with_protocol_of`; `overrides` are what was typed.

    Raises:
        DatasetError, ConfigError, EvaluationError: what is wrong and what to do.
    """
    whole = load_dataset(**settings.dataset, progress=progress)
    dataset = split_for(whole, settings)
    evaluation = with_protocol_of(dataset, settings.eval, overrides)
    check_judgeable(dataset, evaluation)
    return dataset, whole.uncorrected or whole.train, evaluation


def split_for(dataset: ReidDataset, settings: TrainConfig) -> ReidDataset:
    """`dataset` split as `eval.split` asks, refused where it has too few people for a batch.

    Raises:
        DatasetError, ConfigError: too few to hold out, or to train on.
    """
    if not dataset.train:
        raise DatasetError(
            f"{dataset.name} in {dataset.root} has nobody to train on, only a query and a gallery: python -m "
            "reid.evaluate and reid.threshold judge a trained model on it. To train, add people to it "
            "(bounding_box_train/, train/, or rows of the split train)"
        )
    if settings.eval.split == "val":
        dataset = validation_split(dataset, settings.eval.val_identities, settings.eval.val_seed)
    check_identities(settings.batch.identities, len({crop.pid for crop in dataset.train}), dataset.name)
    if settings.batch.cameras == "balanced":
        check_balanced(dataset.train, dataset.name)
    if settings.backbone.get("cameras"):
        check_learnt_cameras(dataset, settings.backbone["cameras"])
    return dataset


def check_balanced(crops: Sequence[Crop], dataset: str) -> None:
    """Raises DatasetError where nobody was seen by two cameras, so that there is nothing to balance."""
    if len({(crop.pid, crop.camid) for crop in crops}) == len({crop.pid for crop in crops}):
        raise DatasetError(
            f"batch.cameras=balanced does not fit {dataset}: nobody in it was seen by two cameras, or it "
            "names no cameras. Set batch.cameras=any, or name the cameras (reid/data/README.md says how)"
        )


def check_learnt_cameras(dataset: ReidDataset, cameras: bool | int | Sequence[int]) -> None:
    """Raises DatasetError where the training set shows no cameras to learn, or others than `cameras`."""
    seen = {crop.camid for crop in dataset.train}
    if not dataset.cameras or len(seen) < 2:
        why = "has no camera ids" if not dataset.cameras else "has a single camera to train on"
        raise DatasetError(
            f"backbone.cameras={cameras} does not fit {dataset.name}, which {why}: there is nothing to tell "
            "apart. Set backbone.cameras=null, or name the cameras (reid/data/README.md says how)"
        )
    known = seen if cameras is True else range(cameras) if isinstance(cameras, int) else cameras
    if beyond := sorted(seen.difference(known)):
        raise DatasetError(
            f"backbone.cameras={cameras} leaves out {', '.join(map(str, beyond))} of the camids that "
            f"{dataset.name} has to train on ({min(seen)} to {max(seen)}): set backbone.cameras=true, which "
            "takes them all"
        )


def with_protocol_of(dataset: ReidDataset, settings: EvalConfig, overrides: Sequence[str]) -> EvalConfig:
    """`settings` with the protocol ignore_camera where the cameras are unknown and no protocol was typed.

    cross_camera leaves out what the query's own camera saw, and without cameras that is everything.
    `tracklets` is decided too: null judges per tracklet where the query or the gallery names tracklets.

    Raises:
        DatasetError: eval.tracklets=true, and there are none.
    """
    settings = _with_tracklets_of(dataset, settings)
    typed = any(word.lstrip("+").startswith("eval.protocol=") for word in overrides)
    if dataset.cameras or typed or settings.protocol == "ignore_camera":
        return settings
    log.warning(
        "%s has no camera ids, so it is judged by eval.protocol=ignore_camera: scores by it are higher than "
        "across cameras, and not to be compared with those",
        dataset.name,
    )
    return replace(settings, protocol="ignore_camera")


def _with_tracklets_of(dataset: ReidDataset, settings: EvalConfig) -> EvalConfig:
    named = any(crop.tracklet is not None for crop in dataset.query + dataset.gallery)
    if settings.tracklets and not named:
        raise DatasetError(
            f"eval.tracklets=true does not fit {dataset.name}, which names no tracklets. Give a table a "
            "column "
            "tracklet (reid/data/README.md says how), or leave eval.tracklets out"
        )
    if settings.tracklets is None and named:
        log.warning(
            "%s names tracklets, so it is judged per tracklet: queries and gallery are tracklets, each "
            "the %s of its "
            "frames' features. eval.tracklets=false judges single images",
            dataset.name,
            _POOLED[settings.tracklet_pooling],
        )
    return replace(settings, tracklets=True) if settings.tracklets is None and named else settings


def check_judgeable(dataset: ReidDataset, settings: EvalConfig) -> None:
    """Raises EvaluationError if no query of `dataset` has a match under the protocol."""
    require_matches(matches_of(dataset.query, dataset.gallery, settings.protocol), settings.protocol)


def open_training_data(
    dataset: ReidDataset, settings: TrainConfig, progress: Progress, all_crops: tuple[Crop, ...]
) -> TrainingData:
    """The training crops, decoded; `all_crops` are those that the store holds, with a held-out part and with
    what corrections leave out."""
    whole = _open(all_crops, stored_image(settings.image), settings.data, progress, "training images")
    store = whole.subset(dataset.train)
    pids = tuple(sorted({crop.pid for crop in store.crops}))
    if settings.batch.identities > len(pids):
        raise ConfigError(
            f"batch.identities={settings.batch.identities} is larger than the {len(pids)} identities left "
            f"after {len(whole.bad)} unreadable images were skipped. Set {len(pids)} or less."
        )
    label_of = {pid: label for label, pid in enumerate(pids)}
    labels = torch.tensor([label_of[crop.pid] for crop in store.crops])
    content = _labelled(store)
    if dataset.corrections:  # which images are left; a verdict that changes nothing makes no other data
        content = fingerprint(content, *map(str, store.rows))
    return TrainingData(store, labels, pids, content)


def stored_image(image: ImageConfig) -> ImageConfig:
    """The size of the training images in their store: the largest that the run trains at."""
    if not image.sizes:
        return image
    height, width = largest_size(image.sizes)
    return replace(image, height=height, width=width)


def open_judged_data(
    dataset: ReidDataset,
    image: ImageConfig,
    data: DataConfig,
    progress: Progress,
    protocol: str | None = None,
) -> JudgedData:
    """The query and the gallery, decoded into one store.

    Raises:
        EvaluationError: images could not be read, and of the rest no query has a match under `protocol`
            (None: they are not ranked).
    """
    # A query may stand in the gallery too, as those of MARS do: it is decoded once.
    crops = tuple({crop.path: crop for crop in dataset.query + dataset.gallery}.values())
    whole = _open(crops, image, data, progress, "query and gallery images")
    query, gallery = whole.subset(dataset.query), whole.subset(dataset.gallery)
    if whole.bad and protocol is not None:
        require_matches(matches_of(query.crops, gallery.crops, protocol), protocol)
    if protocol == "ignore_camera":
        warn_of_doubles(query.crops, gallery.crops)
    return JudgedData(query, gallery, fingerprint(_labelled(query), _labelled(gallery)))


def warn_of_doubles(query: Sequence[Crop], gallery: Sequence[Crop]) -> None:
    """Say which queries lie in the gallery too, where no camera tells a picture from itself."""
    doubles = find_doubles(query, gallery, cross_camera=False)
    if doubles:
        log.warning(
            "%d of %d queries have their own picture, the same bytes, in the gallery (%s = %s): by "
            "ignore_camera a picture is compared with itself, and the scores promise too much (rank-1 is 100 "
            "where all have). Take these images out of the gallery, or name the cameras",
            len(doubles),
            len(query),
            doubles[0].query.path,
            doubles[0].gallery.path,
        )


def data_fingerprint(settings: TrainConfig, progress: Progress, overrides: Sequence[str] = ()) -> str:
    """The fingerprint of the data that a run of this config has now; what no store holds is decoded."""
    dataset, all_training_crops, _ = read_dataset(settings, progress, overrides)
    data = open_training_data(dataset, settings, progress, all_training_crops)
    judged = open_judged_data(dataset, settings.image, settings.data, progress)
    return fingerprint(data.fingerprint, judged.fingerprint)


def fingerprint(*parts: str) -> str:
    """16 hex digits over these texts, in their order."""
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def _labelled(store: ImageStore) -> str:
    """The bytes of the images, and whom and which camera each is said to show."""
    labels = [
        f"{crop.pid},{crop.camid}" + ("" if crop.tracklet is None else f",{crop.tracklet}")
        for crop in store.crops
    ]
    return fingerprint(store.content, *labels)


def _middle_frames(store: ImageStore) -> ImageStore:
    if store.tracklets is None:
        return store
    rows = middle_frames(store.tracklets)
    return replace(
        store, crops=tuple(store.crops[row] for row in rows.tolist()), rows=store.rows[rows.numpy()]
    )


def _open(
    crops: tuple[Crop, ...], image: ImageConfig, data: DataConfig, progress: Progress, what: str
) -> ImageStore:
    folder = Path(data.store)
    store = open_store(crops, image.height, image.width, folder, data.on_bad_image, progress, what)
    for path in store.bad[:50]:
        log.warning("left out, since it cannot be read: %s", path)
    return store


def matches_of(query: Sequence[Crop], gallery: Sequence[Crop], protocol: str) -> MatchCounts:
    """How many gallery images show the person of each query, before any of them is embedded."""

    def ids(crops: Sequence[Crop]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows = [
            (crop.pid, crop.camid, NO_TRACKLET if crop.tracklet is None else crop.tracklet) for crop in crops
        ]
        pids, camids, tracklets = torch.tensor(rows, dtype=torch.int64).reshape(-1, 3).unbind(1)
        return pids, camids, tracklets

    (pids, camids, tracklets), (others, cameras, theirs) = ids(query), ids(gallery)
    return count_matches(
        pids, camids, others, cameras, protocol, query_tracklets=tracklets, gallery_tracklets=theirs
    )
