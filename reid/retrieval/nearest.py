"""The nearest images of each image, with each distance computed once for the two that it lies between."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reid.distance import squared_euclidean, squared_norms

CHUNK_BYTES = 64 * 2**20
#: So many distances are looked at one by one only where the smallest of them is small enough.
BLOCK = 32


def nearest_images(
    features: Tensor, count: int, chunk_bytes: int = CHUNK_BYTES, kept: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Neighbours of each image among all: (N, min(count, N)) int64, and the largest squared distance, (N,).

    An image is its own first neighbour; equal distances keep the order of the rows. Where all distances of an
    image are 0 the largest is set to 1, since it is divided by. `kept` (Q, N - Q) is filled with the
    squared distances of the first Q images to the others.
    """
    images = len(features)
    count = min(count, images)
    side = max(BLOCK, math.isqrt(chunk_bytes // (4 * features.element_size())) // BLOCK * BLOCK)
    norms = squared_norms(features)
    farthest = features.new_zeros(images)
    nearest = _Nearest(features, norms, count, chunk_bytes)
    runs = [slice(start, min(images, start + side)) for start in range(0, images, side)]
    buffer = features.new_empty(min(side, -(-images // BLOCK) * BLOCK), side)

    def tile(rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """Their squared distances, and those filled up with infinity to whole blocks."""
        height, width = rows.stop - rows.start, columns.stop - columns.start
        padded = buffer[: -(-height // BLOCK) * BLOCK, : -(-width // BLOCK) * BLOCK]
        distance = padded[:height, :width]
        squared_euclidean(features[rows], features[columns], norms[columns], distance, norms[rows])
        padded[height:] = torch.inf
        padded[:, width:] = torch.inf
        if kept is not None and rows.start < len(kept):
            first, skipped = rows.start, max(0, len(kept) - columns.start)
            begin = max(columns.start, len(kept)) - len(kept)
            wanted = distance[: len(kept) - first, skipped:]
            kept[rows, begin : begin + wanted.shape[1]] = wanted
        return distance, padded

    # The tiles on the diagonal come first: with a bound for each image, little of the others is looked at.
    for rows in runs:
        distance, _ = tile(rows, rows)
        farthest[rows] = distance.amax(dim=1)
        distance.fill_diagonal_(-torch.inf)
        nearest.start(rows, distance)
    for number, rows in enumerate(runs):
        for columns in runs[number + 1 :]:
            distance, padded = tile(rows, columns)
            farthest[rows] = torch.maximum(farthest[rows], distance.amax(dim=1))
            farthest[columns] = torch.maximum(farthest[columns], distance.amax(dim=0))
            # A block's distances lie far apart in memory, so that minima of many blocks are taken at once.
            along = padded.unflatten(1, (BLOCK, -1))
            nearest.add(rows, columns.start, along, along.amin(dim=1))
            down = padded.unflatten(0, (BLOCK, -1))
            nearest.add(columns, rows.start, down.permute(2, 0, 1), down.amin(dim=0).t())
    return nearest.sorted(), torch.where(farthest > 0, farthest, 1)


class _Nearest:
    """The `count` nearest so far of each image, and one more, which shows whether there was a choice."""

    def __init__(self, features: Tensor, norms: Tensor, count: int, chunk_bytes: int) -> None:
        self.features, self.norms, self.count, self.chunk_bytes = features, norms, count, chunk_bytes
        listed = min(count + 1, len(features))
        self.values = features.new_full((len(features), listed), torch.inf)
        self.columns = torch.zeros(len(features), listed, dtype=torch.int64, device=features.device)

    def start(self, images: slice, distance: Tensor) -> None:
        """Begin the lists of these images (B) with the distances (B, B) to each other."""
        listed = min(self.values.shape[1], len(distance))
        values, columns = distance.topk(listed, dim=1, largest=False)
        self.values[images, :listed] = values
        self.columns[images, :listed] = columns + images.start

    def add(self, images: slice, start: int, blocks: Tensor, lowest: Tensor) -> None:
        """Take in the distances of these images (B) to others, from `start` on.

        blocks: (>= B, BLOCK, W); that of image b to the other number w + i W is `blocks[b, i, w]`.
        lowest: (>= B, W), the smallest of each block.
        """
        bound = self.values[images, -1]
        row, block = (lowest[: len(bound)] < bound[:, None]).nonzero(as_tuple=True)
        listed = blocks[row, :, block]
        which, place = (listed < bound[row, None]).nonzero(as_tuple=True)
        if len(which) == 0:
            return
        changed, entry, lengths = row[which].unique_consecutive(return_inverse=True, return_counts=True)
        slot = torch.arange(len(entry), device=entry.device) - (lengths.cumsum(0) - lengths)[entry]
        known, longest = self.values.shape[1], int(lengths.max())
        changed += images.start
        values = self.values.new_full((len(changed), known + longest), torch.inf)
        columns = self.columns.new_zeros(values.shape)
        values[:, :known], columns[:, :known] = self.values[changed], self.columns[changed]
        values[entry, known + slot] = listed[which, place]
        columns[entry, known + slot] = place * blocks.shape[2] + block[which] + start
        self.values[changed], order = values.topk(known, dim=1, largest=False)
        self.columns[changed] = columns.gather(1, order)

    def sorted(self) -> Tensor:
        """(N, count) int64: rising by distance, equal distances in the order of the images."""
        columns, by_column = self.columns[:, : self.count].sort(dim=1)
        by_value = self.values[:, : self.count].gather(1, by_column).sort(dim=1, stable=True).indices
        near = columns.gather(1, by_value)
        if self.count < self.values.shape[1]:
            # `topk` takes any of the equal ones: where some were left out, the whole row is looked at again.
            tied = (self.values[:, self.count] == self.values[:, self.count - 1]).nonzero().flatten()
            row_bytes = len(near) * (self.values.itemsize + 8 + 4)  # distances, a running count, masks
            for rows in tied.split(max(1, self.chunk_bytes // row_bytes)):
                near[rows] = self._first_nearest(rows)
        return near

    def _first_nearest(self, rows: Tensor) -> Tensor:
        """(B, count) for these images; of the equally near the first ones are taken."""
        features, norms = self.features, self.norms
        distance = squared_euclidean(features[rows], features, norms, a_squared_norms=norms[rows])
        distance.scatter_(1, rows[:, None], -torch.inf)
        bound = distance.topk(self.count, dim=1, largest=False).values[:, -1:]
        nearer, equal = distance < bound, distance == bound
        missing = self.count - nearer.sum(dim=1, keepdim=True)
        columns = (nearer | (equal & (equal.cumsum(dim=1) <= missing))).nonzero()[:, 1]
        columns = columns.view(len(rows), self.count)
        return columns.gather(1, distance.gather(1, columns).sort(dim=1, stable=True).indices)
