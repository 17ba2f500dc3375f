"""Losses on the embeddings of a batch, one file each; the file is the formula."""

from reid.losses.pairs import pair_statistics
from reid.losses.ranked import RankedListLoss

__all__ = ["RankedListLoss", "pair_statistics"]
