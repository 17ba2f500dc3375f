"""Progressive resizing: the size of each epoch, and images that are made smaller as PIL makes them."""

import numpy as np
import pytest
import torch
from PIL import Image

from reid.data.resize import by_products, resized
from reid.data.sizes import ImageSize, epoch_sizes, largest_size

SMALL, MIDDLE, LARGE = ImageSize(64, 32, 5), ImageSize(96, 48, 8), ImageSize(128, 64, 10)


def sizes(*stages: str, epochs: int = 10, padding: int = 10) -> tuple[ImageSize, ...]:
    return epoch_sizes(stages, epochs, 128, padding)


def test_no_stages_are_no_sizes() -> None:
    assert sizes() == ()


@pytest.mark.parametrize(
    ("stages", "epochs", "counts"),
    [
        (("64x32", "128x64"), 10, (5, 5)),
        (("64x32@3", "128x64"), 10, (3, 7)),
        (("64x32@0.36", "128x64"), 25, (9, 16)),
        (("64x32@.4", "128x64@0.6"), 10, (4, 6)),
        (("64x32@0.33", "128x64"), 10, (3, 7)),
        (("64x32@2", "96x48", "128x64"), 9, (2, 4, 3)),
        (("64x32@2", "128x64@7", "96x48@1"), 10, (2, 7, 1)),
    ],
)
def test_each_stage_has_its_epochs_and_the_padding_goes_with_the_height(
    stages: tuple[str, ...], epochs: int, counts: tuple[int, ...]
) -> None:
    known = {"64x32": SMALL, "96x48": MIDDLE, "128x64": LARGE}
    expected = [
        known[stage.partition("@")[0]]
        for stage, count in zip(stages, counts, strict=True)
        for _ in range(count)
    ]
    assert list(sizes(*stages, epochs=epochs)) == expected


def test_padding_is_off_where_it_is_off_and_never_vanishes() -> None:
    assert sizes("64x32", padding=0)[0].padding == 0
    assert sizes("16x16", padding=1)[0].padding == 1


def test_a_store_holds_the_largest_height_and_the_largest_width() -> None:
    assert largest_size(["64x32@0.4", "128x48", "96x64"]) == (128, 64)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (["64"], r"'64' is no stage: expected HEIGHTxWIDTH each, .*=\[64x32@0.4,128x64\]"),
        (["64x32@1.5"], "1.5 is neither whole epochs nor a share below 1"),
        (["8x32"], "'8x32' is no stage: expected sides from 16 to 4096 pixels"),
        (["64x32@3", "128x64@4"], "7 epochs together, and the run has 10. Give the last one no length"),
        (["64x32@12", "128x64"], "less than one of 10 epochs"),
        (["64x32@0.01", "128x64"], "64x32@0.01 would get less than one of 10 epochs"),
    ],
)
def test_what_is_written_wrongly_is_refused(stages: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sizes(*stages)


def store_images(batch: int = 4, height: int = 128, width: int = 64) -> torch.Tensor:
    shape = (batch, height, width, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("size", "exact"), [((64, 32), True), ((96, 48), True), ((50, 20), False), ((127, 31), False)]
)
def test_images_are_those_of_pil(size: tuple[int, int], exact: bool) -> None:
    """In both forms to 1 of 255, where a number lies next to a half."""
    images = store_images()
    height, width = size
    by_pil = [
        np.array(Image.fromarray(image.numpy()).resize((width, height), Image.Resampling.BILINEAR))
        for image in images
    ]
    expected = torch.from_numpy(np.stack(by_pil)).permute(0, 3, 1, 2)
    kept = images.clone()
    result = resized(images.unbind(), height, width)
    assert torch.equal(resized(images.permute(0, 3, 1, 2), height, width), result)
    assert torch.equal(result, expected) or not exact
    assert result.is_contiguous(memory_format=torch.channels_last)
    products = by_products(images.permute(0, 3, 1, 2), height, width)
    assert products.dtype == torch.uint8
    assert products.is_contiguous(memory_format=torch.channels_last)
    for made in (result, products):
        difference = (made.int() - expected.int()).abs()
        assert difference.max() <= 1
        assert (difference > 0).double().mean() < 0.02
    assert torch.equal(images, kept)


def test_an_image_of_the_size_of_the_store_is_taken_as_it_is() -> None:
    images = store_images()
    assert torch.equal(resized(images.unbind(), 128, 64), images.permute(0, 3, 1, 2))
