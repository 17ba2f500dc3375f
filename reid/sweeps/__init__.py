"""Many jobs: cells, callback, places, locks, orphans, summary and conclusion of a sweep."""
