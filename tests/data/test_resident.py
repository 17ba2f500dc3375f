"""A store on the device, and one read where it lies, give the images of one that is copied from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reid.data import Crop
from reid.data.augment import Augmentation
from reid.data.batches import TrainingBatches
from reid.data.mapped import MappedImages
from reid.data.resident import CHUNK, ResidentStore, resident_bytes
from reid.data.store import ImageStore

COUNT = CHUNK + 6  # two copies, the second not full


@pytest.fixture(scope="module")
def store() -> ImageStore:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (COUNT + 2, 16, 8, 3), np.uint8)
    crops = tuple(Crop(Path(f"{number}.jpg"), number // 10, 1) for number in range(COUNT))
    # Not in the order of the file, and two rows of it are nobody's.
    return ImageStore(crops, generator.permutation(COUNT + 2)[:COUNT], pixels, "content")


def test_the_images_are_the_same(store: ImageStore) -> None:
    resident = ResidentStore(store, torch.device("cpu"))
    indices = torch.tensor([COUNT - 1, 0, CHUNK, CHUNK - 1, 0])
    assert torch.equal(resident.read(indices), store.read(indices))
    assert resident.read(indices).stride() == store.read(indices).stride()
    assert resident.pixels.nbytes == resident_bytes(store) == COUNT * 16 * 8 * 3


@pytest.mark.filterwarnings("error")
def test_views_of_the_file_are_the_images_too(store: ImageStore, tmp_path: Path) -> None:
    np.save(tmp_path / "pixels.npy", store.pixels)
    of_file = replace(store, pixels=np.load(tmp_path / "pixels.npy", mmap_mode="r"))
    indices = torch.tensor([COUNT - 1, 0, CHUNK, CHUNK - 1, 0])
    views = MappedImages(of_file).read(indices)
    assert torch.equal(torch.stack(views).permute(0, 3, 1, 2), store.read(indices))
    begin = of_file.pixels.ctypes.data
    assert all(begin <= view.data_ptr() < begin + of_file.pixels.nbytes for view in views)


def test_so_are_the_batches(store: ImageStore) -> None:
    device = torch.device("cpu")
    mapped, resident = (
        TrainingBatches(store, store.pids, 4, 2, Augmentation(padding=2), 7, device, resident=resident)
        for resident in (False, True)
    )
    plan = mapped.plan(1)[:3]
    for one, other in zip(mapped.of(plan, 1), resident.of(plan, 1), strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
