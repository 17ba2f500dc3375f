"""Batches prepared ahead: always the same ones, errors at the consumer, no thread left behind."""

import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reid.data import Crop
from reid.data.augment import Augmentation, normalise_pixels
from reid.data.batches import (
    CHUNK,
    Batch,
    BatchRecipe,
    MappedImages,
    ResidentImages,
    TrainingBatches,
    plain_batches,
    prepared_ahead,
    resident_bytes,
    side_stream,
)
from reid.data.image_store import ImageStore, open_store
from reid.data.sizes import ImageSize

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    """26 crops of 6 people."""
    folder = tmp_path_factory.mktemp("crops")
    dice = np.random.default_rng(0)
    crops = []
    for number in range(26):
        path = folder / f"{number:02d}.png"
        Image.fromarray(dice.integers(0, 256, (16, 8, 3), np.uint8)).save(path)
        crops.append(Crop(path, pid=number % 6, camid=0))
    return open_store(crops, 16, 8, folder / "store")


def training(
    store: ImageStore, seed: int = 0, share: tuple[int, int] = (0, 1), sizes: tuple[ImageSize, ...] = ()
) -> TrainingBatches:
    recipe = BatchRecipe(3, 2, Augmentation(padding=2), seed, sizes=sizes)
    return TrainingBatches(store, store.pids, recipe, CPU, share)


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "batches"]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert not workers()


def equal(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.images, b.images)
        and torch.equal(a.labels, b.labels)
        and torch.equal(a.indices, b.indices)
        for a, b in zip(first, second, strict=True)
    )


def test_batches_are_the_planned_images_with_their_labels(store: ImageStore) -> None:
    batches = training(store)
    plan = batches.plan(1)
    made = list(batches.of(plan, 1))
    assert len(made) == len(plan) > 2
    for batch, indices in zip(made, plan, strict=True):
        assert torch.equal(batch.indices, indices)
        assert torch.equal(batch.labels, store.pids[indices])
        assert batch.images.shape == (6, 3, 16, 8)
        assert batch.images.dtype == torch.float32
        assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_an_epoch_is_the_same_whenever_it_is_made(store: ImageStore) -> None:
    first, second = training(store), training(store)
    list(first.of(first.plan(1), 1))
    later = list(first.of(first.plan(2), 2))
    assert equal(later, list(second.of(second.plan(2), 2)))
    assert not equal(later, list(second.of(second.plan(3), 3)))
    other = training(store, seed=1)
    assert not equal(later, list(other.of(other.plan(2), 2)))


@pytest.mark.parametrize("step", [0, 1, 3])
@pytest.mark.parametrize("sizes", [(), (ImageSize(16, 8, 2),) * 3 + (ImageSize(9, 5, 1),)])
def test_starting_in_mid_epoch_gives_the_batches_that_were_left(
    store: ImageStore, step: int, sizes: tuple[ImageSize, ...]
) -> None:
    batches = training(store, sizes=sizes)
    whole = list(batches.of(batches.plan(4), 4))
    assert {batch.images.shape[2:] for batch in whole} == {(9, 5) if sizes else (16, 8)}
    resumed = training(store, sizes=sizes)
    assert equal(whole[step:], list(resumed.of(resumed.plan(4), 4, first_step=step)))


def test_an_epoch_at_the_size_of_the_store_is_that_of_a_run_without_sizes(store: ImageStore) -> None:
    whole, sized = training(store), training(store, sizes=(ImageSize(9, 5, 1), ImageSize(16, 8, 2)))
    assert equal(list(whole.of(whole.plan(2), 2)), list(sized.of(sized.plan(2), 2)))


def test_the_sampler_and_the_first_batch_do_not_share_their_draws(store: ImageStore) -> None:
    """The seeds of (epoch) and of (epoch, step 0): equal ones would tie the flips to the sampling."""
    batches = training(store)
    plan = batches.plan(1)
    first = next(batches.of(plan, 1))
    sampler_seed = batches._generator.initial_seed()
    tied = Augmentation(padding=2)(store.read(plan[0]), torch.Generator().manual_seed(sampler_seed))
    assert not torch.equal(first.images, tied)


def test_stopping_early_ends_the_thread(store: ImageStore) -> None:
    batches = training(store)
    iterator = batches.of(batches.plan(1), 1)
    next(iterator)
    iterator.close()
    assert not workers()


def test_an_error_of_the_worker_is_raised_at_its_item() -> None:
    def prepare(step: int) -> int:
        if step == 3:
            raise KeyError("of step 3")
        return step

    items = prepared_ahead(prepare, range(10), CPU)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError, match="of step 3"):
        next(items)


def test_items_are_prepared_ahead_but_not_without_bound() -> None:
    prepared = []

    def prepare(step: int) -> int:
        prepared.append(step)
        return step

    iterator = prepared_ahead(prepare, range(100), CPU, depth=2)
    assert next(iterator) == 0
    deadline = time.monotonic() + 5
    while len(prepared) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert prepared == [0, 1, 2, 3], "one taken, two waiting, one in the worker's hand"
    iterator.close()


