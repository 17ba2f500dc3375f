"""The augmentation and each of its operations, in both forms, against naive references on the same draws."""

import math
import random

import pytest
import torch

from reid.data.augment import (
    Augmentation,
    BatchShape,
    Normalise,
    Operation,
    Part,
    RandomCrop,
    RandomErasing,
    RandomFlip,
    erasing_boxes,
    images_of,
    normalise_pixels,
    pixel_rows,
)
from reid.normalisation import IMAGENET

CPU = torch.device("cpu")
FORMS = ("at_once", "one_by_one")
BATCH, HEIGHT, WIDTH = 16, 24, 12


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uint8_images(
    batch: int = BATCH, height: int = HEIGHT, width: int = WIDTH, low: int = 0, seed: int = 1
) -> torch.Tensor:
    """As the store reads them: channels last in memory."""
    shape = (batch, height, width, 3)
    return torch.randint(low, 256, shape, dtype=torch.uint8, generator=generator(seed)).permute(0, 3, 1, 2)


def apply(
    operation: Operation, images: torch.Tensor, draws: torch.Generator, form: str = "at_once"
) -> torch.Tensor:
    """(B, 3, H, W) through one operation, in the form of a GPU or in that of a CPU."""
    batch, _, height, width = images.shape
    drawn = operation.draw(BatchShape(Part.of(batch), height, width, CPU), draws)
    pixels = pixel_rows(images)
    if form == "at_once":
        return images_of(operation.at_once(pixels, drawn))
    places = torch.empty(pixels.shape).unbind()
    each = operation.one_by_one(pixels.clone().unbind(), drawn, places)
    return images_of(torch.stack([image.clone() for image in each]))


def naive_normalised(image: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in IMAGENET)
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
            result[:, top : top + h, left : left + w] = torch.tensor(IMAGENET.mean).view(3, 1, 1)
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


@pytest.mark.parametrize("operation", Augmentation(padding=3).operations, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("seed", range(3))
def test_the_two_forms_of_each_operation_are_one(operation: Operation, seed: int) -> None:
    images = uint8_images(seed=seed)
    images = normalise_pixels(images) if isinstance(operation, RandomErasing) else images
    images = images.float() if isinstance(operation, Normalise) else images
    kept = images.clone()
    at_once, one_by_one = (apply(operation, images, generator(seed), form) for form in FORMS)
    torch.testing.assert_close(at_once.float(), one_by_one.float(), rtol=0, atol=1e-6)
    assert torch.equal(images, kept)


@pytest.mark.parametrize("form", FORMS)
def test_a_flip_is_a_mirror_from_left_to_right(form: str) -> None:
    images = uint8_images(batch=400, height=4, width=6)
    assert torch.equal(apply(RandomFlip(1.0), images, generator(), form), images.flip(3))
    assert torch.equal(apply(RandomFlip(0.0), images, generator(), form), images)
    result = apply(RandomFlip(0.5), images, generator(), form)
    mirrored = (result == images.flip(3)).flatten(1).all(dim=1)
    same = (result == images).flatten(1).all(dim=1)
    assert (mirrored ^ same).all()
    assert mirrored.double().mean().item() == pytest.approx(0.5, abs=0.09)


def test_the_padding_is_black_before_normalisation_and_the_fill_comes_after() -> None:
    """White images: what is neither white nor fill is padding, and that is a normalised 0."""
    images = torch.full((64, 3, 32, 16), 255, dtype=torch.uint8)
    result = Augmentation()(images, generator()).permute(0, 2, 3, 1)
    white, black = (naive_normalised(torch.full((3, 1, 1), v)).flatten().float() for v in (255, 0))
    fill = torch.tensor(IMAGENET.mean)
    kinds = torch.stack([(result - colour).abs().amax(dim=3) < 1e-5 for colour in (white, black, fill)])
    assert (kinds.sum(dim=0) == 1).all()
    assert kinds.flatten(1).any(dim=1).all()


@pytest.mark.parametrize("form", FORMS)
def test_offsets_are_uniform_over_all_windows_and_independent(form: str) -> None:
    """One white pixel in the middle shows where the window was cut."""
    padding, batch = 2, 10_000
    images = torch.zeros(batch, 3, 9, 9, dtype=torch.uint8)
    images[:, :, 4, 4] = 255
    where = apply(RandomCrop(padding), images, generator(), form)[:, 0].nonzero()
    assert len(where) == batch
    top, left = where[:, 1] - 2, where[:, 2] - 2
    counts = (top * 5 + left).bincount(minlength=25)
    assert len(counts) == 25
    chi_square = ((counts - batch / 25) ** 2 / (batch / 25)).sum()
    assert chi_square < 51.2, "24 degrees of freedom: exceeded once in a thousand"


@pytest.mark.parametrize("form", FORMS)
def test_a_crop_of_padding_0_is_the_image_and_draws_nothing(form: str) -> None:
    images, draws = uint8_images(), generator()
    assert torch.equal(apply(RandomCrop(0), images, draws, form).byte(), images)
    assert torch.equal(draws.get_state(), generator().get_state())


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
def test_the_form_of_a_cpu_gives_what_the_form_of_a_gpu_gives(augmentation: Augmentation) -> None:
    images = uint8_images()
    before = images.clone()
    result, expected = augmentation(images, generator(5)), augmentation.at_once(images, generator(5))
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)
    assert torch.equal(images, before)
    apart = [image.permute(1, 2, 0).contiguous() for image in images]
    assert torch.equal(augmentation(apart, generator(5)), result)


