"""The pixels of a store in the memory of the device that trains: no copy from the host at any step."""

import torch

from reid.data.store import ImageStore

#: Images copied at once.
CHUNK = 1024


class ResidentStore:
    """The images of `store` on `device`, in the order of its crops."""

    def __init__(self, store: ImageStore, device: torch.device) -> None:
        self.pixels = torch.empty((len(store), *store.pixels.shape[1:]), dtype=torch.uint8, device=device)
        for rows in torch.arange(len(store)).split(CHUNK):
            self.pixels[rows[0] : rows[-1] + 1] = store.read(rows).permute(0, 2, 3, 1).to(device)
        if self.pixels.is_cuda:
            # The first reader works on a stream of its own, which waits for nothing that was queued here.
            torch.cuda.current_stream(device).synchronize()

    def read(self, indices: torch.Tensor) -> torch.Tensor:
        """The images at `indices` (B,), on the host: uint8 (B, 3, H, W), channels last in memory."""
        there = indices.pin_memory() if self.pixels.is_cuda else indices
        there = there.to(self.pixels.device, non_blocking=True)
        return self.pixels.index_select(0, there).permute(0, 3, 1, 2)


def resident_bytes(store: ImageStore) -> int:
    """What a `ResidentStore` of it takes."""
    _, height, width, channels = store.pixels.shape
    return len(store) * height * width * channels
