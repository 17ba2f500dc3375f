"""The operations that a run may add, in both forms, against naive references on the same draws."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from composing import settings_of
from torchvision import transforms
from torchvision.transforms.v2 import functional

from reid.config.checks import ConfigError
from reid.data.augment import Augmentation, BatchShape, Operation, Part, images_of, pixel_rows
from reid.data.blur import RandomBlur
from reid.data.colour import LUMA, RandomColour, colour_matrix
from reid.data.policies import _IMAGENET, _KERNELS, STRONGEST, RandomPolicy, strength
from reid.data.random_patch import RandomPatch
from reid.engine.augmentation import check_processes, training_augmentation
from reid.normalisation import IMAGENET

CPU = torch.device("cpu")
BATCH, HEIGHT, WIDTH = 12, 24, 12
FIRST: tuple[Operation, ...] = (
    RandomPatch(0.8),
    RandomPolicy("autoaugment", 0.8),
    RandomPolicy("randaugment", 0.8, 3, 20),
)
COLOURED: tuple[Operation, ...] = (
    RandomColour(0.7, 0.4, 0.4, 0.4, 0.3, 0.3),
    RandomBlur(0.6, 1.5),
)


def once(operation: Operation) -> Operation:
    """The same with draws for a batch."""
    return type(operation)(**{**vars(operation), "for_each": False})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uint8_images(batch: int = BATCH, seed: int = 1) -> torch.Tensor:
    """Smooth ones, channels last in memory."""
    small = torch.rand(batch, 3, 6, 3, generator=generator(seed))
    large = torch.nn.functional.interpolate(small, (HEIGHT, WIDTH), mode="bicubic").clamp(0, 1)
    return (255 * large).byte().contiguous(memory_format=torch.channels_last)


def shape_of(images: torch.Tensor, part: Part | None = None) -> BatchShape:
    return BatchShape(part or Part.of(len(images)), images.shape[2], images.shape[3], CPU)


def apply(operation: Operation, images: torch.Tensor, form: str, seed: int = 0) -> torch.Tensor:
    """(B, 3, H, W) through one operation."""
    drawn = operation.draw(shape_of(images), generator(seed))
    pixels = pixel_rows(images)
    if form == "at_once":
        return images_of(operation.at_once(pixels, drawn)).float()
    places = torch.empty(pixels.shape).unbind()
    each = operation.one_by_one(pixels.clone().unbind(), drawn, places)
    return images_of(torch.stack([image.clone().float() for image in each]))


@pytest.mark.parametrize("form_of_chance", [lambda one: one, once], ids=["image", "batch"])
@pytest.mark.parametrize("operation", FIRST + COLOURED, ids=lambda one: type(one).__name__)
def test_the_two_forms_of_each_operation_are_one(operation: Operation, form_of_chance: object) -> None:
    operation = form_of_chance(operation)  # type: ignore[operator]
    changed = 0
    for seed in range(4):
        images = uint8_images(seed=seed)
        kept = images.clone()
        at_once, one_by_one = (apply(operation, images, form, seed) for form in ("at_once", "one_by_one"))
        torch.testing.assert_close(at_once, one_by_one, rtol=0, atol=2e-3)
        assert torch.equal(images, kept)
        assert at_once.min() >= 0
        assert at_once.max() <= 255.01
        changed += int((at_once != images.float()).any())
    assert changed


@pytest.mark.parametrize("for_each", [True, False])
def test_the_whole_augmentation_is_the_same_in_both_forms(for_each: bool) -> None:
    first, coloured = ((one if for_each else once(one) for one in many) for many in (FIRST, COLOURED))
    augmentation = Augmentation(padding=3, fill="noise", first=tuple(first), coloured=tuple(coloured))
    for seed in range(3):
        images = uint8_images(seed=seed)
        kept = images.clone()
        result = augmentation(images, generator(seed))
        torch.testing.assert_close(result, augmentation.at_once(images, generator(seed)), rtol=0, atol=1e-4)
        assert torch.equal(images, kept)
        apart = [image.permute(1, 2, 0).contiguous() for image in images]
        assert torch.equal(augmentation(apart, generator(seed)), result)


def test_parts_of_a_batch_come_out_as_in_the_whole() -> None:
    for form_of_chance in (lambda one: one, once):
        augmentation = Augmentation(
            padding=3,
            first=tuple(map(form_of_chance, FIRST[1:])),
            coloured=tuple(map(form_of_chance, COLOURED)),
        )
        images = uint8_images()
        whole = augmentation(images, generator(4))
        parts = [Part.of(BATCH, number, 3) for number in range(3)]
        cut = [augmentation(images[part.rows], generator(4), part) for part in parts]
        assert torch.equal(torch.cat(cut), whole)


def test_chance_decides_for_each_image_or_once_for_a_batch() -> None:
    operation = RandomColour(1.0, 0.4, 0.4, 0.4, 0.3, 0.0)
    images = uint8_images(1).expand(BATCH, -1, -1, -1)
    assert len(apply(operation, images, "at_once").unique(dim=0)) == BATCH
    assert len(apply(once(operation), images, "at_once").unique(dim=0)) == 1
    coins = [apply(once(RandomBlur(0.5, 2.0)), images, "one_by_one", seed) for seed in range(20)]
    assert {len(one.unique(dim=0)) for one in coins} == {1}
    assert 3 < sum(torch.equal(one, images.float()) for one in coins) < 17


# ---- colour


def naive_jitter(image: np.ndarray, b: float, c: float, s: float, angle: float) -> np.ndarray:
    """(H, W, 3) of 0 to 255, a step after the other, each pixel by its luma and its two colours of YIQ."""
    luma = np.array(LUMA)
    image = b * image
    image = c * image + (1 - c) * (image @ luma).mean()
    image = s * image + (1 - s) * (image @ luma)[..., None]
    to_yiq = np.array([LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])
    yiq = image @ to_yiq.T
    colours = (yiq[..., 1] + 1j * yiq[..., 2]) * np.exp(1j * angle)
    turned = np.stack([yiq[..., 0], colours.real, colours.imag], -1) @ np.linalg.inv(to_yiq).T
    return turned.clip(0, 255)


@pytest.mark.parametrize("form", ["at_once", "one_by_one"])
def test_a_jitter_is_its_four_steps(form: str) -> None:
    operation = RandomColour(0.8, 0.4, 0.5, 0.6, 0.2, 0.3)
    images = uint8_images()
    result = apply(operation, images, form)
    draws = torch.rand(BATCH, 6, generator=generator()).double().numpy()
    for image, found, (jitter, *drawn, grey) in zip(images, result, draws, strict=True):
        b, c, s, h = (2 * one - 1 for one in drawn)
        expected = image.permute(1, 2, 0).double().numpy()
        if jitter < 0.8:
            expected = naive_jitter(expected, 1 + 0.4 * b, 1 + 0.5 * c, 1 + 0.6 * s, 2 * math.pi * 0.2 * h)
        if grey < 0.3:  # of values that are not yet cut, which pure colours show
            before = image.permute(1, 2, 0).double().numpy()
            if jitter < 0.8:
                mean = (before @ np.array(LUMA)).mean() * (1 + 0.4 * b) * -0.5 * c
                before = before * (1 + 0.4 * b) * (1 + 0.5 * c) + mean
            expected = np.repeat((before @ np.array(LUMA))[..., None], 3, 2).clip(0, 255)
        np.testing.assert_allclose(found.permute(1, 2, 0).numpy(), expected, rtol=0, atol=0.01)


def test_brightness_contrast_and_saturation_are_those_of_torchvision() -> None:
    image = (uint8_images(1)[0].float() / 255 * 0.3 + 0.3).clamp(0, 1)  # so that nothing is cut
    b, c, s = 1.2, 0.8, 1.3
    expected = functional.adjust_saturation(
        functional.adjust_contrast(functional.adjust_brightness(image, b), c), s
    )
    matrix = colour_matrix(torch.tensor([b * c]), torch.tensor([s]), torch.zeros(1))[0]
    offset = (image.mean((1, 2)) * torch.tensor(LUMA)).sum() * b * (1 - c)
    found = torch.einsum("ij,jhw->ihw", matrix, image) + offset
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)  # torchvision's luma has four digits


def test_a_turned_hue_keeps_the_luma_and_a_whole_turn_changes_nothing() -> None:
    turned = colour_matrix(torch.ones(1), torch.ones(1), torch.tensor([1.0]))[0]
    torch.testing.assert_close(torch.tensor(LUMA) @ turned, torch.tensor(LUMA))
    torch.testing.assert_close(turned @ torch.ones(3), torch.ones(3))
    whole = colour_matrix(torch.ones(1), torch.ones(1), torch.tensor([2 * math.pi]))[0]
    torch.testing.assert_close(whole, torch.eye(3), rtol=0, atol=1e-5)


# ---- blur


@pytest.mark.parametrize("form", ["at_once", "one_by_one"])
def test_a_blur_is_that_of_torchvision(form: str) -> None:
    operation, images = RandomBlur(0.7, 1.5), uint8_images()
    result = apply(operation, images, form)
    draws = torch.rand(BATCH, 2, generator=generator())
    for image, found, (coin, width) in zip(images.float(), result, draws.tolist(), strict=True):
        sigma = 0.1 + 1.4 * width
        size = 2 * math.ceil(3 * sigma) + 1
        expected = functional.gaussian_blur(image, [size, size], [sigma, sigma]) if coin < 0.7 else image
        torch.testing.assert_close(found, expected, rtol=0, atol=0.01)


# ---- policies

#: Torchvision's names of the operations that have another here.
THEIRS = {
    "saturation": "Color", "shear_x": "ShearX", "shear_y": "ShearY", "translate_x": "TranslateX",
    "translate_y": "TranslateY", "autocontrast": "AutoContrast",
}  # fmt: skip


def theirs(name: str) -> str:
    return THEIRS.get(name, name.capitalize())


def test_the_table_of_autoaugment_is_that_of_torchvision() -> None:
    reference = transforms.AutoAugment(transforms.AutoAugmentPolicy.IMAGENET).policies
    ours = [tuple((theirs(name), chance, level) for name, chance, level in pair) for pair in _IMAGENET]
    assert ours == list(reference)


@pytest.mark.parametrize("bins", [10, STRONGEST + 1])
def test_strengths_are_those_of_torchvision(bins: int) -> None:
    space = (
        transforms.AutoAugment()._augmentation_space(bins, (HEIGHT, WIDTH))
        if bins == 10
        else transforms.RandAugment()._augmentation_space(bins, (HEIGHT, WIDTH))
    )
    batch = shape_of(uint8_images())
    for name in _KERNELS:
        if theirs(name) not in space:
            continue
        values, signed = space[theirs(name)]
        for step in range(bins) if values.ndim else ():
            expected = float(values[step])
            expected = int(expected) if name.startswith("translate") else expected
            assert strength(name, step / (bins - 1), False, batch) == pytest.approx(expected, abs=1e-4), name
            if signed:
                assert strength(name, step / (bins - 1), True, batch) == pytest.approx(-expected, abs=1e-4)


@pytest.mark.parametrize("kind", ["autoaugment", "randaugment"])
def test_operations_are_drawn_as_often_as_the_table_says(kind: str) -> None:
    operation = RandomPolicy(kind, 1.0, operations=2, magnitude=30)
    count = 4000
    drawn = operation.draw(BatchShape(Part.of(count), HEIGHT, WIDTH, CPU), generator())
    found = Counter(name for steps in drawn for name, _ in steps)
    expected: Counter[str] = Counter()
    for pair in _IMAGENET if kind == "autoaugment" else ():
        for name, probability, _ in pair:
            expected[name] += probability * count / len(_IMAGENET)  # type: ignore[assignment]
    for name in found | expected:
        wanted = expected[name] if kind == "autoaugment" else 2 * count / 14
        assert abs(found[name] - wanted) < 5 * math.sqrt(wanted), name
    angles = [value for steps in drawn for name, value in steps if name == "rotate"]
    assert {angle > 0 for angle in angles} == {True, False}


# ---- random patches


@pytest.mark.parametrize("form", ["at_once", "one_by_one"])
def test_a_patch_is_a_piece_of_another_image_as_the_store_has_it(form: str) -> None:
    operation, images = RandomPatch(0.5), uint8_images()
    drawn = operation.draw(shape_of(images), generator(3))
    expected = images.clone()
    boxes = zip(*(one.tolist() for one in drawn), strict=True)
    for number, ((top, left, h, w), (down, right), source, mirrored) in enumerate(boxes):
        assert source != number
        for y in range(h):
            for x in range(w):
                column = left + (w - 1 - x if mirrored else x)
                expected[number, :, down + y, right + x] = images[source, :, top + y, column]
    assert torch.equal(apply(operation, images, form, 3), expected.float())
    assert 0 < sum(h > 0 for _, _, h, _ in drawn.box.tolist()) < BATCH


# ---- from the config


def test_what_is_off_is_not_there_and_draws_nothing() -> None:
    settings = settings_of("dataset=synthetic")
    augmentation = training_augmentation(settings, IMAGENET)
    assert augmentation == Augmentation()
    assert [type(one).__name__ for one in augmentation.operations] == [
        "RandomFlip", "RandomCrop", "Normalise", "RandomErasing",
    ]  # fmt: skip


def test_patches_need_a_batch_in_one_process() -> None:
    settings = settings_of("dataset=synthetic", "augment.random_patch=0.5")
    check_processes(settings, 1)
    with pytest.raises(ConfigError, match=r"augment.random_patch=0.5 with 2 processes: a patch comes from"):
        check_processes(settings, 2)


def test_a_key_without_its_operation_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"augment.hue=0.2 does nothing with augment.colour=0"):
        settings_of("dataset=synthetic", "augment.hue=0.2")
    with pytest.warns(UserWarning, match=r"augment.magnitude=3 does nothing with augment.policy=autoaugment"):
        settings_of("dataset=synthetic", "augment.policy=autoaugment", "augment.magnitude=3")