# ---- random erasing, against a scalar reading of the published loop


def boxes(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return erasing_boxes(count, height, width, generator(seed), CPU)


def naive_box(height: int, width: int, dice: random.Random) -> tuple[int, int, int, int] | None:
    """One box as the published code draws it: (top, left, h, w), or None after 100 tries."""
    for _ in range(100):
        area = dice.uniform(0.02, 0.4) * height * width
        ratio = dice.uniform(0.3, 1 / 0.3)
        h = round(math.sqrt(area * ratio))
        w = round(math.sqrt(area / ratio))
        if h < height and w < width:
            return dice.randint(0, height - h), dice.randint(0, width - w), h, w
    return None


@pytest.mark.parametrize(("height", "width"), [(256, 128), (64, 32), (16, 200), (9, 9)])
def test_boxes_lie_in_the_image(height: int, width: int) -> None:
    drawn = boxes(4000, height, width)
    assert (drawn >= 0).all()
    top, left, h, w = drawn.T
    assert ((h < height) & (w < width)).all()
    assert ((top + h <= height) & (left + w <= width)).all()


@pytest.mark.parametrize(("height", "width"), [(256, 128), (40, 40)])
def test_sizes_and_corners_are_distributed_as_published(height: int, width: int) -> None:
    dice = random.Random(1)
    naive = torch.tensor([naive_box(height, width, dice) for _ in range(20_000)], dtype=torch.float64)
    ours = boxes(20_000, height, width).double()
    quantiles = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)

    def summary(drawn: torch.Tensor) -> torch.Tensor:
        top, left, h, w = drawn.T
        area, ratio = h * w / (height * width), h / w
        columns = (area, ratio, h / height, w / width, top / height, left / width)
        return torch.stack([torch.cat([c.quantile(quantiles), c.mean().view(1)]) for c in columns])

    assert torch.allclose(summary(ours), summary(naive), rtol=0.04, atol=0.015)
    # The ratio is drawn uniformly and not log-uniformly, so most boxes are taller than wide.
    assert (ours[:, 2] > ours[:, 3]).double().mean() > 0.6


