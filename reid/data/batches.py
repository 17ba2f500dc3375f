"""Batches on the training device, the next one prepared while the current one trains."""

import queue
import threading
import warnings
from collections.abc import Callable, Generator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeVar

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from reid.data.augment import Augmentation, Part, normalise_pixels
from reid.data.image_store import ImageStore
from reid.data.resize import resized
from reid.data.sampler import IdentitySampler
from reid.data.sizes import ImageSize
from reid.normalisation import IMAGENET, Normalisation

T = TypeVar("T")

#: Images that `ResidentImages` copies at once.
CHUNK = 1024


@dataclass(frozen=True)
class Batch:
    """`images` float32 (B, 3, H, W) and `labels` (B,) on the device, `indices` (B,) on the host.

    Where N processes share a batch, `images` are the B / N of this one; labels and indices are those of all.
    `camids` are those of `images`, for a model that has learnt cameras; else None.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor
    camids: torch.Tensor | None = None


@dataclass(frozen=True)
class BatchRecipe:
    """What decides the batches of a run: of one store, equal recipes give equal batches on every machine.

    A batch holds `identities` (P) people with `instances` (K) images of each, augmented; `balanced` spreads
    the K over the person's cameras, see `IdentitySampler`.  Every draw comes
    from a generator seeded by (seed, epoch) for the sampler and (seed, epoch, step) for the augmentation, so
    that a resumed run needs no generator's state and may start in mid-epoch.  `sizes` are those of the images
    in epochs 1, 2, …, each with its own padding; (): all as the store holds them.
    """

    identities: int
    instances: int
    augmentation: Augmentation
    seed: int
    balanced: bool = False
    sizes: tuple[ImageSize, ...] = ()


class TrainingBatches:
    """The batches of any epoch, the same whenever they are made.

    Args:
        labels: (N,) int64, the identity of every image of `store`.
        device: where the batches are wanted.
        share: (number, count): which of `count` equal parts of every batch, cut between identities, has its
            images prepared here; `count` divides P.
        stream: where a GPU prepares them; None for `side_stream(device)`.
        resident: keep all pixels in the memory of `device`, so that no step copies any from the host.
        camids: let the batches carry the cameras of their images.
    """

    def __init__(
        self,
        store: ImageStore,
        labels: torch.Tensor,
        recipe: BatchRecipe,
        device: torch.device,
        share: tuple[int, int] = (0, 1),
        stream: torch.cuda.Stream | None = None,
        resident: bool = False,
        camids: bool = False,
    ) -> None:
        self.store = store
        self.labels = labels
        self.recipe = recipe
        self.device = device
        self.share = share
        self._stream = stream
        self._images: ResidentImages | MappedImages | ImageStore = store
        if resident:
            self._images = ResidentImages(store, device)
        elif device.type == "cpu":
            self._images = MappedImages(store)
        self._generator = torch.Generator()
        self._camids = store.camids if camids else None
        balanced = store.camids.tolist() if recipe.balanced else None
        self._sampler = IdentitySampler(
            labels.tolist(), recipe.identities, recipe.instances, self._generator, balanced
        )

    def plan(self, epoch: int) -> list[torch.Tensor]:
        """The indices of every batch of `epoch`."""
        self._generator.manual_seed(_mix(self.recipe.seed, epoch))
        return list(self._sampler)

    def of(self, plan: list[torch.Tensor], epoch: int, first_step: int = 0) -> Generator[Batch, None, None]:
        """The batches of a `plan(epoch)` from `first_step` on."""
        generator = torch.Generator(self.device)
        augmentation, size = self.recipe.augmentation, None
        if self.recipe.sizes:
            size = self.recipe.sizes[epoch - 1]
            augmentation = replace(augmentation, padding=size.padding)

        def prepare(step: int) -> Batch:
            indices = plan[step]
            generator.manual_seed(_mix(self.recipe.seed, epoch, step))
            part = Part.of(len(indices), *self.share)
            # Where the pixels lie on the device already, only the indices travel.
            images = self._images.read(indices[part.rows])
            if isinstance(images, torch.Tensor) and not images.is_cuda:
                images = to_device(images, self.device)
            if size is not None:
                images = resized(images, size.height, size.width)
            labels = to_device(self.labels[indices], self.device)
            camids = self._camids
            if camids is not None:
                camids = to_device(camids[indices[part.rows]], self.device)
            return Batch(augmentation(images, generator, part), labels, indices, camids)

        return prepared_ahead(prepare, range(first_step, len(plan)), self.device, self._stream)


class MappedImages:
    """The pixels of a store where they lie in its file, for a CPU that trains: no step copies them."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store
        with warnings.catch_warnings():
            # Nothing writes to an image: the map is read-only, and whoever tried would be stopped.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
            self._pixels = torch.from_numpy(store.pixels)

    def read(self, indices: torch.Tensor) -> list[torch.Tensor]:
        """The images at `indices` (B,): uint8 (H, W, 3) each, views that are not to be written to."""
        return [self._pixels[row] for row in self._store.places(indices).tolist()]


class ResidentImages:
    """The pixels of a store in the memory of the device that trains: no step copies any from the host."""

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
    """The memory that the pixels of `store` take on a device."""
    _, height, width, channels = store.pixels.shape
    return len(store) * height * width * channels


def plain_batches(
    store: ImageStore,
    size: int,
    device: torch.device,
    share: tuple[int, int] = (0, 1),
    stream: torch.cuda.Stream | None = None,
    normalisation: Normalisation = IMAGENET,
) -> Generator[torch.Tensor, None, None]:
    """All images of `store` in order, normalised and not augmented: float32 (<= size, 3, H, W).

    share: (number, count) gives the batches number, number + count, … of them alone.
    """
    number, count = share
    splits = torch.arange(len(store)).split(size)[number::count]

    def prepare(number: int) -> torch.Tensor:
        return normalise_pixels(to_device(store.read(splits[number]), device), normalisation)

    return prepared_ahead(prepare, range(len(splits)), device, stream)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy without making the host wait: through pinned memory where the device is a GPU."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def prepared_ahead(
    prepare: Callable[[int], T],
    steps: range,
    device: torch.device,
    stream: torch.cuda.Stream | None = None,
    depth: int = 2,
) -> Generator[T, None, None]:
    """`prepare(step)` for each step, computed in a thread up to `depth` items ahead.

    On a GPU the thread works on `stream` (None: `side_stream(device)`) and the consumer's stream waits for it
    there, so that the host never does.  On a CPU it takes one core.  An exception in `prepare` is raised at
    the item whose preparation failed.
    """
    results: queue.Queue[tuple[T | None, BaseException | None, torch.cuda.Event | None]] = queue.Queue(depth)
    stopped = threading.Event()
    if device.type == "cuda" and stream is None:
        stream = side_stream(device)

    def deliver(item: tuple[T | None, BaseException | None, torch.cuda.Event | None]) -> bool:
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
                deliver((None, error, None))
                return
            if not deliver((value, None, ready)):
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
    torch.get_num_threads()  # The first call, wherever it is made, lets torch set its own number.
    threadpool_limits(1, user_api="openmp")


def _mix(seed: int, *place: int) -> int:
    """One 63-bit seed for a place in a run, another for every place: (epoch) and (epoch, 0) differ too."""
    return int(np.random.SeedSequence(seed, spawn_key=place).generate_state(1, np.uint64)[0] >> 1)
