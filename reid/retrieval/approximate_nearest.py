"""Neighbours in a set too large for all pairs: faiss's inverted lists.

The images are divided into cells by k-means, and each image is compared with those of the cells that lie
nearest to it (Johnson et al., "Billion-scale similarity search with GPUs", arXiv 1702.08734). Features stay
whole: only the choice of whom to compare with is approximate. `pip install '.[search]'` brings faiss.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reid.distance import squared_euclidean, squared_norms
from reid.retrieval.nearest import CHUNK_BYTES

#: Cells that are compared with an image's own neighbours, as a share of all and at least.
_OPENED, _LEAST_OPENED = 1 / 32, 8
#: Images that k-means learns the cells from, for each cell; faiss wants 39 or more.
_LEARNT_FROM = 64
#: Images among which the farthest one is looked for.
_SAMPLE = 4096


def approximate_nearest(
    features: Tensor, count: int, chunk_bytes: int = CHUNK_BYTES
) -> tuple[Tensor, Tensor]:
    """As `nearest_images`: neighbours (N, min(count, N)) int64 of each image, itself first, and the largest
    squared distance, (N,).

    Some neighbours may be missed, and then the next nearest stand in their place. The largest distance is
    that to a sample of 4,096 images, the same in each call. The distances themselves are exact. Images that
    find too few neighbours in the cells that were opened are compared with all.
    """
    import faiss

    images, dimensions = features.shape
    count = min(count, images)
    rows = features.float().cpu().contiguous().numpy()
    cells = max(1, min(round(4 * math.sqrt(images)), images // _LEARNT_FROM))
    quantiser = faiss.IndexFlatL2(dimensions)
    index = faiss.IndexIVFFlat(quantiser, dimensions, cells, faiss.METRIC_L2)
    index.cp.seed, index.cp.max_points_per_centroid = 0, _LEARNT_FROM
    index.train(rows)
    index.add(rows)
    index.nprobe = min(cells, max(_LEAST_OPENED, round(cells * _OPENED)))
    _, found = index.search(rows, min(images, count + 1))
    near = torch.from_numpy(found).to(features.device)

    # Itself first: of images with equal features faiss may list another one before it, or not list it.
    own = torch.arange(images, device=features.device)[:, None]
    others = near != own
    order = others.to(torch.int8).argsort(dim=1, stable=True)  # itself, then the others as they come
    near = torch.where(others.all(dim=1, keepdim=True), near.roll(1, dims=1), near.gather(1, order))
    near[:, 0] = own[:, 0]
    near = near[:, :count]
    norms = squared_norms(features)
    farthest = features.new_empty(images)
    sample = torch.linspace(0, images - 1, min(images, _SAMPLE), device=features.device).long()
    chosen, chosen_norms = features[sample], norms[sample]
    for part in own[:, 0].split(max(1, chunk_bytes // (4 * features.element_size() * len(sample)))):
        farthest[part] = squared_euclidean(
            features[part], chosen, chosen_norms, a_squared_norms=norms[part]
        ).amax(dim=1)
    missing = (near < 0).any(dim=1).nonzero().flatten()
    for part in missing.split(max(1, chunk_bytes // (4 * features.element_size() * images))):
        distance = squared_euclidean(features[part], features, norms, a_squared_norms=norms[part])
        distance.scatter_(1, part[:, None], -torch.inf)
        near[part] = distance.sort(dim=1, stable=True).indices[:, :count]
    return near, torch.where(farthest > 0, farthest, 1)
