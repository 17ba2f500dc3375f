"""From images to embeddings, and from embeddings to scores."""

import torch

from reid.data.batches import plain_batches
from reid.data.crops import Progress, silent
from reid.data.store import ImageStore
from reid.engine.distributed import ALONE, World
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
    world: World = ALONE,
) -> Embeddings:
    """The embeddings (N, C) of every image of `store`, float32 on `device`; the model's mode is restored.

    `normalise` divides each by its L2 norm; then the squared Euclidean distance that `evaluate` ranks by
    orders as the cosine does.  `flip` takes the mean of the features of each image and its mirror image
    before that.  The ranks of a `world` deal the batches out among them, and each gets all embeddings.
    """
    training = model.training
    model.eval()
    parts: list[torch.Tensor] = []
    count = len(range(world.rank, -(-len(store) // batch), world.size))
    batches = plain_batches(store, batch, device, world.share)
    for images in progress(batches, count, f"embedding {what}"):
        with autocast(device, precision):
            features = model(images).float()
            if flip:
                features = (features + model(images.flip(3)).float()) / 2
        parts.append(features)
    model.train(training)
    mine = torch.cat(parts) if parts else torch.empty(0, model.backbone.channels, device=device)
    features = world.collect(mine, len(store), batch)
    embeddings = Embeddings(features, store.pids.to(device), store.camids.to(device))
    return embeddings.normalised() if normalise else embeddings
