"""The augmentation, batch by batch, against the same draws applied to one image at a time."""

import pytest
import torch

from reid.data.augment import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Augmentation,
    normalise_pixels,
    random_crop,
    random_flip,
)
from reid.data.erasing import PUBLISHED_FILL, erasing_boxes, random_erasing
from reid.data.part import Part

BATCH, HEIGHT, WIDTH = 16, 24, 12


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uint8_images(
    batch: int = BATCH, height: int = HEIGHT, width: int = WIDTH, low: int = 0, seed: int = 1
) -> torch.Tensor:
    """As the store reads them: channels last in memory."""
    shape = (batch, height, width, 3)
    return torch.randint(low, 256, shape, dtype=torch.uint8, generator=generator(seed)).permute(0, 3, 1, 2)


def naive_normalised(image: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (image.double() / 255 - mean) / std


def naive_window(image: torch.Tensor, padding: int, top: int, left: int) -> torch.Tensor:
    _, height, width = image.shape
    padded = torch.zeros(3, height + 2 * padding, width + 2 * padding, dtype=image.dtype)
    padded[:, padding : padding + height, padding : padding + width] = image
    return padded[:, top : top + height, left : left + width]


def naive_augmentation(images: torch.Tensor, draws: torch.Generator, padding: int) -> torch.Tensor:
    """The published order, an image at a time, on the draws that the batch makes."""
    batch, _, height, width = images.shape
    flipped = torch.rand(batch, generator=draws) < 0.5
    offsets = torch.randint(2 * padding + 1, (2, batch), generator=draws)
    erased = torch.rand(batch, generator=draws) < 0.5
    boxes = erasing_boxes(batch, height, width, draws, torch.device("cpu"))
    results = []
    for index, image in enumerate(images):
        mirrored = image.flip(2) if flipped[index] else image
        window = naive_window(mirrored, padding, int(offsets[0, index]), int(offsets[1, index]))
        result = naive_normalised(window)
        if erased[index]:
            top, left, h, w = boxes[index].tolist()
            result[:, top : top + h, left : left + w] = torch.tensor(PUBLISHED_FILL).view(3, 1, 1)
        results.append(result)
    return torch.stack(results)


@pytest.mark.parametrize("padding", [1, 4, 10])
@pytest.mark.parametrize("seed", range(4))
def test_the_batch_equals_a_loop_over_its_images(padding: int, seed: int) -> None:
    images = uint8_images(seed=seed)
    result = Augmentation(padding=padding)(images, generator(seed))
    assert torch.allclose(
        result.double(), naive_augmentation(images, generator(seed), padding), rtol=0, atol=1e-6
    )


def test_result_is_float32_with_channels_last_and_the_input_is_left_alone() -> None:
    for layout in (torch.channels_last, torch.contiguous_format):
        images = uint8_images().contiguous(memory_format=layout)
        kept = images.clone()
        result = Augmentation()(images, generator())
        assert torch.equal(images, kept)
        assert result.dtype == torch.float32
        assert result.shape == images.shape
        assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_nothing_but_normalisation_when_all_is_off(layout: torch.memory_format) -> None:
    images = uint8_images().contiguous(memory_format=layout)
    kept = images.clone()
    result = Augmentation(flip=0, padding=0, erasing=0)(images, generator())
    assert torch.equal(result, normalise_pixels(images))
    assert torch.equal(images, kept)


def test_one_generator_state_is_one_batch() -> None:
    images = uint8_images()
    augmentation = Augmentation()
    draws = generator(3)
    first, second = augmentation(images, draws), augmentation(images, draws)
    assert torch.equal(first, augmentation(images, generator(3)))
    assert not torch.equal(first, second)


def test_normalisation_is_the_formula_for_every_grey_level() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    expected = naive_normalised(levels[0])
    assert torch.allclose(normalise_pixels(levels)[0].double(), expected, rtol=0, atol=1e-6)


def test_a_flip_is_a_mirror_from_left_to_right() -> None:
    images = uint8_images(batch=400, height=4, width=6)
    assert torch.equal(random_flip(images, 1.0, generator()), images.flip(3))
    assert torch.equal(random_flip(images, 0.0, generator()), images)
    result = random_flip(images, 0.5, generator())
    mirrored = (result == images.flip(3)).flatten(1).all(dim=1)
    same = (result == images).flatten(1).all(dim=1)
    assert (mirrored ^ same).all()
    assert mirrored.double().mean().item() == pytest.approx(0.5, abs=0.09)


def test_the_padding_is_black_before_normalisation_and_the_fill_comes_after() -> None:
    """White images: what is neither white nor fill is padding, and that is a normalised 0."""
    images = torch.full((64, 3, 32, 16), 255, dtype=torch.uint8)
    result = Augmentation()(images, generator()).permute(0, 2, 3, 1)
    white, black = (naive_normalised(torch.full((3, 1, 1), v)).flatten().float() for v in (255, 0))
    fill = torch.tensor(PUBLISHED_FILL)
    kinds = torch.stack([(result - colour).abs().amax(dim=3) < 1e-5 for colour in (white, black, fill)])
    assert (kinds.sum(dim=0) == 1).all()
    assert kinds.flatten(1).any(dim=1).all()


def test_offsets_are_uniform_over_all_windows_and_independent() -> None:
    """One white pixel in the middle shows where the window was cut."""
    padding, batch = 2, 10_000
    images = torch.zeros(batch, 3, 9, 9, dtype=torch.uint8)
    images[:, :, 4, 4] = 255
    where = random_crop(images, padding, generator())[:, 0].nonzero()
    assert len(where) == batch
    top, left = where[:, 1] - 2, where[:, 2] - 2
    counts = (top * 5 + left).bincount(minlength=25)
    assert len(counts) == 25
    chi_square = ((counts - batch / 25) ** 2 / (batch / 25)).sum()
    assert chi_square < 51.2, "24 degrees of freedom: exceeded once in a thousand"


def test_a_crop_of_padding_0_is_the_image() -> None:
    images = uint8_images()
    assert torch.equal(random_crop(images, 0, generator()), images)


@pytest.mark.parametrize("fill", ["published", "noise"])
def test_parts_of_a_batch_come_out_as_in_the_whole(fill: str) -> None:
    images, augmentation = uint8_images(), Augmentation(padding=3, fill=fill)
    whole = augmentation(images, generator(4))
    for count in (2, 4):
        parts = [Part.of(BATCH, number, count) for number in range(count)]
        cut = [augmentation(images[part.rows], generator(4), part) for part in parts]
        assert torch.equal(torch.cat(cut), whole)


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(padding=3),
        Augmentation(padding=0, fill="noise"),
        Augmentation(flip=0.0, padding=2 * HEIGHT, fill="zero"),
        Augmentation(flip=1.0, padding=2, erasing=0.0),
    ],
)
def test_image_by_image_as_on_a_cpu_gives_what_the_steps_of_a_gpu_give(augmentation: Augmentation) -> None:
    images, draws = uint8_images(), generator(5)
    expected = random_flip(images, augmentation.flip, draws)
    expected = normalise_pixels(random_crop(expected, augmentation.padding, draws))
    expected = random_erasing(expected, augmentation.erasing, augmentation.fill, draws)
    before = images.clone()
    result = augmentation(images, generator(5))
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)
    assert torch.equal(images, before)
    apart = [image.permute(1, 2, 0).contiguous() for image in images]
    assert torch.equal(augmentation(apart, generator(5)), result)
