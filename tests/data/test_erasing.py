"""Random erasing against a scalar reading of the published loop."""

import math
import random

import pytest
import torch

from reid.data.erasing import PUBLISHED_FILL, erasing_boxes, random_erasing

CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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
    assert torch.equal(random_erasing(images, 1.0, "published", generator()), images)


def erased(
    images: torch.Tensor, fill: str, probability: float = 1.0, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    result = random_erasing(images, probability, fill, generator(seed))
    return result, (result != images).any(dim=1)


@pytest.mark.parametrize(("fill", "value"), [("published", PUBLISHED_FILL), ("zero", (0.0, 0.0, 0.0))])
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
