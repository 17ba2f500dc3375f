"""What each program gives to a graph, and the resize that trackers have, with numbers worked by hand."""

import numpy as np
import pytest
import torch

from reid.data.augment import normalise_pixels
from reid.export.pixels import given, opencv_resize, suite_images, suite_resize
from reid.export.target import target_named, target_names
from reid.normalisation import IMAGENET


def test_the_four_programs() -> None:
    assert target_names() == ("boxmot", "deepstream", "onnxruntime", "ultralytics")
    with pytest.raises(ValueError, match=r"no target 'botsort': expected one of boxmot, deepstream, .*"):
        target_named("botsort")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("boxmot", [(51 / 255 - 0.485) / 0.229, (102 / 255 - 0.456) / 0.224, (255 / 255 - 0.406) / 0.225]),
        ("ultralytics", [0.2, 0.4, 1.0]),
        ("deepstream", [51, 102, 255]),
        ("onnxruntime", [51, 102, 255]),
    ],
)
def test_what_a_program_gives(name: str, expected: list[float]) -> None:
    pixel = torch.tensor([51, 102, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    np.testing.assert_allclose(given(pixel, target_named(name)).flatten(), expected, rtol=1e-6)


@pytest.mark.parametrize("name", target_names())
def test_what_is_inside_a_graph_makes_the_suites_pixels_of_it(name: str) -> None:
    images = torch.randint(0, 256, (2, 3, 5, 4), dtype=torch.uint8)
    target = target_named(name)
    values, inside = torch.from_numpy(given(images, target)), target.inside(IMAGENET)
    if inside is not None:
        scale, shift = (torch.tensor(channels).view(3, 1, 1) for channels in inside)
        values = values * scale + shift
    torch.testing.assert_close(values, normalise_pixels(images).contiguous(), rtol=1e-6, atol=2e-6)
    assert (inside is None) == (name == "boxmot")


@pytest.mark.parametrize(
    ("row", "width", "expected"),
    [
        # cv2.resize(row, (width, 1), interpolation=cv2.INTER_LINEAR) of OpenCV 5.0
        ([0, 255], 4, [0, 64, 191, 255]),
        ([0, 10, 20, 30], 2, [5, 25]),
        ([0, 10, 20, 30, 40, 50, 60, 70], 2, [15, 55]),  # half of the pixels have no part in it
        ([0, 0, 0, 80, 0, 0, 0, 80], 2, [0, 0]),
    ],
)
def test_trackers_resize_without_antialiasing(row: list[int], width: int, expected: list[int]) -> None:
    crop = np.repeat(np.array(row, np.uint8)[None, :, None], 3, axis=2)
    assert opencv_resize(crop, 1, width)[0, 0].tolist() == expected


def test_the_suite_averages_what_it_makes_smaller() -> None:
    crop = np.repeat(np.array([0, 0, 0, 80, 0, 0, 0, 80], np.uint8)[None, :, None], 3, axis=2)
    assert suite_resize(crop, 1, 2)[0, 0].tolist() != [0, 0]
    assert suite_images([crop, crop], 4, 2).shape == (2, 3, 4, 2)