def test_no_steps_give_no_items_and_an_unused_iterator_no_thread() -> None:
    assert list(prepared_ahead(lambda step: step, range(0), CPU)) == []
    prepared_ahead(lambda step: step, range(5), CPU)
    assert not workers()


@pytest.mark.parametrize("size", [1, 10, 13, 26, 100])
def test_plain_batches_are_all_images_in_order(store: ImageStore, size: int) -> None:
    batches = list(plain_batches(store, size, CPU))
    assert all(len(batch) == size for batch in batches[:-1])
    expected = normalise_pixels(store.read(torch.arange(len(store))))
    assert torch.equal(torch.cat(batches), expected)


def test_plain_batches_stop_early(store: ImageStore) -> None:
    for _ in plain_batches(store, 2, CPU):
        break


def test_processes_that_share_a_batch_have_the_images_of_their_identities(store: ImageStore) -> None:
    alone = training(store)
    plan = alone.plan(2)
    shares = [training(store, share=(number, 3)) for number in range(3)]
    assert all(torch.equal(torch.stack(share.plan(2)), torch.stack(plan)) for share in shares)
    for whole, *parts in zip(alone.of(plan, 2), *(share.of(plan, 2) for share in shares), strict=True):
        assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
        for number, part in enumerate(parts):
            assert torch.equal(part.labels, whole.labels)
            assert torch.equal(part.indices, whole.indices)
            assert len(part.labels[2 * number : 2 * number + 2].unique()) == 1  # an identity is not cut


def test_plain_batches_are_dealt_out(store: ImageStore) -> None:
    batches = list(plain_batches(store, 4, CPU))
    for number in (0, 1):
        dealt = list(plain_batches(store, 4, CPU, (number, 2)))
        assert all(torch.equal(a, b) for a, b in zip(dealt, batches[number::2], strict=True))


def test_preparing_takes_one_core_and_leaves_the_others_to_training() -> None:
    cores = torch.get_num_threads()
    assert list(prepared_ahead(lambda _: torch.get_num_threads(), range(2), CPU)) == [1, 1]
    assert torch.get_num_threads() == cores
    counts = []
    later = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert counts == [cores]


# ---- where the pixels lie: in the store's file, or all of them on the device

COUNT = CHUNK + 6  # two copies, the second not full


@pytest.fixture(scope="module")
def many() -> ImageStore:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (COUNT + 2, 16, 8, 3), np.uint8)
    crops = tuple(Crop(Path(f"{number}.jpg"), number // 10, 1) for number in range(COUNT))
    # Not in the order of the file, and two rows of it are nobody's.
    return ImageStore(crops, generator.permutation(COUNT + 2)[:COUNT], pixels, "content")


def test_a_store_on_the_device_gives_the_images_of_one_that_is_copied_from(many: ImageStore) -> None:
    resident = ResidentImages(many, torch.device("cpu"))
    indices = torch.tensor([COUNT - 1, 0, CHUNK, CHUNK - 1, 0])
    assert torch.equal(resident.read(indices), many.read(indices))
    assert resident.read(indices).stride() == many.read(indices).stride()
    assert resident.pixels.nbytes == resident_bytes(many) == COUNT * 16 * 8 * 3


@pytest.mark.filterwarnings("error")
def test_views_of_the_file_are_the_images_too(many: ImageStore, tmp_path: Path) -> None:
    np.save(tmp_path / "pixels.npy", many.pixels)
    of_file = replace(many, pixels=np.load(tmp_path / "pixels.npy", mmap_mode="r"))
    indices = torch.tensor([COUNT - 1, 0, CHUNK, CHUNK - 1, 0])
    views = MappedImages(of_file).read(indices)
    assert torch.equal(torch.stack(views).permute(0, 3, 1, 2), many.read(indices))
    begin = of_file.pixels.ctypes.data
    assert all(begin <= view.data_ptr() < begin + of_file.pixels.nbytes for view in views)


def test_pixels_mapped_and_resident_give_the_same_batches(many: ImageStore) -> None:
    recipe = BatchRecipe(4, 2, Augmentation(padding=2), seed=7)
    mapped, resident = (
        TrainingBatches(many, many.pids, recipe, CPU, resident=resident) for resident in (False, True)
    )
    plan = mapped.plan(1)[:3]
    for one, other in zip(mapped.of(plan, 1), resident.of(plan, 1), strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)


# ---- the stream that prepares batches on a GPU: torch keeps freed memory by stream, so that one is kept


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.device]]:
    """The devices that a stream was made on; what is queued there has always arrived."""
    devices: list[torch.device] = []

    class Stream:
        def __init__(self, device: torch.device) -> None:
            devices.append(device)

        def record_event(self) -> None:
            return None

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    side_stream.cache_clear()
    yield devices
    side_stream.cache_clear()


def test_each_gpu_has_one_stream_for_all_epochs_and_embeddings(streams: list[torch.device]) -> None:
    first, second = (torch.device("cuda", number) for number in (0, 1))
    for device in (first, first, second, first):
        assert list(prepared_ahead(lambda step: step, range(3), device)) == [0, 1, 2]
    assert streams == [first, second]
