"""The index behind `reid.search`, and the page behind `reid.browse`."""
