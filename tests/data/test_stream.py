"""The stream that prepares batches on a GPU: torch keeps freed memory by stream, so that one is kept."""

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch

from reid.data import batches
from reid.data.batches import prepared_ahead


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.device]]:
    """The devices that a stream was made on; what is queued there has always arrived."""
    devices: list[torch.device] = []

    class Stream:
        def __init__(self, device: torch.device) -> None:
            devices.append(device)

        def record_event(self) -> None:
            return None

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    batches.side_stream.cache_clear()
    yield devices
    batches.side_stream.cache_clear()


def test_each_gpu_has_one_stream_for_all_epochs_and_embeddings(made: list[torch.device]) -> None:
    first, second = (torch.device("cuda", number) for number in (0, 1))
    for device in (first, first, second, first):
        assert list(prepared_ahead(lambda step: step, range(3), device)) == [0, 1, 2]
    assert made == [first, second]
