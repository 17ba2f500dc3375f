"""Losses on the embeddings of a batch, one file each; the file is the formula."""

from typing import TYPE_CHECKING

from reid.lazy import lazy_names

if TYPE_CHECKING:
    from reid.losses.clustered_ranked import ClusteredRankedListLoss
    from reid.losses.distillation import FeatureDistillation, RelationalDistillation
    from reid.losses.mix import Mix
    from reid.losses.pairs import pair_statistics
    from reid.losses.ranked import RankedListLoss
    from reid.losses.triplet import TripletLoss
    from reid.losses.triplet_center import TripletCenterLoss
    from reid.losses.triplet_weighted import WeightedTripletLoss
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "clustered_ranked": ["ClusteredRankedListLoss"],
            "distillation": ["FeatureDistillation", "RelationalDistillation"],
            "mix": ["Mix"],
            "pairs": ["pair_statistics"],
            "ranked": ["RankedListLoss"],
            "triplet": ["TripletLoss"],
            "triplet_center": ["TripletCenterLoss"],
            "triplet_weighted": ["WeightedTripletLoss"],
        },
    )

__all__ = [
    "ClusteredRankedListLoss",
    "FeatureDistillation",
    "Mix",
    "RankedListLoss",
    "RelationalDistillation",
    "TripletCenterLoss",
    "TripletLoss",
    "WeightedTripletLoss",
    "pair_statistics",
]
