"""Sparse rows of a large matrix, with the few operations on them that re-ranking needs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SparseRows:
    """The entries of R rows, row after row (compressed sparse rows).

    Attributes:
        starts: (R + 1,) int64; the entries of row r are those from `starts[r]` to `starts[r + 1]`.
        columns: (E,) int64.
        values: (E,) floats.
    """

    starts: Tensor
    columns: Tensor
    values: Tensor

    @classmethod
    def of_sorted(cls, rows: Tensor, columns: Tensor, values: Tensor, count: int) -> SparseRows:
        """From (E,) entries in the order of their rows, of which there are `count`."""
        starts = torch.zeros(count + 1, dtype=torch.int64, device=rows.device)
        torch.cumsum(torch.bincount(rows, minlength=count), dim=0, out=starts[1:])
        return cls(starts, columns, values)

    @property
    def lengths(self) -> Tensor:
        """(R,) int64, the number of entries of each row."""
        return self.starts.diff()

    def of(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The entries of `rows` (M,), which may repeat: for each its place in `rows`, column and value."""
        begin = self.starts[rows]
        length = self.starts[rows + 1] - begin
        place = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), length)
        first = length.cumsum(0) - length
        entry = torch.arange(len(place), device=rows.device) + (begin - first)[place]
        return place, self.columns[entry], self.values[entry]

    def products(self, features: Tensor) -> Tensor:
        """(E,), for each entry the inner product of its row's and its column's `features` (R, D)."""
        with warnings.catch_warnings():
            # PyTorch calls its compressed rows a beta.
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support", category=UserWarning)
            shape = (len(features), len(features))
            pattern = torch.sparse_csr_tensor(
                self.starts, self.columns, torch.zeros_like(self.values), shape, check_invariants=False
            )
            return torch.sparse.sampled_addmm(pattern, features, features.t(), beta=0.0).values()

    def transposed(self, first_row: int, columns: int) -> SparseRows:
        """The rows from `first_row` on, as `columns` columns: what an inverted index is."""
        begin = int(self.starts[first_row])
        order = torch.argsort(self.columns[begin:], stable=True)
        of_row = torch.arange(len(self.starts) - 1 - first_row, device=self.starts.device)
        rows = torch.repeat_interleave(of_row, self.lengths[first_row:])
        column = self.columns[begin:][order]
        return SparseRows.of_sorted(column, rows[order], self.values[begin:][order], columns)


def row_chunks(costs: Tensor, budget: int) -> Iterator[slice]:
    """Runs of rows whose `costs` (R,) sum to `budget` at most; a dearer row is alone."""
    total = costs.cumsum(0)
    start, spent = 0, 0
    while start < len(costs):
        end = int(torch.searchsorted(total, spent + budget, right=True))
        end = max(end, start + 1)
        yield slice(start, end)
        start, spent = end, int(total[end - 1])
