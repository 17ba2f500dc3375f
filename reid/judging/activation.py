"""Where in a crop its feature comes from, without gradients."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from reid.models import ReidModel

CHUNK_BYTES = 64 * 2**20


@torch.inference_mode()
def activation_map(model: ReidModel, image: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """How much each place of a crop contributes to its feature: (h, w) float32 on the CPU, in [0, 1].

    With f the feature of the crop and f_p the feature that the head gives where the place p of the last
    feature map is emptied (set to 0), the contribution of p is the share of f that goes with it,

        <f, f - f_p> / <f, f>,

    cut off at 0 below (a place that pulls the feature elsewhere) and divided by the largest of the crop. For
    a mean over the map x and a neck that scales each channel by a, this is <f, a x_p> / (places <f, f>):
    whether a place points where the feature points, and how strongly. It needs the head alone, so it holds
    for every pooling, and for stripes. The map of the places is enlarged bilinearly.

    A map of one place, such as a transformer's class token, says nothing: the result is 1 everywhere.

    A place of the last map has seen much of the crop around it, all of it in a transformer: this is where
    the evidence is kept, which is about where it was found. A spatial transformer in front draws the crop
    anew, and the places are those of its drawing.

    Args:
        model: in evaluation mode; the feature is that of its `eval_feature`.
        image: (1, 3, H, W), as the model takes it (`normalise_pixels`), on its device.
        size: height and width of the result; None: those of `image`.

    Raises:
        ValueError: the model is in training mode, or it is not one image.
    """
    if model.training:
        raise ValueError("the model is in training mode; call eval() first")
    if image.ndim != 4 or len(image) != 1:
        raise ValueError(f"image has the shape {tuple(image.shape)}; expected one image, (1, 3, H, W)")
    places = model.backbone(image).float()
    height, width = places.shape[2:]
    feature = model.head(places).double()
    emptied_at_once = max(1, CHUNK_BYTES // (places.numel() * places.itemsize))
    contributions = []
    for numbers in torch.arange(height * width, device=image.device).split(emptied_at_once):
        emptied = places.repeat(len(numbers), 1, 1, 1)
        emptied.flatten(2)[torch.arange(len(numbers), device=image.device), :, numbers] = 0
        contributions.append((feature - model.head(emptied).double()) @ feature[0])
    found = torch.cat(contributions).clamp_(min=0).view(1, 1, height, width)
    found /= found.max().clamp(min=torch.finfo(found.dtype).tiny)
    enlarged = functional.interpolate(
        found.float(), size or tuple(image.shape[2:]), mode="bilinear", align_corners=False
    )
    return enlarged[0, 0].clamp_(0, 1).cpu()
