"""Losses on the embeddings of a batch, one file each; the file is the formula."""

from reid.losses.clustered_ranked import ClusteredRankedListLoss
from reid.losses.pairs import pair_statistics
from reid.losses.ranked import RankedListLoss
from reid.losses.triplet import TripletLoss
from reid.losses.triplet_center import TripletCenterLoss

__all__ = ["ClusteredRankedListLoss", "RankedListLoss", "TripletCenterLoss", "TripletLoss", "pair_statistics"]
