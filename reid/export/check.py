"""Whether a graph gives the features of its model: on the suite's own pixels, and on a program's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from reid.data.augment import normalise_pixels
from reid.distance import normalise
from reid.errors import RunError
from reid.export.graph import Graph
from reid.export.pixels import Crop, given, suite_images, tool_images
from reid.export.target import Target, target_named, target_names
from reid.judging.stored_threshold import FeatureSpace
from reid.models import ReidModel
from reid.normalisation import Normalisation

#: Between features of a graph in float32 and PyTorch's: the largest difference, as a share of the largest
#: number of a feature where that is above 1.
MOST_DIFFERENCE = 1e-5
#: Mean cosine, through the program's own resize, below which a file is refused.
LEAST_COSINE = 0.98
#: One, as trackers often have it, and another, since a number of images may have become a constant.
BATCHES = (1, 5)


class ExportError(RunError):
    """A file that would not give its target's program the features of the model, and why."""


@dataclass(frozen=True)
class Check:
    """What a graph was found to give.

    Attributes:
        difference: largest from PyTorch on the suite's own pixels, see MOST_DIFFERENCE.
        same_pixels: mean cosine to the suite's features, on the suite's own pixels.
        cosine_min, cosine_mean: the same on the pixels that the target's program makes of the crops.
        crops: how many were looked at.
    """

    difference: float
    same_pixels: float
    cosine_min: float
    cosine_mean: float
    crops: int


@torch.inference_mode()
def suite_features(model: ReidModel, images: Tensor, space: FeatureSpace) -> Tensor:
    """uint8 images (N, 3, H, W) -> (N, D) float32, as the suite compares them in this space."""
    device = next(model.parameters()).device
    pixels = normalise_pixels(images, model.normalisation).to(device)
    features: Tensor = model(pixels).float()
    if space.flip:
        features = (features + model(pixels.flip(3)).float()) / 2
    return (normalise(features) if space.feature_norm else features).cpu()


def check_graph(
    graph: Graph,
    model: ReidModel,
    space: FeatureSpace,
    target: Target,
    crops: Sequence[Crop],
    size: tuple[int, int],
    exact: bool = True,
) -> Check:
    """Compare a graph with its model on crops, five or more.

    model: in evaluation mode, with the feature that the space names.
    size: height and width of the images that the model takes.
    exact: whether the graph computes as PyTorch does, in float32.

    Raises:
        ExportError: it differs by more than rounding, or the program would get other features; the message
            names the likely cause.
    """
    images = suite_images(crops, *size)
    expected = suite_features(model, images, space)
    found = torch.from_numpy(graph(given(images, target)))
    if found.shape != expected.shape:
        raise ExportError(
            f"the graph gives features of shape {tuple(found.shape)}, expected {tuple(expected.shape)}: it "
            "was made of another model"
        )
    same_pixels = _cosines(found, expected)
    cosines = _cosines(torch.from_numpy(graph(given(tool_images(crops, target, *size), target))), expected)
    mean = float(cosines.mean())
    if not mean >= LEAST_COSINE:  # NaN is refused too
        cosine = float(same_pixels.mean())
        cause = _cause(graph, model.normalisation, target, images, expected, cosine, crops, size)
        raise ExportError(
            f"{target.program} would get features with a mean cosine of {mean:.3f} to those of the model "
            f"({len(crops)} crops, least {float(cosines.min()):.3f}; {LEAST_COSINE} is needed). {cause}"
        )
    # What the program divides by its norm is compared so, what it takes as it is, as it is.
    unit = space.feature_norm and target.normalises
    difference = max(
        _difference(torch.from_numpy(graph(given(images[:count], target))), expected[:count], unit)
        for count in BATCHES
    )
    if exact and not difference <= MOST_DIFFERENCE:
        raise ExportError(
            f"the graph differs from PyTorch by {difference:.1e} on the same pixels, {MOST_DIFFERENCE:.0e} "
            f"is allowed, though the mean cosine is {mean:.4f}: a layer does not compute what PyTorch's does"
        )
    return Check(difference, float(same_pixels.mean()), float(cosines.min()), mean, len(crops))


def _cosines(first: Tensor, second: Tensor) -> Tensor:
    return functional.cosine_similarity(first.double(), second.double(), dim=1)


def _difference(found: Tensor, expected: Tensor, unit: bool) -> float:
    if unit:
        found = normalise(found)
    return float((found - expected).abs().max() / max(1.0, float(expected.abs().max())))


def _cause(
    graph: Graph,
    normalisation: Normalisation,
    target: Target,
    images: Tensor,
    expected: Tensor,
    same_pixels: float,
    crops: Sequence[Crop],
    size: tuple[int, int],
) -> str:
    """Why the program gets other features, in a sentence or two."""
    for name in target_names():
        other = target_named(name)
        if other.inside(normalisation) == target.inside(normalisation):
            continue
        if float(_cosines(torch.from_numpy(graph(given(images, other))), expected).mean()) >= LEAST_COSINE:
            return (
                f"The likely cause: the graph was made for another program. It expects {other.pixels}, as "
                f"{other.program} gives them, and {target.program} gives {target.pixels}. Export the model "
                f"again with --for {target.name}"
            )
    if same_pixels >= LEAST_COSINE:
        height, width = (int(np.median([crop.shape[side] for crop in crops])) for side in (0, 1))
        return (
            f"The likely cause: the resize. On the suite's own pixels the mean cosine is {same_pixels:.3f}, "
            f"but {target.program} makes crops of about {height} x {width} pixels into {size[0]} x {size[1]} "
            "without antialiasing. Train with image.height and image.width nearer to the size of the crops"
        )
    return (
        f"The likely cause: the graph itself, since the mean cosine is {same_pixels:.3f} on the suite's "
        "own pixels too. In int8, calibrate on crops like those of use (--calibration), or export float32"
    )
