"""From images to embeddings, and from embeddings to scores."""

import torch

from reid.config.schema import EvalConfig
from reid.data.batches import plain_batches
from reid.data.crops import Progress, silent
from reid.data.image_store import ImageStore
from reid.engine.compute import Compute
from reid.models import ReidModel
from reid.retrieval import Embeddings, EvaluationError, pool_tracklets


@torch.inference_mode()
def embed(
    model: ReidModel,
    store: ImageStore,
    compute: Compute,
    *,
    normalise: bool,
    flip: bool = False,
    cameras: bool = True,
    batch: int = 128,
    progress: Progress = silent,
    what: str = "images",
) -> Embeddings:
    """The embeddings (N, C) of every image of `store`, float32 on the device; the model's mode is restored.

    `normalise` divides each by its L2 norm; then the squared Euclidean distance that `evaluate` ranks by
    orders as the cosine does.  `flip` takes the mean of the features of each image and its mirror image
    before that.  `cameras` lets a model that has learnt cameras know those of the images; else it takes them
    for images of no camera.  Several processes deal the batches out among them, and each gets all embeddings.
    """
    training = model.training
    model.eval()
    parts: list[torch.Tensor] = []
    device, processes = compute.device, compute.processes
    count = len(range(processes.number, -(-len(store) // batch), processes.count))
    batches = plain_batches(store, batch, device, processes.share, compute.copy_stream, model.normalisation)
    camids = iter(store.camids.split(batch)[processes.number :: processes.count])
    for images in progress(batches, count, f"embedding {what}"):
        known = next(camids).to(device) if cameras and model.cameras else None
        with compute.autocast():
            features = model(images, known).float()
            if flip:
                features = (features + model(images.flip(3), known).float()) / 2
        parts.append(features)
    model.train(training)
    mine = torch.cat(parts) if parts else torch.empty(0, model.embedding_size, device=device)
    features = processes.collect(mine, len(store), batch)
    tracklets = store.tracklets
    embeddings = Embeddings(
        features, store.pids.to(device), store.camids.to(device),
        None if tracklets is None else tracklets.to(device),
    )  # fmt: skip
    return embeddings.normalised() if normalise else embeddings


def embed_as(
    model: ReidModel,
    store: ImageStore,
    compute: Compute,
    settings: EvalConfig,
    *,
    progress: Progress = silent,
    what: str = "images",
) -> Embeddings:
    """The embeddings of `store` as the settings ask: one row an image, or one a tracklet (`eval.tracklets`).

    The features of the frames are normalised before they are pooled, and the result is again, where features
    are normalised at all. The weight of a frame under `eval.tracklet_pooling=quality` is the length of its
    feature before that.

    Raises:
        EvaluationError: a frame to be weighted has a feature of length 0.
    """
    unit = normalises(settings)
    raw = embed(
        model, store, compute, normalise=unit and not settings.tracklets, flip=settings.flip,
        cameras=settings.cameras, batch=settings.batch, progress=progress, what=what,
    )  # fmt: skip
    if not settings.tracklets:
        return raw
    weights = None
    if settings.tracklet_pooling == "quality":
        weights = raw.features.double().norm(dim=1)
        if not bool((weights > 0).all()):
            raise EvaluationError(
                "eval.tracklet_pooling=quality weights a frame by the length of its feature, and some "
                "features "
                "have the length 0. Set eval.tracklet_pooling=mean"
            )
    frames = raw.normalised() if unit else raw
    return pool_tracklets(frames, settings.tracklet_pooling, weights, normalised=unit)


def normalises(settings: EvalConfig) -> bool:
    """Whether features are divided by their L2 norm, which the cosine implies."""
    return settings.feature_norm or settings.metric == "cosine"
