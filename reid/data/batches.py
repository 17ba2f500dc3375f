"""Batches on the training device, the next one prepared while the current one trains."""

import queue
import threading
from collections.abc import Callable, Generator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from reid.data.augment import Augmentation, normalise_pixels
from reid.data.mapped import MappedImages
from reid.data.part import Part
from reid.data.resident import ResidentStore
from reid.data.sampler import IdentitySampler
from reid.data.store import ImageStore

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """`images` float32 (B, 3, H, W) and `labels` (B,) on the device, `indices` (B,) on the host.

    Where N processes share a batch, `images` are the B / N of this one; labels and indices are those of all.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor


class TrainingBatches:
    """The batches of any epoch, the same whenever it is asked for.

    Every draw comes from a generator seeded by (seed, epoch) for the sampler and (seed, epoch, step) for
    the augmentation, so that a resumed run needs no generator's state and may start in mid-epoch.

    `share` (number, count) says which of `count` equal parts of every batch, cut between identities, has its
    images prepared here; `count` divides `identities`.  `resident` keeps all pixels in the memory of
    `device`, so that no step copies any from the host; the batches are the same.
    """

    def __init__(
        self,
        store: ImageStore,
        labels: torch.Tensor,
        identities: int,
        instances: int,
        augmentation: Augmentation,
        seed: int,
        device: torch.device,
        share: tuple[int, int] = (0, 1),
        resident: bool = False,
    ) -> None:
        self.store = store
        self._source: ResidentStore | MappedImages | ImageStore = (
            ResidentStore(store, device)
            if resident
            else MappedImages(store)
            if device.type == "cpu"
            else store
        )
        self.labels = labels
        self.augmentation = augmentation
        self.seed = seed
        self.device = device
        self.share = share
        self._sampler_generator = torch.Generator()
        self._sampler = IdentitySampler(labels.tolist(), identities, instances, self._sampler_generator)

    def plan(self, epoch: int) -> list[torch.Tensor]:
        """The indices of every batch of `epoch`."""
        self._sampler_generator.manual_seed(_mix(self.seed, epoch))
        return list(self._sampler)

    def of(self, plan: list[torch.Tensor], epoch: int, first_step: int = 0) -> Generator[Batch, None, None]:
        """The batches of a `plan(epoch)` from `first_step` on."""
        generator = torch.Generator(self.device)

        def prepare(step: int) -> Batch:
            indices = plan[step]
            generator.manual_seed(_mix(self.seed, epoch, step))
            part = Part.of(len(indices), *self.share)
            # Where the pixels lie on the device already, only the indices travel.
            images = self._source.read(indices[part.rows])
            if isinstance(images, torch.Tensor) and not images.is_cuda:
                images = to_device(images, self.device)
            labels = to_device(self.labels[indices], self.device)
            return Batch(self.augmentation(images, generator, part), labels, indices)

        return prepared_ahead(prepare, range(first_step, len(plan)), self.device)


def plain_batches(
    store: ImageStore, size: int, device: torch.device, share: tuple[int, int] = (0, 1)
) -> Generator[torch.Tensor, None, None]:
    """All images of `store` in order, normalised and not augmented: float32 (<= size, 3, H, W).

    share: (number, count) gives the batches number, number + count, … of them alone.
    """
    number, count = share
    splits = torch.arange(len(store)).split(size)[number::count]

    def prepare(number: int) -> torch.Tensor:
        return normalise_pixels(to_device(store.read(splits[number]), device))

    return prepared_ahead(prepare, range(len(splits)), device)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy without making the host wait: through pinned memory where the device is a GPU."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def prepared_ahead(
    prepare: Callable[[int], T], steps: range, device: torch.device, depth: int = 2
) -> Generator[T, None, None]:
    """`prepare(step)` for each step, computed in a thread up to `depth` items ahead.

    On a GPU the thread works on a stream of its own and the consumer's stream waits for it there, so that
    the host never does.  On a CPU it takes one core.  An exception in `prepare` is raised at the item that it
    befell.
    """
    results: queue.Queue[tuple[T | None, BaseException | None, torch.cuda.Event | None]] = queue.Queue(depth)
    stopped = threading.Event()
    stream = side_stream(device) if device.type == "cuda" else None

    def put(item: tuple[T | None, BaseException | None, torch.cuda.Event | None]) -> bool:
        while not stopped.is_set():
            try:
                results.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        _keep_to_one_core()
        for step in steps:
            try:
                with torch.cuda.stream(stream) if stream is not None else nullcontext():
                    value = prepare(step)
                    ready = stream.record_event() if stream is not None else None
            except BaseException as error:
                put((None, error, None))
                return
            if not put((value, None, ready)):
                return

    worker = threading.Thread(target=work, name="batches", daemon=True)
    worker.start()
    try:
        for _ in steps:
            value, error, ready = results.get()
            if error is not None:
                raise error
            if ready is not None:
                current = torch.cuda.current_stream(device)
                current.wait_event(ready)
                for tensor in vars(value).values() if isinstance(value, Batch) else (value,):
                    if isinstance(tensor, torch.Tensor) and tensor.is_cuda:
                        tensor.record_stream(current)
            yield value  # type: ignore[misc]
    finally:
        stopped.set()
        worker.join()


@cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream that prepares batches on a GPU: one for each, since torch keeps freed memory by stream and
    gives it to no other."""
    return torch.cuda.Stream(device)


def _keep_to_one_core() -> None:
    """Let torch open no pool of threads for the calling thread.

    With one, OpenMP has more threads than cores, and lets each sleep between two parallel regions instead of
    spinning: waking them made the training step itself, in the other thread, 20 % slower.
    """
    torch.get_num_threads()  # Where this is asked for first, torch sets its own number.
    threadpool_limits(1, user_api="openmp")


def _mix(seed: int, *place: int) -> int:
    """One 63-bit seed for a place in a run, another for every place: (epoch) and (epoch, 0) differ too."""
    return int(np.random.SeedSequence(seed, spawn_key=place).generate_state(1, np.uint64)[0] >> 1)
