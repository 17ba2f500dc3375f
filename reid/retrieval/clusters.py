"""Crops grouped by likeness, as a stand-in for the people that nobody has named.

DBSCAN (Ester et al., KDD 1996) on the Jaccard distance of k-reciprocal neighbourhoods, as in Song et al.,
"Unsupervised domain adaptive re-identification: theory and practice" (UDA_TP, arXiv 1807.11334). It needs no
number of clusters, and leaves out crops that lie near nobody.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix
from sklearn.cluster import DBSCAN
from sklearn.metrics import adjusted_mutual_info_score
from sklearn.neighbors import sort_graph_by_row_values
from torch import Tensor

from reid.distance import normalise
from reid.retrieval.jaccard import jaccard_neighbours
from reid.retrieval.nearest import CHUNK_BYTES

#: The label of a crop that is in no cluster.
OUTLIER = -1


@dataclass(frozen=True, eq=False)
class Clusters:
    """Which cluster each of N crops is in: `labels` (N,) int64 on the CPU, from 0, or OUTLIER."""

    labels: Tensor

    @property
    def count(self) -> int:
        """How many clusters there are."""
        return int(self.labels.max()) + 1

    @property
    def outliers(self) -> float:
        """The share of the crops that are in none."""
        return float((self.labels == OUTLIER).double().mean())

    @property
    def sizes(self) -> Tensor:
        """(count,) int64, how many crops each cluster has."""
        return torch.bincount(self.labels[self.labels != OUTLIER], minlength=self.count)

    def means(self, features: Tensor) -> Tensor:
        """(count, D), the mean of the features (N, D) of each cluster's crops."""
        labels = self.labels.to(features.device)
        inside = labels != OUTLIER
        sums = features.new_zeros(self.count, features.shape[1])
        sums.index_add_(0, labels[inside], features[inside])
        return sums / self.sizes.to(features)[:, None]


def cluster(
    features: Tensor,
    eps: float,
    min_samples: int,
    k1: int = 30,
    k2: int = 6,
    camids: Tensor | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Clusters:
    """Clusters of crops by their features.

    Args:
        features: (N, D) floats; they are divided by their L2 norms.
        eps: the largest Jaccard distance of neighbours, above 0 and below 1.
        min_samples: a crop with so many neighbours, itself among them, is a core: it and they are in one
            cluster.
        k1, k2: of the Jaccard distance, see `jaccard_neighbours`.
        camids: (N,) int64; then the features are centred by camera first, see `centred_by_camera`.

    Raises:
        ValueError: an argument is out of range, or the features are no finite floats.
    """
    features = normalise(features)
    if camids is not None:
        features = centred_by_camera(features, camids)
    near = jaccard_neighbours(features, eps, k1, k2, chunk_bytes)
    parts = (near.values, near.columns, near.starts)
    values, columns, starts = (part.cpu().numpy() for part in parts)
    graph = csr_matrix((values.astype(np.float64), columns, starts), shape=(len(features), len(features)))
    graph = sort_graph_by_row_values(graph, warn_when_not_sorted=False)
    found = DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit_predict(graph)
    return Clusters(torch.from_numpy(found.astype(np.int64)))


def centred_by_camera(features: Tensor, camids: Tensor) -> Tensor:
    """The features (N, D) less the mean of those of their camera, of unit L2 norm again.

    What all crops of a camera have in common, such as its light, is then no likeness. Camera-based batch
    normalisation (Zhuang et al., ECCV 2020, arXiv 2001.08680) aligns cameras so within a network, by mean and
    deviation; here the features alone are moved, and by the mean alone.
    """
    _, camera = camids.to(features.device).unique(return_inverse=True)
    cameras = int(camera.max()) + 1
    counts = torch.bincount(camera, minlength=cameras).to(features)
    means = features.new_zeros(cameras, features.shape[1]).index_add_(0, camera, features) / counts[:, None]
    return normalise(features - means[camera])


def agreement(before: Tensor, now: Tensor) -> float:
    """The adjusted mutual information of two groupings of the same crops (N,), over the crops that both
    group.

    1 where they are the same up to the numbers of the clusters, about 0 where they have no more in common
    than chance gives (Vinh et al., JMLR 11, 2010). 0 where there is no crop that both group.
    """
    both = (before != OUTLIER) & (now != OUTLIER)
    if not bool(both.any()):
        return 0.0
    return float(adjusted_mutual_info_score(before[both].numpy(), now[both].numpy()))
