"""From images to embeddings, and from embeddings to scores."""

import torch

from reid.data.batches import plain_batches
from reid.data.crops import Progress, silent
from reid.data.image_store import ImageStore
from reid.engine.compute import Compute
from reid.models import ReidModel
from reid.retrieval import Embeddings


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
    embeddings = Embeddings(features, store.pids.to(device), store.camids.to(device))
    return embeddings.normalised() if normalise else embeddings
