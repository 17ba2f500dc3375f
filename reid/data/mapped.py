"""The pixels of a store where they lie, for a CPU that trains: no copy into a batch at any step."""

import warnings

import torch

from reid.data.store import ImageStore, fetch


class MappedImages:
    """The images of `store`, in the order of its crops."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store
        with warnings.catch_warnings():
            # Nothing writes to an image: the map is read-only, and whoever tried would be stopped.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
            self._pixels = torch.from_numpy(store.pixels)

    def read(self, indices: torch.Tensor) -> list[torch.Tensor]:
        """The images at `indices` (B,): uint8 (H, W, 3) each, views that are not to be written to."""
        rows = self._store.rows[indices.numpy()]
        fetch(self._store.pixels, rows)
        return [self._pixels[row] for row in rows.tolist()]
