"""The index behind `reid.search`, and the page behind `reid.browse`."""

from typing import TYPE_CHECKING

from reid.lazy import lazy_names

if TYPE_CHECKING:
    from reid.gallery.facts import Facts
    from reid.gallery.index import Added, Hits, Index, IndexFault, Row
else:
    __getattr__ = lazy_names(
        __name__, {"facts": ["Facts"], "index": ["Added", "Hits", "Index", "IndexFault", "Row"]}
    )

__all__ = ["Added", "Facts", "Hits", "Index", "IndexFault", "Row"]