@pytest.mark.slow
def test_corners_are_uniform_over_all_places_that_fit() -> None:
    """In 12 x 12 pixels, boxes 9 high fit at 4 places: the first and the last as often as those between."""
    top, left, h, w = boxes(60_000, 12, 12).T
    for corner, side in ((top, h), (left, w)):
        places = corner[side == 9].bincount()
        assert len(places) == 4
        expected = places.sum() / 4
        chi_square = ((places - expected) ** 2 / expected).sum()
        assert chi_square < 16.3, "three degrees of freedom: exceeded once in a thousand"


def test_a_shape_where_boxes_rarely_fit_gives_a_fitting_box_or_none() -> None:
    """4 x 320: 3 pixels high at most, so that most images get no box in 100 tries and some do."""
    dice = random.Random(2)
    naive = [naive_box(4, 320, dice) is None for _ in range(2000)]
    _, _, h, w = boxes(2000, 4, 320).T
    none = (h == 0) & (w == 0)
    assert ((h > 0) == (w > 0)).all()
    assert none.double().mean() == pytest.approx(sum(naive) / 2000, abs=0.06)
    assert (h < 4).all()


def test_a_shape_where_none_fits_stays_whole() -> None:
    images = torch.randn(8, 3, 2, 800)
    assert boxes(100, 2, 800)[:, 2:].sum() == 0
    assert torch.equal(apply(RandomErasing(1.0), images, generator()), images)


def erased(
    images: torch.Tensor, fill: str, probability: float = 1.0, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    result = apply(RandomErasing(probability, fill), images, generator(seed))
    return result, (result != images).any(dim=1)


@pytest.mark.parametrize(("fill", "value"), [("published", IMAGENET.mean), ("zero", (0.0, 0.0, 0.0))])
def test_one_box_of_every_image_gets_the_fill(fill: str, value: tuple[float, ...]) -> None:
    images = torch.randn(32, 3, 32, 16)
    result, changed = erased(images, fill)
    for index in range(32):
        y, x = changed[index].nonzero().T
        box = result[index, :, y.min() : y.max() + 1, x.min() : x.max() + 1]
        assert box.shape[1] * box.shape[2] == len(y), "what changed is one whole box"
        assert torch.equal(box, torch.tensor(value).view(3, 1, 1).expand_as(box))


def test_noise_is_standard_normal_and_of_every_pixel() -> None:
    images = torch.full((64, 3, 32, 16), 100.0)
    result, changed = erased(images, "noise")
    values = result.permute(0, 2, 3, 1)[changed]
    assert values.mean().item() == pytest.approx(0, abs=0.03)
    assert values.std().item() == pytest.approx(1, abs=0.03)
    assert values.unique().numel() > 0.99 * values.numel()


def test_the_boxes_are_those_of_erasing_boxes() -> None:
    images = torch.ones(16, 3, 24, 12)
    _, changed = erased(images, "zero", seed=4)
    draws = generator(4)
    torch.rand(16, generator=draws)  # who is erased
    for index, (top, left, h, w) in enumerate(erasing_boxes(16, 24, 12, draws, CPU).tolist()):
        expected = torch.zeros(24, 12, dtype=torch.bool)
        expected[top : top + h, left : left + w] = True
        assert torch.equal(changed[index], expected)


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_probability(probability: float) -> None:
    images = torch.randn(4000, 3, 8, 8)
    _, changed = erased(images, "zero", probability)
    share = changed.flatten(1).any(dim=1).double().mean().item()
    assert share == pytest.approx(probability, abs=0.03 if 0 < probability < 1 else 0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_input_stays_and_the_memory_format_does_not_matter(layout: torch.memory_format) -> None:
    images = torch.randn(8, 3, 16, 8).contiguous(memory_format=layout)
    kept = images.clone()
    result, _ = erased(images, "published", 0.5)
    assert torch.equal(images, kept)
    other, _ = erased(images.contiguous(memory_format=torch.channels_last), "published", 0.5)
    assert torch.equal(result, other)
