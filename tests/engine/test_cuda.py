"""What only a GPU can show: steps that never make the host wait, and batches and rankings like a CPU's."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from reid.data import Crop
from reid.data.augment import Augmentation
from reid.data.batches import Batch, BatchRecipe, TrainingBatches
from reid.data.image_store import ImageStore
from reid.engine.average import WeightAverage
from reid.engine.compute import Compute
from reid.engine.loop import EpochTotals, train_epoch
from reid.engine.objective import Objective
from reid.engine.optimizers import Optimizers, build_optimizer, gradient_scaler
from reid.engine.stop import StopSignals
from reid.losses import RankedListLoss
from reid.models import ReidModel, build_backbone
from reid.retrieval import rerank

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
GPU = torch.device("cuda", 0)
ADAM = {
    "_target_": "torch.optim.Adam", "lr": 1e-4, "weight_decay": 5e-4, "bias_lr_factor": 2.0,
    "bias_weight_decay": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def store() -> ImageStore:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 32, 3), np.uint8)
    crops = tuple(Crop(Path(f"{number}.jpg"), number // 4, 1) for number in range(64))
    return ImageStore(crops, np.arange(64), pixels, "content")


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_no_step_makes_the_host_wait_for_the_gpu(store: ImageStore, resident: bool, precision: str) -> None:
    """From the second step on torch raises wherever the host would wait, in the data's thread too."""
    compute = Compute.set_up(str(GPU), precision)
    model = compute.place(ReidModel(build_backbone("resnet18"), 16))
    optimizers = Optimizers(
        build_optimizer(model, ADAM, device=GPU),
        scaler=gradient_scaler(GPU, precision),
        average=WeightAverage(model, 0.9),
    )
    recipe = BatchRecipe(4, 4, Augmentation(), seed=0)
    batches = TrainingBatches(store, store.pids, recipe, GPU, resident=resident)
    totals = EpochTotals()

    def watched() -> Iterator[Batch]:
        steps = batches.of(batches.plan(0) * 8, 0)
        yield next(steps)
        try:
            torch.cuda.set_sync_debug_mode("error")
            yield from steps
        finally:
            torch.cuda.set_sync_debug_mode("default")

    train_epoch(
        model,
        Objective(1.0, 0.4, 0.1, RankedListLoss()),
        watched(),
        totals,
        optimizers,
        compute,
        StopSignals(),
    )
    assert totals.steps > 8
    assert np.isfinite(totals.means()["loss"])


def test_pixels_on_the_gpu_give_the_batches_that_are_copied_there(store: ImageStore) -> None:
    recipe = BatchRecipe(4, 4, Augmentation(), seed=3)
    copied, resident = (
        TrainingBatches(store, store.pids, recipe, GPU, resident=resident) for resident in (False, True)
    )
    plan = copied.plan(0)
    for one, other in zip(copied.of(plan, 0), resident.of(plan, 0), strict=True):
        assert one.images.is_cuda
        assert torch.equal(one.images, other.images)


def test_re_ranking_agrees_with_the_cpu() -> None:
    features = torch.nn.functional.normalize(
        torch.randn(400, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    )
    expected = rerank(features[:100], features[100:])
    there = features.to(GPU)
    torch.testing.assert_close(rerank(there[:100], there[100:]).cpu(), expected)
