"""The nearest rows by exact distances: float32 products choose, float64 differences decide."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

#: Scores that lie in memory at once.
AT_ONCE = 2**23
#: Rounding of float32: half a unit in the last place.
_HALF_UNIT = 2.0**-24


class Candidates:
    """The rows that may be among the `top` nearest of each query, whatever rounding did to their scores.

    A score orders as the distance does: |b|^2 - 2 q.b for the Euclidean, - q.b / |b| for the cosine. One
    is off by no more than `bound`, half of `slack`, so that all within `slack` of the `top`th are kept.
    """

    def __init__(self, queries: Floats, top: int, metric: str, largest_norm: float) -> None:
        self.top, self.cosine = top, metric == "cosine"
        norms = np.sqrt(np.square(queries, dtype=np.float64).sum(axis=1))
        if self.cosine:
            queries = (queries / np.maximum(norms, 1e-12)[:, None]).astype(np.float32)
            scale = np.ones(len(queries))
        else:
            scale = 2 * norms * largest_norm + largest_norm**2
        self.queries = queries
        self.slack = 2 * (queries.shape[1] + 4) * _HALF_UNIT * scale
        self._limit = np.full(len(queries), np.inf)
        self._which = np.empty(0, np.int64)
        self._rows = np.empty(0, np.int64)
        self._scores = np.empty(0)

    def add(self, features: Floats, squared_norms: Floats, rows: Numbers) -> None:
        """Look at features (n, C) of `rows` (n,), numbers that rise from call to call."""
        for start in range(0, len(rows), step := max(self.top, AT_ONCE // max(1, len(self.queries)), 1)):
            part = slice(start, start + step)
            scores = self.queries @ features[part].T
            if self.cosine:
                scores /= -np.maximum(np.sqrt(squared_norms[part]), np.float32(1e-12))
            else:
                scores *= -2
                scores += squared_norms[part]
            if np.isinf(self._limit).any() and scores.shape[1] >= self.top:
                at = self.top - 1
                self._limit = np.minimum(self._limit, np.partition(scores, at, axis=1)[:, at] + self.slack)
            near = scores <= self._limit[:, None].astype(np.float32)
            which, column = near.nonzero()
            if len(which):
                self._which = np.concatenate([self._which, which])
                self._rows = np.concatenate([self._rows, rows[part][column]])
                self._scores = np.concatenate([self._scores, scores[near]])
                self._reduce()

    def _reduce(self) -> None:
        order = np.lexsort((self._scores, self._which))
        which, scores = self._which[order], self._scores[order]
        starts = np.searchsorted(which, np.arange(len(self.queries) + 1))
        full = np.diff(starts) >= self.top
        self._limit[full] = scores[starts[:-1][full] + self.top - 1] + self.slack[full]
        kept = scores <= self._limit[which]
        self._which, self._rows, self._scores = which[kept], self._rows[order][kept], scores[kept]

    def of_queries(self) -> Iterator[Numbers]:
        """The candidates of each query, by rising number."""
        for number in range(len(self.queries)):
            low, high = np.searchsorted(self._which, [number, number + 1])
            yield np.sort(self._rows[low:high])


def distances(query: Floats, features: Floats, metric: str) -> Doubles:
    """Distances (n,) of a query (C,) to features (n, C), computed in float64 one row at a time.

    So a distance depends on its two features alone, and equal features are at equal distances.
    """
    found = np.empty(len(features))
    wanted = query.astype(np.float64)
    length = max(float(np.sqrt(np.square(wanted).sum())), 1e-12)
    for start in range(0, len(features), 256):  # as much as a cache holds
        part = features[start : start + 256].astype(np.float64)
        if metric == "cosine":
            lengths = np.maximum(np.sqrt(np.square(part).sum(axis=1)), 1e-12)
            found[start : start + 256] = np.clip(1 - (part * wanted).sum(axis=1) / (lengths * length), 0, 2)
        else:
            part -= wanted
            found[start : start + 256] = np.sqrt(np.square(part, out=part).sum(axis=1))
    return found
