"""From images to embeddings, and from embeddings to scores."""

import torch

from reid.data.batches import plain_batches
from reid.data.crops import Progress, silent
from reid.data.store import ImageStore
from reid.engine.runtime import autocast
from reid.models import ReidModel
from reid.retrieval import Embeddings


@torch.inference_mode()
def embed(
    model: ReidModel,
    store: ImageStore,
    device: torch.device,
    *,
    normalise: bool,
    flip: bool = False,
    batch: int = 128,
    precision: str = "float32",
    progress: Progress = silent,
    what: str = "images",
) -> Embeddings:
    """The embeddings (N, C) of every image of `store`, float32 on `device`; the model's mode is restored.

    `normalise` divides each by its L2 norm; then the squared Euclidean distance that `evaluate` ranks by
    orders as the cosine does.  `flip` takes the mean of the features of each image and its mirror image
    before that.
    """
    training = model.training
    model.eval()
    parts: list[torch.Tensor] = []
    count = -(-len(store) // batch)
    for images in progress(plain_batches(store, batch, device), count, f"embedding {what}"):
        with autocast(device, precision):
            features = model(images).float()
            if flip:
                features = (features + model(images.flip(3)).float()) / 2
        parts.append(features)
    model.train(training)
    embeddings = Embeddings(torch.cat(parts), store.pids.to(device), store.camids.to(device))
    return embeddings.normalised() if normalise else embeddings
