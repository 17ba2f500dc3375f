"""All that draws: plain data in, a matplotlib `Figure` out; nothing here reads a run or shows a window."""

from typing import TYPE_CHECKING

from reid.lazy import lazy_names

if TYPE_CHECKING:
    from reid.figures.breakdown import GroupBar, RejectionCurve, group_differences, rejection_curves
    from reid.figures.comparison import Pair, compared_pairs
    from reid.figures.curves import cmc_curves, training_curves
    from reid.figures.differences import Against, difference_figure
    from reid.figures.domains import domain_bars
    from reid.figures.pictures import Picture
    from reid.figures.rankings import FoundImage, Hit, RankedList, SearchResult, ranked_lists, search_results
    from reid.figures.searches import search_history, search_map, search_slices
    from reid.figures.sheets import contact_sheet
    from reid.figures.style import save
    from reid.figures.sweeps import sweep_figure
    from reid.figures.tradeoff import Point, accuracy_latency
    from reid.figures.verification import Rate, hardest_bands, pair_distances, verification_roc
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "breakdown": ["GroupBar", "RejectionCurve", "group_differences", "rejection_curves"],
            "comparison": ["Pair", "compared_pairs"],
            "curves": ["cmc_curves", "training_curves"],
            "differences": ["Against", "difference_figure"],
            "domains": ["domain_bars"],
            "pictures": ["Picture"],
            "rankings": ["FoundImage", "Hit", "RankedList", "SearchResult", "ranked_lists", "search_results"],
            "searches": ["search_history", "search_map", "search_slices"],
            "sheets": ["contact_sheet"],
            "style": ["save"],
            "sweeps": ["sweep_figure"],
            "tradeoff": ["Point", "accuracy_latency"],
            "verification": ["Rate", "hardest_bands", "pair_distances", "verification_roc"],
        },
    )

__all__ = [
    "Against",
    "FoundImage",
    "GroupBar",
    "Hit",
    "Pair",
    "Picture",
    "Point",
    "RankedList",
    "Rate",
    "RejectionCurve",
    "SearchResult",
    "accuracy_latency",
    "cmc_curves",
    "compared_pairs",
    "contact_sheet",
    "difference_figure",
    "domain_bars",
    "group_differences",
    "hardest_bands",
    "pair_distances",
    "ranked_lists",
    "rejection_curves",
    "save",
    "search_history",
    "search_map",
    "search_results",
    "search_slices",
    "sweep_figure",
    "training_curves",
    "verification_roc",
]
